from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from crnn_search.errors import InputError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage import jsonl
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord
from crnn_search.storage.trial import TrialState as State
from crnn_search.tuning import warm_start
from crnn_search.tuning.searcher import StudySearcher
from tests.tuning.examples import trial

EARLIER = """
search: {trials: 5, max_epochs: 4, epoch_sequences: 1000}
space:
  gru_sizes: {list_of: {int: [8, 64]}, length: [1, 3]}
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 1.0e-1], log: true}
"""
LATER = EARLIER.replace("  dropout: {float: [0.0, 0.5]}\n", "").replace("[8, 64]", "[8, 32]")


def line(number: int, state: State, values: list[float | None], **config: Any) -> jsonl.Record:
    """A line of the ledger."""
    known = trial(number, config=TrialConfig.from_dict(config))
    record = TrialRecord(known, validation_rmse=values, train_loss=values, state=state)
    return record.to_dict()


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(EARLIER)
    rate = {"learning_rate": 0.01}
    for known in (
        line(0, State.COMPLETE, [4.0, 3.0, 2.0, 1.0], gru_sizes=[16, 32], dropout=0.2, **rate),
        line(1, State.PRUNED, [5.0], gru_sizes=[8, 64], **rate),
        line(2, State.FAIL, [None], gru_sizes=[8], **rate),
        InfeasibleTrial(3, {"gru_sizes": [8]}, "no pixels").to_dict(),
    ):
        jsonl.append(tmp_path / "trials.jsonl", known)
    return tmp_path


def test_what_fits_is_taken_and_what_does_not_is_counted(earlier: Path) -> None:
    fitted = warm_start.fit(parse_space(LATER), [str(earlier)])
    first, second = fitted.trials
    assert first["config"] == {"gru_sizes": [16, 32], "learning_rate": 0.01}
    assert (first["state"], first["validation_rmse"]) == ("COMPLETE", {1: 4, 2: 3, 3: 2, 4: 1})
    assert second["config"] == {"learning_rate": 0.01}
    assert (second["state"], second["validation_rmse"]) == ("PRUNED", {1: 5.0})
    assert fitted.left_out == {"dropout": 1, "gru_sizes": 1}
    assert fitted.unusable == 2
    assert fitted.describe() == (
        "warm start: 2 earlier trials, 2 more were unusable; left out because it does not fit this "
        "space: dropout 1 times, gru_sizes 1 times"
    )


def test_a_smaller_budget_is_a_lower_fidelity(earlier: Path) -> None:
    longer = parse_space(LATER.replace("epoch_sequences: 1000", "epoch_sequences: 2000"))
    known = warm_start.fit(longer, [str(earlier)]).trials[0]
    assert (known["state"], known["validation_rmse"]) == ("PRUNED", {1: 2, 2: 1})


def test_sampler_knows_them_and_numbers_start_at_zero(earlier: Path, tmp_path: Path) -> None:
    space = parse_space(LATER)
    stored = tmp_path / "warm_start.jsonl"
    warm_start.write(warm_start.fit(space, [str(earlier)]), stored)
    searcher = StudySearcher(space, earlier=warm_start.read(space, stored))
    states = [known.state for known in searcher.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED]
    suggested = searcher.suggest("a")
    assert isinstance(suggested, dict)
    assert suggested["trial"]["number"] == 0


def test_run_without_a_ledger_gives_nothing(earlier: Path) -> None:
    (earlier / "trials.jsonl").unlink()
    assert warm_start.fit(parse_space(LATER), [str(earlier)]).trials == []


def test_another_task_is_refused(earlier: Path) -> None:
    message = "the data of .* are mnist_sums/8, those of this space mnist_sums/5"
    with pytest.raises(InputError, match=message):
        warm_start.fit(parse_space("task: {max_digits: 5}\n" + LATER), [str(earlier)])
