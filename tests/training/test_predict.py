from __future__ import annotations

import pytest
import torch

from crnn_search.data.sequences import Digits
from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.training import engine
from crnn_search.training.predict import predict
from tests.conftest import small_table
from tests.training.test_engine import CPU, SMALL


def test_predictions_match_single_sequences(digits: Digits) -> None:
    model = engine.start(MNIST_CRNN_2016, seed=0, epochs=1, device=CPU).model.eval()
    table = small_table(digits, 100)
    expected = torch.empty(len(table))
    with torch.no_grad():
        for row in range(len(table)):
            images = digits.images[table.indices[row, : table.lengths[row]].long()]
            expected[row] = model(images, torch.ones(len(images), dtype=torch.int64))
    torch.testing.assert_close(predict(model, digits, table), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_prediction_restores_the_mode(digits: Digits, training: bool) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model.train(training)
    predict(model, digits, small_table(digits, 10))
    assert model.training is training


def test_failed_prediction_restores_training_mode(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model.train()

    def out_of_memory(*_: object) -> None:
        assert not model.training
        raise MemoryError("no memory for the gates")

    monkeypatch.setattr(model, "decode", out_of_memory)
    with pytest.raises(MemoryError, match="no memory for the gates"):
        predict(model, digits, small_table(digits, 10))
    assert model.training
    assert model.grus.training
