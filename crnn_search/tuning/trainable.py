"""Ray Tune's side of a `Worker`: an actor that trains one trial after another."""

from __future__ import annotations

from typing import Any

import torch
from ray import tune

from crnn_search.cluster.arithmetic import trial_device
from crnn_search.data.task import Task
from crnn_search.storage.trial import Trial
from crnn_search.training import memory
from crnn_search.tuning.epoch_parts import Teller
from crnn_search.tuning.worker import Worker


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one trial; each `step` is one epoch. An actor is used for many trials in turn.

    A `step` always gives an `EpochResult`, except for a CUDA error, which leaves the process
    unusable: it is raised, so that another process takes its place.
    """

    def setup(
        self,
        config: dict[str, Any],
        task: Task | None = None,
        checkpoints: str = "",
        board: Any = None,
    ) -> None:
        """Take the task and the first trial.

        task: from the object store, whose memory its images share; Tune needs a default.
        checkpoints: the folder of all trials' checkpoints, or its URI. board: a `Board`'s handle,
        if somebody watches.
        """
        assert task is not None
        granted = self.trial_resources.required_resources
        device = trial_device(granted.get("GPU", 0.0))
        memory.limit_to(granted.get("GPU", 0.0), device)
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(granted["CPU"])))
        self._worker = Worker(task.to(device), checkpoints, device, Teller(board))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; the task stays."""
        self._worker.take(Trial.from_dict(new_config["trial"]))
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch, or give the last one that another process trained."""
        return self._worker.step().to_dict()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: Ray keeps no checkpoints here."""

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: see `save_checkpoint`."""
