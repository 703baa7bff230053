"""The importance of hyperparameters, from full-budget trials."""

from __future__ import annotations

import pytest

from crnn_search.results.importance import importances
from tests.results.result_files import full_budget_records, record


def test_the_hyperparameter_that_matters_is_first() -> None:
    shares, note = importances(full_budget_records(40))
    assert shares is not None
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.6
    assert set(shares) == {"learning_rate", "batch_size", "gru_sizes", "batch_norm"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert "40 trials" in note


def test_only_full_budget_trials_count() -> None:
    full = full_budget_records(8)
    stopped = [record(20 + n, "PRUNED", [0.1], dropout=n / 10) for n in range(8)]
    assert importances([*full, *stopped]) == importances(full)
    shares, note = importances([*full[:7], *stopped])
    assert shares is None
    assert "at least 8 trials" in note
    assert "got 7 and" in note


def test_a_trial_with_an_rmse_of_zero_counts() -> None:
    trials = [*full_budget_records(7), record(7, "COMPLETE", [0.0], learning_rate=0.001)]
    shares, note = importances(trials)
    assert shares is not None, note


def test_two_hyperparameters_must_vary() -> None:
    trials = [record(n, "COMPLETE", [1.0 + n], learning_rate=1e-3 * (n + 1)) for n in range(9)]
    assert importances(trials)[0] is None
