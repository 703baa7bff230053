from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import RunError
from crnn_search.results import score_figures, scores
from tests.results.score_examples import make_table, naive_interval, noisy, plain_rmse

IMAGES, SEQUENCES, LONGEST = 3000, 18_000, 8


def weighted_rmse(
    predictions: Sequence[Tensor], table: SequenceTable, weights: Sequence[float]
) -> float:
    """Mean RMSE when each image has a weight and a sequence the product of its images' weights."""
    results = []
    for prediction in predictions:
        mse = 0.0
        for length in set(table.lengths.tolist()):
            rows = [s for s in range(len(table)) if table.lengths[s] == length]
            products = [
                math.prod(weights[i] for i in table.indices[s, :length].tolist()) for s in rows
            ]
            squares = [(prediction[s].item() - table.targets[s].item()) ** 2 for s in rows]
            mean = sum(w * e for w, e in zip(products, squares, strict=True)) / sum(products)
            mse += len(rows) / len(table) * mean
        results.append(math.sqrt(mse))
    return statistics.fmean(results)


def derivatives(predictions: Sequence[Tensor], table: SequenceTable, images: int) -> list[float]:
    """Derivative of the mean RMSE by each image's weight, by central differences."""
    step, result = 1e-4, []
    for image in range(images):
        up, down = [1.0] * images, [1.0] * images
        up[image] += step
        down[image] -= step
        rise = weighted_rmse(predictions, table, up) - weighted_rmse(predictions, table, down)
        result.append(rise / (2 * step))
    return result


def test_score_agrees_with_plain_loops() -> None:
    table = make_table(40, 300, 3)
    predictions = [noisy(table, seed, 0.3 + 0.1 * seed) for seed in range(3)]
    score = scores.score(predictions, table, sums=True)
    by_seed = [plain_rmse(p, table) for p in predictions]
    assert score.rmse_by_seed == pytest.approx(by_seed)
    assert score.rmse == pytest.approx(statistics.fmean(by_seed))
    assert score.rmse_std == pytest.approx(statistics.stdev(by_seed))
    assert list(score.rmse_by_length) == ["1", "2", "3"]
    for length in (1, 2, 3):
        expected = statistics.fmean(plain_rmse(p, table, length) for p in predictions)
        assert score.rmse_by_length[str(length)] == pytest.approx(expected)
    pairs = [(p, y) for row in predictions for p, y in zip(row, table.targets, strict=True)]
    assert score.mae == pytest.approx(statistics.fmean(abs(float(p - y)) for p, y in pairs))
    exact = statistics.fmean(float(round(float(p)) == float(y)) for p, y in pairs)
    assert score.exact_sum_rate == pytest.approx(exact)
    weighted = sum(
        score.sequences_by_length[n] * score.mae_by_length[n] for n in score.mae_by_length
    )
    assert weighted / 300 == pytest.approx(score.mae)
    rates = score.exact_sum_rate_by_length
    assert rates is not None
    hits = sum(score.sequences_by_length[n] * rate for n, rate in rates.items())
    assert hits / 300 == pytest.approx(exact)
    assert (score.sequences, score.seeds) == (300, 3)
    counts = [table.lengths.tolist().count(length) for length in (1, 2, 3)]
    assert list(score.sequences_by_length.values()) == counts


@pytest.mark.parametrize("seeds", [1, 2])
def test_interval_is_computed_from_derivatives_by_image_weights(seeds: int) -> None:
    table = make_table(12, 60, 3)  # so few images that many sequences hold one twice
    predictions = [noisy(table, seed, 1.0 + seed) for seed in range(seeds)]
    score = scores.score(predictions, table)
    variance = sum(derivative**2 for derivative in derivatives(predictions, table, 12))
    quantile = 1.96
    if seeds > 1:
        of_seeds = statistics.variance(score.rmse_by_seed) / seeds
        variance += of_seeds
        quantile = scores._t_quantile((of_seeds / variance) ** 2 / (seeds - 1))
    half = quantile * math.sqrt(variance) / score.rmse
    expected = [score.rmse * math.exp(-half), score.rmse * math.exp(half)]
    assert score.rmse_interval == pytest.approx(expected, rel=1e-6)


def test_paired_difference_is_computed_from_derivatives_by_image_weights() -> None:
    table = make_table(12, 60, 3)
    a, b = [noisy(table, 1, 2.0), noisy(table, 2, 2.5)], [noisy(table, 3)]
    result = scores.paired_difference(a, b, table)
    rmse_a = [plain_rmse(p, table) for p in a]
    expected = statistics.fmean(rmse_a) - plain_rmse(b[0], table)
    of_seeds = statistics.variance(rmse_a) / 2
    variance = of_seeds + sum(
        (x - y) ** 2
        for x, y in zip(derivatives(a, table, 12), derivatives(b, table, 12), strict=True)
    )
    half = scores._t_quantile((of_seeds / variance) ** 2) * math.sqrt(variance)
    assert result.difference == pytest.approx(expected)
    assert result.interval == pytest.approx([expected - half, expected + half], rel=1e-6)
    assert result.ratio == pytest.approx(statistics.fmean(rmse_a) / plain_rmse(b[0], table))


def test_interval_by_length_equals_that_of_a_table_of_one_length() -> None:
    table = make_table(12, 90, 3)
    rows = table.lengths == 2
    short = SequenceTable(table.indices[rows], table.lengths[rows], table.targets[rows])
    predictions = [noisy(table, 1), noisy(table, 2)]
    alone = scores.score([p[rows] for p in predictions], short)
    whole = scores.score(predictions, table)
    assert whole.rmse_interval_by_length["2"] == pytest.approx(alone.rmse_interval)


class World:
    """A digit reader whose errors are known: small noise, and rarely a misread digit.

    The error of a sequence is the sum of its images' errors, so the true RMSE over all possible
    images is the root of mean length × variance of one image's error.
    """

    misread, noise = 0.01, 0.05

    def __init__(self, sequences: int = SEQUENCES) -> None:
        self.table = make_table(IMAGES, sequences, LONGEST)
        self.real = torch.arange(LONGEST)[None, :] < self.table.lengths[:, None]
        self.generator = torch.Generator().manual_seed(11)

    def image_errors(self) -> Tensor:
        """Of a new set of test images, float `(I,)`."""
        size = torch.randint(1, 10, (IMAGES,), generator=self.generator)
        sign = 2 * torch.randint(0, 2, (IMAGES,), generator=self.generator) - 1
        wrong = torch.rand(IMAGES, generator=self.generator) < self.misread
        return size * sign * wrong + self.small()

    def small(self) -> Tensor:
        return self.noise * torch.randn(IMAGES, generator=self.generator)

    def predictions(self, image_errors: Tensor) -> Tensor:
        by_step = image_errors[self.table.indices.long()] * self.real
        return self.table.targets + by_step.sum(1)

    def true_rmse(self, noise: float) -> float:
        variance = self.misread * statistics.fmean(k * k for k in range(1, 10)) + noise**2
        return math.sqrt(self.table.lengths.double().mean().item() * variance)


@pytest.mark.parametrize("draws", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_interval_covers_the_true_rmse_and_the_naive_one_does_not(draws: int) -> None:
    world = World()
    truth = world.true_rmse(world.noise)
    ours = naive = 0
    for _ in range(draws):
        predictions = world.predictions(world.image_errors())
        interval = scores.score([predictions], world.table).rmse_interval
        assert interval is not None
        ours += interval[0] <= truth <= interval[1]
        low, high = naive_interval(predictions, world.table)
        naive += low <= truth <= high
    assert 0.88 <= ours / draws <= 0.995
    assert naive / draws < 0.5


@pytest.mark.parametrize("draws", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_interval_of_three_seeds_covers_the_true_rmse_where_their_spread_is_large(
    draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sequences=4000)
    world.misread = 0.0
    truth = world.true_rmse(world.noise)
    samples = []
    for _ in range(draws):
        errors = world.image_errors()
        factors = 1 + 0.2 * torch.randn(3, generator=world.generator)
        samples.append([world.predictions(factor * errors) for factor in factors])

    def coverage() -> float:
        intervals = [scores.score(sample, world.table).rmse_interval for sample in samples]
        return statistics.fmean(low <= truth <= high for low, high in filter(None, intervals))

    with_t = coverage()
    monkeypatch.setattr(scores, "_t_quantile", lambda _: 1.96)
    assert coverage() + 0.04 < with_t
    assert with_t > 0.9


@pytest.mark.parametrize("freedom", [1, 1.15, 1.45, 1.8, 2, 2.2, 2.7, 3, 5, 7, 12, 40, 1e6])
def test_t_quantile_covers_95_percent_or_a_little_more(freedom: float) -> None:
    """The density is integrated by Simpson's rule."""
    quantile = scores._t_quantile(1 / freedom)
    x = torch.linspace(0, quantile, 2001, dtype=torch.float64)
    weights = torch.tensor([1.0] + [4.0, 2.0] * 999 + [4.0, 1.0], dtype=torch.float64)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    top = math.exp(log_scale) / math.sqrt(freedom * math.pi)
    density = top * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    covered = 2 * (weights @ density).item() * quantile / 6000
    assert 0.9499 <= covered <= 0.9525


@pytest.mark.parametrize("draws", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_paired_interval_covers_the_true_difference_with_shared_mistakes(draws: int) -> None:
    world = World()
    truth = world.true_rmse(math.hypot(world.noise, 0.3)) - world.true_rmse(world.noise)
    covered, widths, unpaired = 0, [], []
    for _ in range(draws):
        errors = world.image_errors()
        good = world.predictions(errors)
        bad = world.predictions(errors + 6 * world.small())
        result = scores.paired_difference([bad], [good], world.table)
        assert result.interval is not None
        low, high = result.interval
        covered += low <= truth <= high
        widths.append(high - low)
        span = naive_interval(good, world.table)
        unpaired.append(span[1] - span[0])
    assert 0.88 <= covered / draws <= 0.995
    # The misread digits that both share cancel out: narrower than even the naive interval of one.
    assert statistics.fmean(widths) < statistics.fmean(unpaired)


def test_difference_of_a_network_to_itself_is_zero() -> None:
    table = make_table(12, 60, 3)
    result = scores.paired_difference([noisy(table, 1)], [noisy(table, 1)], table)
    assert result == scores.Difference(0.0, [0.0, 0.0], 1.0)


def test_one_seed_has_no_spread() -> None:
    table = make_table(12, 60, 3)
    assert scores.score([noisy(table, 1)], table).rmse_std is None


def test_a_wider_spread_of_seeds_widens_the_interval() -> None:
    table = make_table(12, 60, 3)
    alike = scores.score([noisy(table, 1), noisy(table, 1)], table).rmse_interval
    apart = scores.score([noisy(table, 1, 0.5), noisy(table, 1, 1.5)], table).rmse_interval
    assert alike is not None
    assert apart is not None
    assert apart[0] < alike[0] < alike[1] < apart[1]


def test_predictions_without_error_have_no_interval() -> None:
    table = make_table(12, 60, 3)
    score = scores.score([table.targets], table, sums=True)
    assert (score.rmse, score.rmse_interval, score.exact_sum_rate) == (0.0, None, 1.0)
    result = scores.paired_difference([noisy(table, 1)], [table.targets], table)
    assert result.ratio is None


def test_nan_predictions_are_refused() -> None:
    table = make_table(12, 60, 3)
    broken = noisy(table, 1)
    broken[[3, 5]] = math.nan
    with pytest.raises(RunError, match="got 2 that are not: the training diverged"):
        scores.score([noisy(table, 2), broken], table)


def test_baselines_of_digits_use_training_labels_and_lengths_only() -> None:
    table = make_table(50, 500, 4)
    labels = torch.tensor([1, 2, 6], dtype=torch.uint8)
    result = scores.digit_baselines(labels, table, max_digits=4)
    guess = torch.full((500,), 3.0 * 2.5)
    assert list(result) == ["mean_guess", "count_only"]
    assert result["mean_guess"].tolist() == guess.tolist()
    assert result["count_only"].tolist() == (3.0 * table.lengths).tolist()


def test_score_and_difference_are_ready_for_json() -> None:
    table = make_table(12, 60, 3)
    predictions = [noisy(table, 1), noisy(table, 2)]
    score = scores.score(predictions, table, sums=True).to_dict()
    assert json.loads(json.dumps(score)) == score
    difference = scores.paired_difference(predictions, [noisy(table, 3)], table).to_dict()
    assert set(difference) == {"difference", "interval", "ratio"}
    assert json.loads(json.dumps(difference)) == difference


def test_an_ensemble_by_hand() -> None:
    table = SequenceTable(
        torch.tensor([[0], [1]], dtype=torch.int32), torch.ones(2).long(), torch.tensor([1.0, 3.0])
    )
    found = score_figures.ensemble(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), table, sums=True)
    assert found is not None
    # errors of the networks: 0 and 2, 2 and 2; of their mean, 2 and 5: 1 and 2
    single, mean = (math.sqrt(2) + 2) / 2, math.sqrt(2.5)
    assert found["rmse"] == pytest.approx(mean)
    assert (found["mae"], found["exact_sum_rate"], found["networks"]) == (1.5, 0.0, 2)
    assert found["improvement"]["difference"] == pytest.approx(single - mean)
    assert found["improvement"]["ratio"] == pytest.approx(single / mean)
    # derivatives of the RMSEs by the weights of the two images, before they are centred
    of_single = [(0 / math.sqrt(8) + 4 / 4) / 2, (4 / math.sqrt(8) + 4 / 4) / 2]
    of_mean = [1 / (2 * mean), 4 / (2 * mean)]
    first, second = (a - b for a, b in zip(of_single, of_mean, strict=True))
    half = 1.96 * math.sqrt(2) * abs(first - second) / 2 / 2
    expected = [single - mean - half, single - mean + half]
    assert found["improvement"]["interval"] == pytest.approx(expected)


def test_one_network_is_no_ensemble() -> None:
    table = make_table(40, 300, 3)
    assert score_figures.ensemble(noisy(table, 1)[None], table, sums=True) is None


@pytest.mark.parametrize("seed", range(4))
def test_an_ensemble_is_never_worse_than_its_networks_on_average(seed: int) -> None:
    table = make_table(40, 300, 3)
    predictions = torch.stack([noisy(table, seed + k, 0.1 + k) for k in range(3)])
    found = score_figures.ensemble(predictions, table, sums=True)
    assert found is not None
    assert found["improvement"]["difference"] >= 0
    low, high = found["improvement"]["interval"]
    assert low < found["improvement"]["difference"] < high
