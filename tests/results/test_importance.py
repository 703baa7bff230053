"""The importance of hyperparameters, from full-budget trials."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crnn_search.results import importance
from crnn_search.results.importance import importances
from crnn_search.results.schema import Importance
from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import TrialRecord
from tests.results.result_files import full_budget_records, record

SPACE = parse_space("""
space:
  conv_channels: [4]
  kernel_size: 5
  pooling: 4
  gru_sizes: {list_of: {int: [4, 16]}, length: 1}
  learning_rate: {float: [1.0e-4, 0.1], log: true}
  batch_size: {choice: [32, 64, 128]}
  batch_norm: {choice: [true, false]}
  dropout: {float: [0.0, 0.9]}
""")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "RESAMPLES", 8)


def computed(trials: Sequence[TrialRecord]) -> list[Importance]:
    rows, note = importances(trials, SPACE)
    assert rows is not None, note
    return rows


def test_the_hyperparameter_that_matters_is_first() -> None:
    rows = computed(full_budget_records(40))
    assert rows[0]["name"] == "learning_rate"
    assert rows[0]["share"] > 0.6
    names = {"learning_rate", "batch_size", "gru_sizes.0", "batch_norm", "dropout"}
    assert {row["name"] for row in rows} == names, "as Optuna names them"
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    for row in rows:
        low, high = row["interval"]
        assert 0 <= low <= high <= 1


def test_it_is_what_optunas_dashboard_computes() -> None:
    """Its own function, on the trials as the study has them."""
    dashboard = pytest.importorskip("optuna_dashboard")
    assert dashboard
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    trials = [*full_budget_records(12), record(20, "PRUNED", [0.1], dropout=0.5)]
    study = optuna.create_study()
    study.add_trials([importance._frozen(trial, SPACE) for trial in trials])
    expected = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    rows = computed(trials)
    assert {row["name"]: row["share"] for row in rows} == pytest.approx(expected)


def test_only_full_budget_trials_count() -> None:
    full = full_budget_records(8)
    stopped = [record(20 + n, "PRUNED", [0.1], dropout=n / 10) for n in range(8)]
    assert computed([*full, *stopped]) == computed(full)
    shares, note = importances([*full[:7], *stopped], SPACE)
    assert shares is None
    assert "at least 8 trials" in note
    assert "got 7 and" in note


def test_a_trial_with_an_rmse_of_zero_counts() -> None:
    computed([*full_budget_records(7), record(7, "COMPLETE", [0.0], learning_rate=0.001)])


def test_two_hyperparameters_must_vary() -> None:
    trials = [record(n, "COMPLETE", [1.0 + n], learning_rate=1e-3 * (n + 1)) for n in range(9)]
    assert importances(trials, SPACE)[0] is None
