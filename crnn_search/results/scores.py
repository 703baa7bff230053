"""Scores of predictions and of baselines, with intervals that resample images.

Test sequences share their images: 60,000 sequences are drawn from 10,000 images, and about 30
misread ones make up most of a good network's squared error. Resampling sequences would count those
30 as hundreds of independent mistakes and give intervals far too narrow. Here the images are
resampled, by the infinitesimal jackknife (Efron, *Estimation and accuracy after model
selection*, JASA 2014; as the linear part of Rubin's Bayesian bootstrap, Annals of Statistics 1981):
a weight on every image multiplies the weights of the sequences it is in, and the variance is the
sum, over images, of the squared derivatives of the score by those weights.

Shapes: `K` seeds, `S` sequences, `T` time steps, `I` images. RMSE and MAE are of sums of digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import RunError
from crnn_search.training import metrics

T_QUANTILES = {
    math.inf: 1.960, 60: 2.000, 30: 2.042, 15: 2.131, 10: 2.228, 8: 2.306, 6: 2.447, 5: 2.571,
    4: 2.776, 3: 3.182, 2.5: 3.575, 2: 4.303, 1.6: 5.517, 1.3: 7.501, 1: 12.706,
}  # fmt: skip
"""Student's t by degrees of freedom: half the width, in standard errors, of a 95 % interval."""


@dataclass(frozen=True)
class Score:
    """Predictions of `seeds` networks, or of one baseline, on a table of `sequences`.

    `rmse`, `rmse_by_length`, `mae` and `exact_sum_rate` are means over seeds; `rmse_std` is the
    sample standard deviation, None with one seed. Lengths are strings, as in JSON. The 95 %
    intervals, `[low, high]`, are for other images and other seeds; None where the RMSE is 0.
    """

    rmse: float
    rmse_std: float | None
    rmse_interval: list[float] | None
    rmse_by_seed: list[float]
    rmse_by_length: dict[str, float]
    rmse_interval_by_length: dict[str, list[float] | None]
    mae: float
    exact_sum_rate: float
    sequences: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """The score by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """RMSE of `a` less RMSE of `b`, its 95 % interval `[low, high]`, and RMSE of `a` over `b`."""

    difference: float
    interval: list[float]
    ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """The difference by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Baselines:
    """Scores of predictions that use no image.

    mean_guess: the mean sum that the training labels predict, for every sequence.
    count_only: the mean training digit times the sequence's length.
    """

    mean_guess: Score
    count_only: Score


def score(predictions: Sequence[Tensor], table: SequenceTable) -> Score:
    """The score of predicted sums, one float `(S,)` for each seed, in the table's order.

    Raises:
        RunError: a prediction is not a finite number.
    """
    errors = _errors(predictions, table)
    by_seed = _rmse_by_seed(errors)
    by_length = _rows_by_length(table)
    return Score(
        rmse=by_seed.mean().item(),
        rmse_std=by_seed.std().item() if len(by_seed) > 1 else None,
        rmse_interval=_interval(errors, table),
        rmse_by_seed=by_seed.tolist(),
        rmse_by_length={
            length: _rmse_by_seed(errors[:, rows]).mean().item()
            for length, rows in by_length.items()
        },
        rmse_interval_by_length={
            length: _interval(errors[:, rows], _take(table, rows))
            for length, rows in by_length.items()
        },
        mae=float(np.abs(errors.numpy()).mean()),
        exact_sum_rate=fmean([metrics.exact_sum_rate(p, table.sums) for p in predictions]),
        sequences=len(table),
        seeds=len(errors),
    )


def paired_difference(a: Sequence[Tensor], b: Sequence[Tensor], table: SequenceTable) -> Difference:
    """RMSE of `a` less that of `b`, each a mean over seeds, on the same sequences.

    a, b: predicted sums, one float `(S,)` for each seed; they may have different numbers of seeds.
    An image that both misread cancels out, which makes the interval narrower than either score's.

    Raises:
        RunError: a prediction is not a finite number.
    """
    first, second = _errors(a, table), _errors(b, table)
    rmse_a, rmse_b = (_rmse_by_seed(errors).mean().item() for errors in (first, second))
    by_image = _influence(first, table) - _influence(second, table)
    half = _half_width(by_image, first, second)
    difference = rmse_a - rmse_b
    return Difference(
        difference, [difference - half, difference + half], rmse_a / rmse_b if rmse_b else None
    )


def baselines(training_labels: Tensor, table: SequenceTable, max_digits: int) -> Baselines:
    """The two baselines on `table`.

    training_labels: the digits of the training images, `(I,)`; those of the table are not used.
    max_digits: length of the task's longest sequence; lengths are uniform from 1 to it.
    """
    mean_digit = training_labels.double().mean().item()
    mean_guess = torch.full((len(table),), mean_digit * (1 + max_digits) / 2)
    return Baselines(score([mean_guess], table), score([mean_digit * table.lengths], table))


def _errors(predictions: Sequence[Tensor], table: SequenceTable) -> Tensor:
    """Predicted less true sums, float64 `(K, S)`."""
    stacked = torch.stack([p.double() for p in predictions])
    bad = int((~stacked.isfinite()).sum())
    if bad:
        raise RunError(
            f"predictions must be finite numbers, got {bad} that are not: the training diverged"
        )
    return stacked - table.sums.double()


def _rmse_by_seed(errors: Tensor) -> Tensor:
    """RMSE of each seed, float64 `(K,)`.

    NumPy adds in the same order whatever the number of threads: a report written again is the same.
    """
    return torch.from_numpy(np.square(errors.numpy()).mean(1)).sqrt()


def _interval(errors: Tensor, table: SequenceTable) -> list[float] | None:
    """95 % interval of the mean RMSE of errors `(K, S)`, symmetric on a log scale."""
    rmse = _rmse_by_seed(errors).mean().item()
    if rmse == 0:
        return None
    factor = math.exp(_half_width(_influence(errors, table), errors) / rmse)
    return [rmse / factor, rmse * factor]


def _half_width(by_image: Tensor, *groups: Tensor) -> float:
    """Half the width of a 95 % interval.

    by_image: derivatives by image weights, `(I,)`. groups: errors `(K, S)`, each of its own seeds.

    Adds the variances of images and of seeds. That seeds misread different images is in both, which
    makes the interval too wide rather than too narrow. The variance of a few seeds is known badly:
    the quantile is Student's, its degrees of freedom are Satterthwaite's (Biometrics Bulletin
    1946). Images are many, so the more they decide the nearer it is to 1.96.
    """
    of_seeds = [_seed_variance(errors) for errors in groups]
    variance = float(np.square(by_image.numpy()).sum()) + sum(of_seeds)
    if variance == 0:
        return 0.0
    inverse_freedom = sum(
        (of_group / variance) ** 2 / (len(errors) - 1)
        for of_group, errors in zip(of_seeds, groups, strict=True)
        if of_group
    )
    return _t_quantile(inverse_freedom) * math.sqrt(variance)


def _t_quantile(inverse_freedom: float) -> float:
    """Student's t at 97.5 % by 1 / degrees of freedom, 0 to 1: up to 4 % too large."""
    inverse = [1 / freedom for freedom in T_QUANTILES]
    return float(np.interp(inverse_freedom, inverse, list(T_QUANTILES.values())))


def _seed_variance(errors: Tensor) -> float:
    """Variance of the mean of the seeds' RMSEs; 0 with one seed, which has no spread."""
    by_seed = _rmse_by_seed(errors)
    return by_seed.var().item() / len(by_seed) if len(by_seed) > 1 else 0.0


def _influence(errors: Tensor, table: SequenceTable) -> Tensor:
    """Derivative of the mean RMSE of errors `(K, S)` by the weight of each image, `(I,)`.

    `U_i = Σ_s c_si (e²_s − MSE of s's length) / S` is the derivative of a seed's MSE, where image
    `i` occurs `c_si` times in sequence `s`; divided by `2 RMSE` it is that of its RMSE. Centring
    within each length keeps the mix of lengths fixed, since it does not depend on images.
    """
    squared = errors.square()
    twice_rmse = (2 * _rmse_by_seed(errors)).clamp(min=torch.finfo(torch.float64).tiny)
    values = (squared / twice_rmse[:, None]).mean(0)
    totals = torch.bincount(table.lengths, weights=values)
    means = totals / torch.bincount(table.lengths).clamp(min=1)
    centred = (values - means[table.lengths]) / len(table)
    steps = torch.arange(table.indices.shape[1])
    sequence, step = (steps[None, :] < table.lengths[:, None]).nonzero(as_tuple=True)
    return torch.bincount(table.indices[sequence, step].long(), weights=centred[sequence])


def _rows_by_length(table: SequenceTable) -> dict[str, Tensor]:
    """The rows of each length that occurs, int64."""
    lengths = table.lengths.unique().tolist()
    return {str(length): (table.lengths == length).nonzero().flatten() for length in lengths}


def _take(table: SequenceTable, rows: Tensor) -> SequenceTable:
    return SequenceTable(table.indices[rows], table.lengths[rows], table.sums[rows])
