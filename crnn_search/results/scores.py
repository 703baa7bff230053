"""Scores of predictions and of baselines, with intervals that resample images or groups.

Test sequences of digits share their images: 60,000 sequences are drawn from 10,000 images, and
about 30 misread ones make up most of a good network's squared error. Resampling sequences would
count those 30 as hundreds of independent mistakes and give intervals far too narrow. Here the
images are resampled, by the infinitesimal jackknife (Efron, *Estimation and accuracy after model
selection*, JASA 2014; as the linear part of Rubin's Bayesian bootstrap, Annals of Statistics 1981):
a weight on every image multiplies the weights of the sequences it is in, and the variance is the
sum, over images, of the squared derivatives of the score by those weights.

Sequences of a table with groups are alike within a group. There each group has a weight, that of
its sequences. Groups may be few: the variance is multiplied by `G / (G - 1)` and has `G - 1`
degrees of freedom, as that of a mean.

Shapes: `K` seeds, `S` sequences, `T` time steps, `I` images, `G` groups, `U` images or groups.
RMSE and MAE are in the target's unit.
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

MAX_LENGTHS = 10
"""How many lengths the sequences of a table with groups may have to be scored one by one."""

BINS = 6
"""Bins of about equally many sequences that more lengths are put into."""


@dataclass(frozen=True)
class Score:
    """Predictions of `seeds` networks, or of one baseline, on a table of `sequences`.

    `rmse`, `mae`, `r2` and `exact_sum_rate`, whole and by length, are means over seeds; `rmse_std`
    is the sample standard deviation, None with one seed. `r2` is None where all targets are equal,
    the exact rates unless they are sums. Lengths are strings, as in JSON: one length (`4`) or a
    bin (`3–5`). The 95 % intervals, `[low, high]`, are for other images (or groups) and other
    seeds; None where the RMSE is 0 and where there is one group.
    """

    rmse: float
    rmse_std: float | None
    rmse_interval: list[float] | None
    rmse_by_seed: list[float]
    rmse_by_length: dict[str, float]
    rmse_interval_by_length: dict[str, list[float] | None]
    mae_by_length: dict[str, float]
    sequences_by_length: dict[str, int]
    mae: float
    r2: float | None
    exact_sum_rate: float | None
    exact_sum_rate_by_length: dict[str, float] | None
    sequences: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """The score by name, ready for JSON; exact rates are left out unless targets are sums."""
        values = asdict(self)
        if self.exact_sum_rate is None:
            del values["exact_sum_rate"], values["exact_sum_rate_by_length"]
        return values


@dataclass(frozen=True)
class Difference:
    """RMSE of `a` less RMSE of `b`, its 95 % interval `[low, high]`, and RMSE of `a` over `b`.

    The interval is None where there is one group, the ratio where the RMSE of `b` is 0.
    """

    difference: float
    interval: list[float] | None
    ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """The difference by name, ready for JSON."""
        return asdict(self)


def score(predictions: Sequence[Tensor], table: SequenceTable, *, sums: bool = False) -> Score:
    """The score of predictions, one float `(S,)` for each seed, in the table's order.

    sums: the targets are sums of digits, which a prediction may hit exactly.

    Raises:
        RunError: a prediction is not a finite number.
    """
    errors = _errors(predictions, table)
    by_seed = _rmse_by_seed(errors)
    by_length = _rows_by_length(table)

    def exact(rows: Tensor | slice) -> float:
        return fmean(metrics.exact_sum_rate(p[rows], table.targets[rows]) for p in predictions)

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
            length: _interval(errors[:, rows], table.take(rows))
            for length, rows in by_length.items()
        },
        mae_by_length={length: _mae(errors[:, rows]) for length, rows in by_length.items()},
        sequences_by_length={length: len(rows) for length, rows in by_length.items()},
        mae=_mae(errors),
        r2=_r2(errors, table),
        exact_sum_rate=exact(slice(None)) if sums else None,
        exact_sum_rate_by_length=(
            {length: exact(rows) for length, rows in by_length.items()} if sums else None
        ),
        sequences=len(table),
        seeds=len(errors),
    )


def paired_difference(
    a: Sequence[Tensor], b: Sequence[Tensor], table: SequenceTable, *, other_seeds: bool = True
) -> Difference:
    """RMSE of `a` less that of `b`, each a mean over seeds, on the same sequences.

    a, b: predictions, one float `(S,)` for each seed; they may have different numbers of seeds.
    other_seeds: the interval is for other seeds, too; else for these very networks.
    An image that both misread cancels out, which makes the interval narrower than either score's.

    Raises:
        RunError: a prediction is not a finite number.
    """
    first, second = _errors(a, table), _errors(b, table)
    rmse_a, rmse_b = (_rmse_by_seed(errors).mean().item() for errors in (first, second))
    by_unit = _influence(first, table) - _influence(second, table)
    half = _half_width(by_unit, _freedom(table), *((first, second) if other_seeds else ()))
    difference = rmse_a - rmse_b
    interval = None if half is None else [difference - half, difference + half]
    return Difference(difference, interval, rmse_a / rmse_b if rmse_b else None)


def mean_prediction(predictions: Sequence[Tensor]) -> Tensor:
    """What an ensemble of networks predicts: the mean of their predictions, float64 `(S,)`."""
    return torch.stack([p.double() for p in predictions]).mean(0)


def digit_baselines(
    training_labels: Tensor, table: SequenceTable, max_digits: int
) -> dict[str, Tensor]:
    """Sums that are predicted without any image, float64 `(S,)`, by name.

    `mean_guess`: the mean sum that the training labels predict, for every sequence. `count_only`:
    the mean training digit times the sequence's length.

    training_labels: the digits of the training images, `(I,)`; those of the table are not used.
    max_digits: length of the task's longest sequence; lengths are uniform from 1 to it.
    """
    mean_digit = training_labels.double().mean()
    return {
        "mean_guess": (mean_digit * (1 + max_digits) / 2).expand(len(table)),
        "count_only": mean_digit * table.lengths,
    }


def baselines(known: SequenceTable, table: SequenceTable) -> dict[str, Tensor]:
    """Targets of `table` that are predicted without any image, float64 `(S,)`, by name.

    `mean_guess`: the mean target of the `known` sequences. `length_only`: their targets' least
    squares fit on their lengths; it is left out where all known lengths are equal.
    """
    targets, lengths = known.targets.double().numpy(), known.lengths.double().numpy()
    mean, longer = targets.mean(), lengths - lengths.mean()
    found = {"mean_guess": torch.full((len(table),), mean, dtype=torch.float64)}
    if longer.any():
        slope = (longer * (targets - mean)).sum() / np.square(longer).sum()
        found["length_only"] = mean + slope * (table.lengths.double() - lengths.mean())
    return found


def check_finite(predictions: Sequence[Tensor]) -> None:
    """Check predictions, one float `(S,)` for each seed.

    Raises:
        RunError: one is not a finite number.
    """
    bad = sum(int((~values.isfinite()).sum()) for values in predictions)
    if bad:
        raise RunError(
            f"predictions must be finite numbers, got {bad} that are not: the training diverged"
        )


def _errors(predictions: Sequence[Tensor], table: SequenceTable) -> Tensor:
    """Predictions less targets, float64 `(K, S)`."""
    check_finite(predictions)
    return torch.stack([p.double() for p in predictions]) - table.targets.double()


def _mae(errors: Tensor) -> float:
    """Mean absolute error of errors `(K, S)`."""
    return float(np.abs(errors.numpy()).mean())


def _rmse_by_seed(errors: Tensor) -> Tensor:
    """RMSE of each seed, float64 `(K,)`.

    NumPy adds in the same order whatever the number of threads: a report written again is the same.
    """
    return torch.from_numpy(np.square(errors.numpy()).mean(1)).sqrt()


def _r2(errors: Tensor, table: SequenceTable) -> float | None:
    """Mean over seeds of 1 - squared error / squared deviation of the targets from their mean."""
    targets = table.targets.double().numpy()
    if np.ptp(targets) == 0:
        return None
    return float(1 - np.square(errors.numpy()).mean() / targets.var())


def _interval(errors: Tensor, table: SequenceTable) -> list[float] | None:
    """95 % interval of the mean RMSE of errors `(K, S)`, symmetric on a log scale."""
    rmse = _rmse_by_seed(errors).mean().item()
    half = _half_width(_influence(errors, table), _freedom(table), errors)
    if rmse == 0 or half is None:
        return None
    factor = math.exp(half / rmse)
    return [rmse / factor, rmse * factor]


def _freedom(table: SequenceTable) -> float:
    """Degrees of freedom of the variance of images, which are many, or of groups."""
    return math.inf if table.groups is None else len(table.groups.unique()) - 1


def _half_width(by_unit: Tensor, freedom: float, *seeds: Tensor) -> float | None:
    """Half the width of a 95 % interval; None without degrees of freedom.

    by_unit: derivatives by the weights of images or groups, `(U,)`. freedom: of their variance.
    seeds: errors `(K, S)`, each of its own seeds.

    Adds the variances of images or groups and of seeds. That seeds misread different images is in
    both, which makes the interval too wide rather than too narrow. The variance of a few seeds or
    groups is known badly: the quantile is Student's, its degrees of freedom are Satterthwaite's
    (Biometrics Bulletin 1946).
    """
    if not freedom:
        return None
    of_units = float(np.square(by_unit.numpy()).sum()) * (1 + 1 / freedom)
    of_seeds = [_seed_variance(errors) for errors in seeds]
    variance = of_units + sum(of_seeds)
    if variance == 0:
        return 0.0
    inverse_freedom = (of_units / variance) ** 2 / freedom + sum(
        (of_group / variance) ** 2 / (len(errors) - 1)
        for of_group, errors in zip(of_seeds, seeds, strict=True)
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
    """Derivative of the mean RMSE of errors `(K, S)` by the weight of each image or group, `(U,)`.

    `U_i = Σ_s c_si (e²_s − MSE of s's length) / S` is the derivative of a seed's MSE, where image
    `i` occurs `c_si` times in sequence `s`; divided by `2 RMSE` it is that of its RMSE. Centring
    within each length keeps the mix of lengths fixed, since it does not depend on images. It does
    depend on groups: `U_g = Σ_{s in g} (e²_s − MSE) / S`.
    """
    squared = errors.square()
    twice_rmse = (2 * _rmse_by_seed(errors)).clamp(min=torch.finfo(torch.float64).tiny)
    values = (squared / twice_rmse[:, None]).mean(0)
    if table.groups is not None:
        _, group = table.groups.unique(return_inverse=True)
        return torch.bincount(group, weights=(values - values.numpy().mean()) / len(table))
    totals = torch.bincount(table.lengths, weights=values)
    means = totals / torch.bincount(table.lengths).clamp(min=1)
    centred = (values - means[table.lengths]) / len(table)
    steps = torch.arange(table.indices.shape[1])
    sequence, step = (steps[None, :] < table.lengths[:, None]).nonzero(as_tuple=True)
    return torch.bincount(table.indices[sequence, step].long(), weights=centred[sequence])


def _rows_by_length(table: SequenceTable) -> dict[str, Tensor]:
    """The rows of each length that occurs, or of each bin of lengths, int64."""
    highs = table.lengths.unique()
    if table.groups is not None and len(highs) > MAX_LENGTHS:
        ascending = table.lengths.sort().values
        ends = torch.arange(1, BINS + 1) * len(ascending) // BINS - 1
        highs = ascending[ends].unique()
    bin_of = torch.searchsorted(highs, table.lengths)
    rows = [(bin_of == place).nonzero().flatten() for place in range(len(highs))]
    return {_label(table.lengths[found]): found for found in rows}


def _label(lengths: Tensor) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return f"{low}" if low == high else f"{low}–{high}"
