"""What training any configuration would give: estimated from recorded learning curves.

Logarithms of the RMSE by epoch: a Gaussian process over the hyperparameters, one length for each,
fitted to the last epoch (Rasmussen & Williams 2006, 2.2 and 5.4), and the noise of one training:
how the two trainings of a recorded configuration with two seeds differ, drawn from those whose
configuration is near. Core seconds: fitted to what is counted of a configuration (`counts`), since
two recorded times of one configuration differ by a third: other programs were busy then.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from benchmarks.record_curves import EPOCHS, RAW_EPOCHS, RECORDING
from crnn_search.hyperparameters import MNIST_SHAPE, TrialConfig

NOISE_NEIGHBOURS = 10
CEILING = 30.0
"""Replaces an RMSE that is not finite: far above guessing the mean (11.9)."""


def features(config: dict[str, Any]) -> list[float]:
    """A configuration as numbers of about the same scale, 0 to 1. It may lack names."""
    whole = TrialConfig.from_dict(config).to_dict()
    conv, gru = whole["conv_channels"], whole["gru_sizes"]
    return [
        len(conv) - 3,
        _log(math.prod(conv) ** (1 / len(conv)), 16, 128),
        _log(conv[0], 16, 128),
        _log(conv[-1], 16, 128),
        float(whole["kernel_size"][0] == 5),
        float(whole["pooling"][0] == 3),
        len(gru) - 1,
        _log(math.prod(gru) ** (1 / len(gru)), 32, 160),
        _log(gru[-1], 32, 160),
        whole["feature_dropout"] / 0.4,
        whole["affine"] / 0.8,
        whole["elastic"] / 0.8,
        (whole["max_sequence_length"] - 4) / 4,
        _log(whole["learning_rate"], 1e-3, 3e-2),
        _log(whole["batch_size"], 32, 256),
        _log(whole["reuse"], 2, 4),
        _log(1 - whole["ema"], 0.002, 0.01),
    ]


def _log(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


class Outcome(NamedTuple):
    """What training a configuration gives.

    truth: its RMSE after the last epoch without noise. curve, raw: with the noise of one training,
    by epoch, of averaged and of raw weights; raw ones are NaN but for `RAW_EPOCHS`.
    epoch_s: seconds of an epoch.
    """

    truth: float
    curve: np.ndarray
    raw: np.ndarray
    epoch_s: float


def counts(config: dict[str, Any]) -> list[float]:
    """What an epoch's time depends on, for a sequence: multiplications, images, and batches."""
    spec = TrialConfig.from_dict(config)
    rows, width, conv, pixels = MNIST_SHAPE.rows, MNIST_SHAPE.channels, 0.0, 0.0
    for channels, kernel, pool in spec.model.layers():
        rows -= kernel - 1 if spec.model.padding == "valid" else 0
        conv += rows**2 * kernel**2 * width * channels
        pixels += rows**2 * channels
        rows, width = rows // pool, channels
    gru, inputs = 0.0, width * rows**2
    for size in spec.model.gru_sizes:
        gru += 3 * size * (inputs + size)
        inputs = size
    length = (1 + spec.training.max_sequence_length) / 2
    encoded = length / spec.training.reuse
    return [
        conv * encoded, pixels * encoded, gru * length, encoded, 1.0, 1 / spec.training.batch_size
    ]  # fmt: skip


class Process:
    """A Gaussian process with one kernel for several outputs; see `fitted`.

    x: `(points, features)`. y: `(points, outputs)`. logs: of each feature's length, then of the
    variance of the noise, as a share.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, logs: Tensor) -> None:
        self._x, self._offset = x, y.mean(0)
        self.lengths = logs[:-1].exp().numpy()
        self._inverse = torch.linalg.inv(_covariance(torch.tensor(x), logs)).numpy()
        self._weights = self._inverse @ (y - self._offset)

    @classmethod
    def fitted(cls, x: np.ndarray, y: np.ndarray, output: int) -> Process:
        """With the kernel that makes one output likeliest."""
        points, target = torch.tensor(x), torch.tensor(y[:, [output]] - y[:, [output]].mean(0))
        logs = torch.zeros(x.shape[1] + 1, dtype=torch.float64)
        logs[-1] = math.log(0.05)
        logs.requires_grad_()
        search = torch.optim.LBFGS([logs], max_iter=200, line_search_fn="strong_wolfe")

        def minus_log_likelihood() -> Tensor:
            search.zero_grad()
            lower = torch.linalg.cholesky(_covariance(points, logs))
            # The likeliest variance is put in; constants are left out.
            variance = (target * torch.cholesky_solve(target, lower)).mean()
            loss: Tensor = variance.log() * len(x) / 2 + lower.diagonal().log().sum()
            loss.backward()
            return loss

        step: Callable[[Callable[[], Tensor]], Tensor] = search.step
        step(minus_log_likelihood)
        return cls(x, y, logs.detach())

    def distances(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        """How far each point is from `x`, features in units of their lengths."""
        distance: np.ndarray = np.sqrt((((points - x) / self.lengths) ** 2).sum(1))
        return distance

    def mean(self, x: np.ndarray) -> np.ndarray:
        """All outputs at `x`, without noise."""
        near = np.exp(-(self.distances(self._x, x) ** 2) / 2)
        outputs: np.ndarray = self._offset + near @ self._weights
        return outputs

    def errors(self) -> np.ndarray:
        """Of each point when it is estimated from all others (the book's equation 5.12)."""
        errors: np.ndarray = self._weights / np.diag(self._inverse)[:, None]
        return errors


def _covariance(x: Tensor, logs: Tensor) -> Tensor:
    scaled = x / logs[:-1].exp()
    squares = ((scaled[:, None] - scaled[None]) ** 2).sum(-1)
    return torch.exp(-squares / 2) + logs[-1].exp() * torch.eye(len(x), dtype=x.dtype)


class Landscape:
    """Recorded learning curves, and an estimate for every configuration."""

    def __init__(self, path: Path) -> None:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        first = {r["number"]: r for r in records if r["seed"] == 0}
        pairs = [
            (first[r["number"]], r) for r in records if r["seed"] == 1 and r["number"] in first
        ]
        self.x = np.array([features(r["config"]) for r in first.values()])
        self.y = np.array([_logs(r) for r in first.values()])
        self.process = Process.fitted(self.x, self.y, EPOCHS - 1)
        self._pairs_x = np.array([features(r["config"]) for r, _ in pairs])
        self._noise = np.array([_logs(a) - _logs(b) for a, b in pairs]) / math.sqrt(2)
        self._seconds = np.array([statistics.median(r["seconds"]) for r in records])
        self._counts = np.array([counts(r["config"]) for r in records])
        relative = self._counts / self._seconds[:, None]
        self._costs = nnls(relative, np.ones(len(records)))[0]

    def epoch_s(self, config: dict[str, Any]) -> float:
        """Core seconds of an epoch."""
        return float(np.array(counts(config)) @ self._costs)

    def train(self, config: dict[str, Any], rng: np.random.Generator) -> Outcome:
        """One training of a configuration; `rng` draws its noise."""
        x = np.array(features(config))
        mean = self.process.mean(x)
        near = np.argsort(self.process.distances(self._pairs_x, x))[:NOISE_NEIGHBOURS]
        logs = mean + rng.choice([-1, 1]) * self._noise[rng.choice(near)]
        values = np.exp(np.minimum(logs, math.log(CEILING)))
        raw = np.full(EPOCHS, math.nan)
        raw[[epoch - 1 for epoch in RAW_EPOCHS]] = values[EPOCHS:]
        truth = math.exp(mean[EPOCHS - 1])
        return Outcome(truth, values[:EPOCHS], raw, self.epoch_s(config))

    def explained(self) -> float:
        """R² of the logarithm of the last RMSE, each record estimated from the others."""
        errors = self.process.errors()[:, EPOCHS - 1]
        return float(1 - np.var(errors) / np.var(self.y[:, EPOCHS - 1]))

    def explained_seconds(self) -> float:
        """R² of the logarithm of an epoch's seconds."""
        errors = np.log(self._seconds / (self._counts @ self._costs))
        return float(1 - np.var(errors) / np.var(np.log(self._seconds)))


def _logs(record: dict[str, Any]) -> np.ndarray:
    """Logarithms of the RMSE by epoch, then of raw weights by `RAW_EPOCHS`."""
    curve = [*record["validation_rmse"], *(record["raw_rmse"][str(e)] for e in RAW_EPOCHS)]
    return np.log([CEILING if rmse is None else min(rmse, CEILING) for rmse in curve])


@cache
def recorded() -> Landscape:
    """That of the recording in the repository."""
    return Landscape(RECORDING)
