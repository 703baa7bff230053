"""Scores of a user's own data: R², intervals by group, bins of lengths, baselines."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.results import scores
from tests.results.result_files import own_table
from tests.results.score_examples import make_table, naive_interval, noisy, plain_rmse


def test_baselines_are_fitted_to_the_known_sequences() -> None:
    known, table = own_table(50, 20, (0, 9), seed=1), own_table(31, 25, (0, 9), seed=2)
    result = scores.baselines(known, table)
    x = np.stack([np.ones(50), known.lengths.numpy()], axis=1)
    fit = np.linalg.lstsq(x, known.targets.numpy(), rcond=None)[0]
    assert result["mean_guess"].tolist() == pytest.approx([known.targets.mean().item()] * 31)
    line = fit[0] + fit[1] * table.lengths.numpy()
    assert result["length_only"].tolist() == pytest.approx(line.tolist())


def test_lengths_that_are_all_equal_predict_nothing() -> None:
    known, table = own_table(50, 1, (0, 9), seed=1), own_table(31, 25, (0, 9), seed=2)
    assert list(scores.baselines(known, table)) == ["mean_guess"]


def grouped(targets: list[float], groups: list[int], lengths: list[int]) -> SequenceTable:
    """Sequences of image 0."""
    indices = torch.zeros(len(targets), max(lengths), dtype=torch.int32)
    numbers = torch.tensor(targets, dtype=torch.float64)
    return SequenceTable(indices, torch.tensor(lengths), numbers, torch.tensor(groups))


def test_r2_by_hand() -> None:
    table = grouped([1.0, 2.0, 3.0, 6.0], [0, 1, 2, 3], [1, 1, 2, 2])
    first, second = torch.tensor([1.0, 3.0, 3.0, 5.0]), torch.tensor([3.0, 2.0, 3.0, 6.0])
    # The mean target is 3: squared deviations 4 + 1 + 0 + 9 = 14; squared errors 2 and 4.
    assert scores.score([first], table).r2 == pytest.approx(1 - 2 / 14)
    assert scores.score([first, second], table).r2 == pytest.approx(1 - 3 / 14)
    assert scores.score([torch.full((4,), 3.0)], table).r2 == pytest.approx(0.0)
    assert scores.score([10 * first], table).r2 == pytest.approx(1 - (81 + 784 + 729 + 1936) / 14)


def test_r2_of_equal_targets_and_the_rate_of_exact_sums_may_be_unknown() -> None:
    table = grouped([0.1] * 7, list(range(7)), [1] * 7)
    score = scores.score([torch.arange(7.0)], table)
    assert score.r2 is None
    assert "exact_sum_rate" not in score.to_dict()
    assert json.loads(json.dumps(score.to_dict())) == score.to_dict()


def rmse_by_group_weights(
    predictions: Sequence[Tensor], table: SequenceTable, weights: Sequence[float]
) -> float:
    """Mean RMSE when each sequence has the weight of its group."""
    assert table.groups is not None
    by_sequence = [weights[group] for group in table.groups.tolist()]
    results = []
    for prediction in predictions:
        pairs = zip(prediction.tolist(), table.targets.tolist(), strict=True)
        squares = [(p - y) ** 2 for p, y in pairs]
        total = sum(w * e for w, e in zip(by_sequence, squares, strict=True))
        results.append(math.sqrt(total / sum(by_sequence)))
    return statistics.fmean(results)


def group_derivatives(predictions: Sequence[Tensor], table: SequenceTable) -> list[float]:
    """Derivative of the mean RMSE by each group's weight, by central differences."""
    assert table.groups is not None
    count, step, result = int(table.groups.max()) + 1, 1e-4, []
    for group in range(count):
        up, down = [1.0] * count, [1.0] * count
        up[group] += step
        down[group] -= step
        rise = rmse_by_group_weights(predictions, table, up) - rmse_by_group_weights(
            predictions, table, down
        )
        result.append(rise / (2 * step))
    return result


@pytest.mark.parametrize("seeds", [1, 2])
def test_interval_is_computed_from_derivatives_by_group_weights(seeds: int) -> None:
    table = own_table(40, 6, (0, 9), seed=1)  # 14 groups, the last one of a single sequence
    predictions = [noisy(table, seed, 1.0 + seed) for seed in range(seeds)]
    score = scores.score(predictions, table)
    of_groups = 14 / 13 * sum(x**2 for x in group_derivatives(predictions, table))
    of_seeds = statistics.variance(score.rmse_by_seed) / seeds if seeds > 1 else 0.0
    variance = of_groups + of_seeds
    inverse_freedom = (of_groups / variance) ** 2 / 13 + (of_seeds / variance) ** 2
    half = scores._t_quantile(inverse_freedom) * math.sqrt(variance) / score.rmse
    expected = [score.rmse * math.exp(-half), score.rmse * math.exp(half)]
    assert score.rmse_interval == pytest.approx(expected, rel=1e-6)


def test_paired_difference_is_computed_from_derivatives_by_group_weights() -> None:
    table = own_table(40, 6, (0, 9), seed=1)
    a, b = [noisy(table, 1, 2.0)], [noisy(table, 3)]
    result = scores.paired_difference(a, b, table)
    pairs = zip(group_derivatives(a, table), group_derivatives(b, table), strict=True)
    error = math.sqrt(14 / 13 * sum((x - y) ** 2 for x, y in pairs))
    half = scores._t_quantile(1 / 13) * error
    expected = plain_rmse(a[0], table) - plain_rmse(b[0], table)
    assert result.interval == pytest.approx([expected - half, expected + half], rel=1e-6)


def test_interval_by_group_agrees_with_the_bootstrap() -> None:
    table = own_table(300, 6, (0, 9), seed=1)
    assert table.groups is not None
    prediction = noisy(table, 1)
    squares = (prediction - table.targets).square().numpy()
    by_group = np.bincount(table.groups.numpy(), weights=squares)
    sizes = np.bincount(table.groups.numpy())
    drawn = np.random.default_rng(0).integers(100, size=(4000, 100))
    rmse = np.sqrt(by_group[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = scores.score([prediction], table).rmse_interval or (0.0, 0.0)
    half = math.log(high / low) / 2
    assert half == pytest.approx(scores._t_quantile(1 / 99) * np.log(rmse).std(), rel=0.05)


@pytest.mark.parametrize("draws", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_interval_of_few_groups_covers_the_true_rmse_and_the_naive_one_does_not(draws: int) -> None:
    """Sequences of a group share most of their error; its variance is 1, their own 0.25."""
    groups, size = 15, 10
    table = grouped([0.0] * 150, [row % groups for row in range(150)], [1] * 150)
    generator = torch.Generator().manual_seed(5)
    truth, ours, naive = math.sqrt(1.25), 0, 0
    for _ in range(draws):
        errors = torch.randn(groups, generator=generator).repeat(size)
        errors += 0.5 * torch.randn(150, generator=generator)
        low, high = scores.score([errors], table).rmse_interval or (0.0, 0.0)
        ours += low <= truth <= high
        low, high = naive_interval(errors, table)
        naive += low <= truth <= high
    assert 0.88 <= ours / draws <= 0.98
    assert naive / draws < 0.7


def test_one_group_has_no_interval() -> None:
    table = grouped([1.0, 2.0, 4.0], [7, 7, 7], [1, 2, 3])
    predictions = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 2.0])]
    score = scores.score(predictions, table)
    assert score.rmse_interval is None
    assert score.rmse_interval_by_length == {"1": None, "2": None, "3": None}
    assert scores.paired_difference(predictions, predictions[:1], table).interval is None


def test_up_to_ten_lengths_are_scored_one_by_one() -> None:
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
    table = grouped([0.0] * 20, list(range(20)), lengths * 2)
    assert list(scores.score([torch.ones(20)], table).rmse_by_length) == list(map(str, lengths))


def test_more_lengths_are_scored_in_bins_of_as_many_sequences() -> None:
    lengths = [*range(1, 12), 40, *[3] * 12]
    table = grouped([0.0] * 24, list(range(24)), lengths)
    predictions = torch.tensor(lengths).double()
    score = scores.score([predictions], table)
    # Of 24 sequences, four in each of six bins; three of those would hold only sequences of 3.
    assert score.sequences_by_length == {"1–3": 15, "4": 1, "5–8": 4, "9–40": 4}
    by_hand = math.sqrt(statistics.fmean(n * n for n in (5, 6, 7, 8)))
    assert score.rmse_by_length["5–8"] == pytest.approx(by_hand)


def test_sums_of_many_digits_are_scored_at_each_length() -> None:
    table = make_table(40, 2000, 12)
    found = scores.score([noisy(table, 1)], table).rmse_by_length
    assert list(found) == [str(length) for length in range(1, 13)]
