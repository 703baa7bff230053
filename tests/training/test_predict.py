from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from crnn_search.data.digits import Digits
from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.training import engine
from crnn_search.training.predict import GPU_CHUNKS, predict, predict_running
from tests.conftest import small_table
from tests.training.test_engine import CPU, SMALL


def test_predictions_match_single_sequences(digits: Digits) -> None:
    model = engine.start(MNIST_CRNN_2016, seed=0, epochs=1, device=CPU).model.eval()
    table = small_table(digits, 100)
    expected = torch.empty(len(table))
    with torch.no_grad():
        for row in range(len(table)):
            images = digits.pixels[table.indices[row, : table.lengths[row]].long()]
            expected[row] = model(images, torch.ones(len(images), dtype=torch.int64))
    torch.testing.assert_close(predict(model, digits.pixels, table), expected, rtol=1e-5, atol=1e-5)


def test_running_predictions_are_those_of_sequences_cut_there(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    table = small_table(digits, 40)
    encode, encoded = model.encode, list[int]()

    def count_encoded(images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(model, "encode", count_encoded)
    monkeypatch.setattr("crnn_search.training.predict.CPU_CHUNKS", (64, 16))
    running = predict_running(model, digits.pixels, table)
    used = torch.arange(8) < table.lengths[:, None]
    assert sum(encoded) == len(table.indices[used].unique())
    assert running.shape == (40, 8)
    assert running.dtype == torch.float32
    for length in range(1, 9):
        longer = table.lengths >= length
        cut = SequenceTable(
            table.indices[longer], torch.full((int(longer.sum()),), length), table.targets[longer]
        )
        expected = predict(model, digits.pixels, cut)
        torch.testing.assert_close(running[longer, length - 1], expected, rtol=1e-5, atol=1e-5)
    assert running[~used].isnan().all()


@pytest.mark.parametrize("training", [True, False])
def test_prediction_restores_the_mode(digits: Digits, training: bool) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model.train(training)
    predict(model, digits.pixels, small_table(digits, 10))
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
        predict(model, digits.pixels, small_table(digits, 10))
    assert model.training
    assert model.grus.training


def test_features_are_held_once(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is alive when the next one is encoded."""
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    encode, chunks = model.encode, list[weakref.ref[Tensor]]()

    def encode_once(images: Tensor) -> Tensor:
        assert all(chunk() is None for chunk in chunks)
        gates = encode(images)
        chunks.append(weakref.ref(gates))
        return gates

    monkeypatch.setattr(model, "encode", encode_once)
    monkeypatch.setattr("crnn_search.training.predict.CPU_CHUNKS", (64, 64))
    predict(model, digits.pixels, small_table(digits, 100))
    assert len(chunks) > 2


def test_chunks_do_not_change_predictions(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    model, table = engine.start(SMALL, seed=0, epochs=1, device=CPU).model, small_table(digits, 200)
    expected = predict(model, digits.pixels, table)
    monkeypatch.setattr("crnn_search.training.predict.CPU_CHUNKS", GPU_CHUNKS)
    torch.testing.assert_close(predict(model, digits.pixels, table), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_predictions_on_cuda_match_those_of_the_cpu(digits: Digits) -> None:
    model, table = engine.start(SMALL, seed=0, epochs=1, device=CPU).model, small_table(digits, 200)
    expected = predict(model, digits.pixels, table)
    cuda = torch.device("cuda")
    found = predict(model.to(cuda), digits.pixels.to(cuda), table)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
