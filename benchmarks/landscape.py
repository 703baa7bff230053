"""What training any configuration would give: estimated from recorded learning curves.

A configuration gets the weighted mean curve of its nearest recorded neighbours, of logarithms, and
the noise of one training: how the two trainings of a recorded configuration with two seeds differ,
drawn from those whose configuration is near.
"""

from __future__ import annotations

import json
import math
import statistics
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record_curves import EPOCHS, RAW_EPOCHS, RECORDING
from crnn_search.hyperparameters import TrialConfig

NEIGHBOURS, NOISE_NEIGHBOURS = 4, 10
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
        self.seconds = np.array([statistics.fmean(r["seconds"]) for r in first.values()])
        self.pairs_x = np.array([features(r["config"]) for r, _ in pairs])
        self.noise = np.array([_logs(a) - _logs(b) for a, b in pairs]) / math.sqrt(2)
        last = _ranks(self.y[:, EPOCHS - 1])
        correlations = [abs(np.corrcoef(_ranks(c), last)[0, 1]) for c in self.x.T]
        self.weights = np.maximum(0.1, correlations)

    def mean(self, x: np.ndarray, without: int | None = None) -> tuple[np.ndarray, float]:
        """Logarithms of the RMSE by epoch, then raw ones by `RAW_EPOCHS`; seconds an epoch."""
        distance = self._distance(self.x, x)
        if without is not None:
            distance[without] = np.inf
        near = np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]
        share = 1 / (distance[near] + 1e-3)
        share /= share.sum()
        return share @ self.y[near], float(share @ self.seconds[near])

    def train(self, config: dict[str, Any], rng: np.random.Generator) -> Outcome:
        """One training of a configuration; `rng` draws its noise."""
        x = np.array(features(config))
        mean, epoch_s = self.mean(x)
        near = np.argsort(self._distance(self.pairs_x, x))[:NOISE_NEIGHBOURS]
        logs = mean + rng.choice([-1, 1]) * self.noise[rng.choice(near)]
        values = np.exp(np.minimum(logs, math.log(CEILING)))
        raw = np.full(EPOCHS, math.nan)
        raw[[epoch - 1 for epoch in RAW_EPOCHS]] = values[EPOCHS:]
        return Outcome(math.exp(mean[EPOCHS - 1]), values[:EPOCHS], raw, epoch_s)

    def explained(self) -> float:
        """R² of the logarithm of the last RMSE, each record estimated from the others."""
        last = self.y[:, EPOCHS - 1]
        estimates = [self.mean(x, i)[0][EPOCHS - 1] for i, x in enumerate(self.x)]
        return float(1 - np.var(last - estimates) / np.var(last))

    def _distance(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        distance: np.ndarray = np.sqrt((((points - x) * self.weights) ** 2).sum(1))
        return distance


def _logs(record: dict[str, Any]) -> np.ndarray:
    """Logarithms of the RMSE by epoch, then of raw weights by `RAW_EPOCHS`."""
    curve = [*record["validation_rmse"], *(record["raw_rmse"][str(e)] for e in RAW_EPOCHS)]
    return np.log([CEILING if rmse is None else min(rmse, CEILING) for rmse in curve])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


@cache
def recorded() -> Landscape:
    """That of the recording in the repository."""
    return Landscape(RECORDING)
