"""What the retraining saves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from crnn_search.pipeline import retrain
from crnn_search.storage.trial import TrialRecord
from crnn_search.training import checkpoint, engine
from crnn_search.training.engine import TrainingData
from crnn_search.tuning.checkpoints import CheckpointFolder
from tests.training.test_engine import CPU, SMALL, changed
from tests.tuning import examples


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_model_that_was_validated_is_saved(
    ema: float, tmp_path: Path, training_data: TrainingData
) -> None:
    context = examples.context(tmp_path)
    trial = examples.trial(config=changed(SMALL, ema=ema), epochs=1, all_images=True)
    state = engine.start(trial.config, seed=0, epochs=1, device=CPU)
    data = dataclasses.replace(training_data, epoch_sequences=128)
    history = [engine.train_epoch(state, data).to_dict()]
    context.run.checkpoints.mkdir()
    folder = CheckpointFolder(context.run.checkpoints / trial.name)
    folder.save(trial, state, history)
    place = folder.file(1).relative_to(context.run.root)
    record = TrialRecord(trial, train_loss=[1.0], checkpoint=str(place))
    entry = retrain._save_model(record, context)
    saved, config, _ = checkpoint.load_model(context.run.root / entry["file"])
    assert config == trial.config
    for name, value in state.result.state_dict().items():
        assert torch.equal(saved.state_dict()[name], value)
    weight = state.model.output.weight
    assert torch.equal(saved.output.weight, weight) == (ema == 0)
