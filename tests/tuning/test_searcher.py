"""Each trap of Ray's `OptunaSearch` and `ASHAScheduler`: ours is right where the stock is wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from crnn_search.errors import RunError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import METRIC, Job, JobRecord
from crnn_search.tuning.sampler import RememberingSampler
from crnn_search.tuning.scheduler import FiniteAsha
from crnn_search.tuning.searcher import Bookkeeper, StudySearch, ending_state

TEXT = """
search: {trials: 20, max_epochs: 4, seed: 7}
first:
  - {dropout: 0.125, learning_rate: 0.01, gru_sizes: [32, 48]}
space:
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
  gru_sizes: {list_of: {int: [32, 256], log: true}, length: [1, 3]}
"""


@pytest.fixture
def space() -> SearchSpace:
    return parse_space(TEXT)


def result(epoch: int, rmse: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "training_iteration": epoch, METRIC: rmse, **more}


def stock(space: SearchSpace) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=7)
    return OptunaSearch(space=space.suggest, metric=METRIC, mode="min", sampler=sampler)


def job_of(searcher: StudySearch, trial_id: str) -> Job:
    suggested = searcher.suggest(trial_id)
    assert isinstance(suggested, dict)
    return Job(**suggested["job"])


def run_one(
    searcher: Any, results: list[dict[str, Any]], trial_id: str = "a", error: bool = False
) -> FrozenTrial:
    """Play one trial the way Tune does: its last result comes with its completion only."""
    searcher.suggest(trial_id)
    for item in results[:-1]:
        searcher.on_trial_result(trial_id, item)
    if error:
        searcher.on_trial_complete(trial_id, error=True)
    else:
        searcher.on_trial_complete(trial_id, result=results[-1])
    trial: FrozenTrial = searcher._ot_study.trials[-1]
    return trial


def test_a_stopped_trial_is_pruned_with_every_value(space: SearchSpace) -> None:
    results = [result(1, 5.0), result(2, 4.0)]
    trial = run_one(StudySearch(space), results)
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 5.0, 2: 4.0}
    assert run_one(stock(space), results).state == TrialState.COMPLETE  # the trap


def test_a_full_budget_trial_is_complete_with_every_value(space: SearchSpace) -> None:
    trial = run_one(StudySearch(space), [result(epoch, 5.0 - epoch) for epoch in (1, 2, 3, 4)])
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 1.0
    assert trial.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure(space: SearchSpace, value: float) -> None:
    results = [result(1, 5.0), result(2, value, failure="diverged")]
    trial = run_one(StudySearch(space), results)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


def test_stock_leaves_a_nan_trial_running(space: SearchSpace) -> None:
    trial = run_one(stock(space), [result(1, math.nan)])
    assert trial.state == TrialState.RUNNING  # the trap


def test_an_error_is_a_failure(space: SearchSpace) -> None:
    trial = run_one(StudySearch(space), [result(1, 5.0), result(2, 4.0)], error=True)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


@pytest.mark.parametrize(
    ("last", "error", "state"),
    [
        (result(4, 1.0), False, TrialState.COMPLETE),
        (result(3, 1.0), False, TrialState.PRUNED),
        (result(4, 1.0, failure="diverged"), False, TrialState.FAIL),
        (result(4, 1.0), True, TrialState.FAIL),
        (None, False, TrialState.FAIL),
        ({"epoch": 4}, False, TrialState.FAIL),
    ],
)
def test_how_a_trial_ended(last: dict[str, Any] | None, error: bool, state: TrialState) -> None:
    assert ending_state(last, 4, error=error) == state


def play(searcher: StudySearch, trials: int) -> list[dict[str, Any]]:
    """Run trials one at a time on a made-up objective; returns their configurations."""
    configs = []
    for number in range(trials):
        config = job_of(searcher, str(number)).config
        configs.append(config)
        value = abs(math.log(config["learning_rate"] / 0.003)) + config["dropout"]
        epochs = 4 if number % 3 == 0 else 1
        for epoch in range(1, epochs):
            searcher.on_trial_result(str(number), result(epoch, value + 1 / epoch))
        searcher.on_trial_complete(str(number), result(epochs, value))
    return configs


def test_suggestions_are_repeatable(space: SearchSpace) -> None:
    assert play(StudySearch(space), 15) == play(StudySearch(space), 15)


def test_suggestions_depend_on_history_alone(space: SearchSpace) -> None:
    """Other draws in the same process, from other studies, change nothing."""
    first = play(StudySearch(space), 13)
    searcher = StudySearch(space)
    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1)).ask()
    assert play(searcher, 13) == first


def simple_study(trials: int) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 9)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, trials)
    return study


def ask(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
    study.sampler = sampler
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_int("n", 1, 9)
    return dict(trial.params)


OPTIONS: dict[str, Any] = {"multivariate": True, "group": True, "constant_liar": True, "seed": 3}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_sampler_is_tpe_as_long_as_it_remembers_all() -> None:
    ours = ask(simple_study(60), RememberingSampler(**OPTIONS))
    assert ours == ask(simple_study(60), optuna.samplers.TPESampler(**OPTIONS))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_sampler_remembers_the_best_and_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RememberingSampler, "MEMORY", 20)
    monkeypatch.setattr(RememberingSampler, "BEST", 5)
    study = simple_study(60)
    running = study.ask()
    sampler = RememberingSampler(**OPTIONS)
    seen = {trial.number for trial in sampler._remembered(study)}
    best = sorted(study.trials[:60], key=lambda trial: trial.value or 0.0)[:5]
    assert seen == {*(t.number for t in best), *range(45, 60), running.number}
    assert 0 <= ask(study, sampler)["x"] <= 1


def test_the_first_configuration_is_tried_first_and_once(space: SearchSpace) -> None:
    configs = play(StudySearch(space), 8)
    expected = {"dropout": 0.125, "learning_rate": 0.01, "gru_sizes": [32, 48]}
    assert configs[0].items() >= expected.items()
    assert sum(config["dropout"] == 0.125 for config in configs) == 1


def test_a_job_is_whole(space: SearchSpace) -> None:
    job = job_of(StudySearch(space), "a")
    assert job.number == 0
    assert (job.epochs, job.epoch_sequences, job.max_digits) == (4, 60_000, 8)
    assert TrialConfig.from_dict(job.config).to_dict() == job.config


def test_seeds_differ_between_trials(space: SearchSpace) -> None:
    searcher = StudySearch(space)
    assert job_of(searcher, "a").seed != job_of(searcher, "b").seed


class Book(Bookkeeper):
    """Keeps records as the recorder does, without files."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.retries = 0

    def made(self, job: Job) -> None:
        self.records[job.name] = JobRecord(job)

    def infeasible(self, number: int, config: dict[str, Any], reason: str) -> None:
        job = Job(f"trial-{number:04d}", number, config, 0, 0, 0, 0, 0)
        reason = f"infeasible: {reason}"
        self.records[job.name] = JobRecord(job, state="FAIL", reason=reason)

    def again(self, trial_id: str) -> Job | None:
        self.retries -= 1
        return Job(**self.records[trial_id].job.to_dict()) if self.retries >= 0 else None


DEEP = """
search: {trials: 12, max_epochs: 2}
space:
  conv_channels: {list_of: {int: [2, 4]}, length: [1, 6]}
  kernel_size: 3
  padding: valid
"""


def test_impossible_networks_are_counted_and_passed_over() -> None:
    book = Book()
    searcher = StudySearch(parse_space(DEEP), book=book)
    for number in range(12):
        config = job_of(searcher, str(number)).config
        TrialConfig.from_dict(config)
        searcher.on_trial_complete(str(number), result(2, len(config["conv_channels"])))
    states = [trial.state for trial in searcher.study.trials]
    assert states.count(TrialState.COMPLETE) == 12
    passed_over = [record for record in book.records.values() if record.state == "FAIL"]
    assert states.count(TrialState.FAIL) == len(passed_over) > 0
    assert all("leaves no pixels" in (record.reason or "") for record in passed_over)
    assert searcher.suggest("end") == Searcher.FINISHED


def test_a_space_of_impossible_networks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn_search.tuning.searcher._infeasibility", lambda config: "no pixels")
    monkeypatch.setattr("crnn_search.tuning.searcher.MAX_INFEASIBLE_IN_A_ROW", 3)
    with pytest.raises(RunError, match="3 sampled networks in a row were impossible"):
        StudySearch(parse_space(DEEP)).suggest("a")


def asha(space: SearchSpace | None = None) -> FiniteAsha:
    epochs = space.search.max_epochs if space else 4
    return FiniteAsha(max_epochs=epochs, grace_epochs=1, reduction_factor=2)


def rungs(scheduler: ASHAScheduler) -> dict[float, dict[str, float]]:
    return {milestone: dict(values) for milestone, values in scheduler._brackets[0]._rungs}


def tune_trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name, config={"job": {"name": name}})


def report(scheduler: ASHAScheduler, name: str, item: dict[str, Any]) -> str:
    trial = tune_trial(name)
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, item))


def test_a_failed_trial_leaves_no_trace_in_a_rung() -> None:
    scheduler = asha()
    assert report(scheduler, "good", result(1, 5.0)) == TrialScheduler.CONTINUE
    before = rungs(scheduler)
    assert report(scheduler, "nan", result(1, math.nan)) == TrialScheduler.STOP
    assert report(scheduler, "bad", result(1, 99.0, failure="diverged")) == TrialScheduler.STOP
    for name, value in (("nan", math.nan), ("bad", 99.0)):
        trial = tune_trial(name)
        scheduler.on_trial_complete(None, trial, result(1, value, failure="diverged"))
    assert rungs(scheduler) == before


def test_stock_asha_goes_on_with_a_nan() -> None:
    scheduler = ASHAScheduler("epoch", METRIC, "min", max_t=4, reduction_factor=2)
    report(scheduler, "good", result(1, 5.0))
    assert report(scheduler, "nan", result(1, math.nan)) == TrialScheduler.CONTINUE  # the trap
    assert len(rungs(scheduler)[1]) == 2


def test_asha_stops_the_worse_and_keeps_the_better() -> None:
    scheduler = asha()
    for name, value in (("a", 5.0), ("b", 4.0)):
        assert report(scheduler, name, result(1, value)) == TrialScheduler.CONTINUE
    assert report(scheduler, "c", result(1, 6.0)) == TrialScheduler.STOP
    assert report(scheduler, "b", result(4, 1.0)) == TrialScheduler.STOP  # its budget is used up


def play_recorded(
    searcher: StudySearch, scheduler: FiniteAsha, book: Book, steps: int
) -> list[tuple[str, int]]:
    """Run trials one at a time under ASHA on a made-up objective, `steps` epochs in all."""
    seen: list[tuple[str, int]] = []
    while len(seen) < steps and isinstance(suggested := searcher.suggest("a"), dict):
        job = Job(**suggested["job"])
        record, trial = book.records[job.name], tune_trial(job.name)
        scheduler.on_trial_add(None, trial)
        decision = TrialScheduler.CONTINUE
        while decision == TrialScheduler.CONTINUE and len(seen) < steps:
            epoch = record.epochs + 1
            item = result(epoch, abs(math.log(job.config["learning_rate"] / 0.003)) + 1 / epoch)
            decision = scheduler.on_trial_result(None, trial, item)
            record.values.append(item[METRIC])
            record.losses.append(0.0)
            seen.append((job.name, epoch))
            if decision == TrialScheduler.CONTINUE:
                searcher.on_trial_result("a", item)
        if decision != TrialScheduler.CONTINUE:
            scheduler.on_trial_complete(None, trial, item)
            searcher.on_trial_complete("a", item)
            record.state = ending_state(item, job.epochs).name
    return seen


def frozen(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values)
        for t in trials
    ]


@pytest.mark.parametrize("text", [TEXT, DEEP])
@pytest.mark.parametrize("steps", [0, 1, 3, 8, 17])
def test_a_rebuilt_searcher_and_scheduler_go_on_as_the_first_would_have(
    text: str, steps: int
) -> None:
    space, whole, cut = parse_space(text), Book(), Book()
    searcher, scheduler = StudySearch(space, book=whole), asha(space)
    expected = play_recorded(searcher, scheduler, whole, 1000)
    first = play_recorded(StudySearch(space, book=cut), asha(space), cut, steps)
    again, rebuilt = StudySearch(space, cut.records.values(), cut), asha(space)
    for record in cut.records.values():
        rebuilt.replay(record)
    assert first + play_recorded(again, rebuilt, cut, 1000) == expected
    assert [r.job for r in cut.records.values()] == [r.job for r in whole.records.values()]
    assert frozen(again.study.trials) == frozen(searcher.study.trials)
    assert rungs(rebuilt) == rungs(scheduler)
    assert TrialState.RUNNING not in {trial.state for trial in again.study.trials}


def test_a_stock_searcher_made_again_tries_the_first_configurations_again() -> None:
    points = [{"x": 0.25}]

    def space(trial: optuna.Trial) -> None:
        trial.suggest_float("x", 0, 1)

    seen = []
    storage = optuna.storages.InMemoryStorage()
    for _ in range(2):
        searcher = OptunaSearch(
            space, METRIC, "min", points_to_evaluate=points, storage=storage, study_name="one"
        )
        seen.append(searcher.suggest("a"))
    assert seen == [{"x": 0.25}, {"x": 0.25}]  # the trap
    states = [trial.state for trial in searcher._ot_study.trials]
    assert states == [TrialState.RUNNING] * 2  # and that of the first will for ever


def test_asha_made_again_by_stock_tune_has_empty_rungs(space: SearchSpace) -> None:
    """`Tuner.restore` takes the scheduler as it is given, new."""
    records = [record_of(space, number, 5.0 - number) for number in range(2)]
    ours = asha()
    for record in records:
        ours.replay(record)
    stock_again = ASHAScheduler("epoch", METRIC, "min", max_t=4, reduction_factor=2)
    assert report(ours, "worse", result(1, 9.0)) == TrialScheduler.STOP
    assert report(stock_again, "worse", result(1, 9.0)) == TrialScheduler.CONTINUE  # the trap


def record_of(space: SearchSpace, number: int, *values: float) -> JobRecord:
    job = job_of(StudySearch(space), "a")
    job = Job(**{**job.to_dict(), "number": number, "name": f"trial-{number:04d}"})
    return JobRecord(job, values=list(values), losses=[1.0] * len(values), state="PRUNED")


def test_a_trial_whose_process_died_comes_back_as_itself(space: SearchSpace) -> None:
    book = Book()
    book.retries = 1
    searcher = StudySearch(space, book=book)
    job = job_of(searcher, "trial-0000")
    searcher.on_trial_result("trial-0000", result(1, 5.0))
    searcher.on_trial_complete("trial-0000", error=True)
    assert job_of(searcher, "again") == job
    searcher.on_trial_result("again", result(1, 5.0))  # repeated by the new process
    searcher.on_trial_complete("again", result(4, 1.0))
    (trial,) = [t for t in searcher.study.trials if t.state != TrialState.WAITING]
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values == {1: 5.0, 4: 1.0}


def test_a_trial_that_may_not_come_back_has_failed(space: SearchSpace) -> None:
    searcher = StudySearch(space, book=Book())
    job_of(searcher, "trial-0000")
    searcher.on_trial_complete(
        "trial-0000", {METRIC: math.nan, "out_of_memory": "none", "epoch": 0}
    )
    assert searcher.study.trials[0].state == TrialState.FAIL


def test_a_search_waits_for_those_that_may_come_back(space: SearchSpace) -> None:
    searcher = StudySearch(space)
    for number in range(20):
        job_of(searcher, str(number))
    assert searcher.suggest("more") is None
    for number in range(20):
        searcher.on_trial_complete(str(number), result(1, 3.0))
    assert not searcher.finished
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.finished


def test_rungs_know_a_trial_that_came_back() -> None:
    scheduler = asha()
    for name, value in (("a", 4.0), ("b", 5.0)):
        report(scheduler, name, result(1, value))
    before = rungs(scheduler)
    trial = tune_trial("a")
    scheduler.on_trial_error(None, trial)
    again = SimpleNamespace(trial_id="another id of Ray's", config=trial.config)
    scheduler.on_trial_add(None, again)
    assert scheduler.on_trial_result(None, again, result(1, 4.0)) == TrialScheduler.CONTINUE
    assert rungs(scheduler) == before
    assert scheduler.on_trial_result(None, again, result(2, 3.0)) == TrialScheduler.CONTINUE
    assert rungs(scheduler)[2] == {"a": -3.0}


def test_a_spent_budget_stops_every_trial_after_its_epoch() -> None:
    scheduler = FiniteAsha(4, 1, 2, may_go_on=lambda: False)
    assert report(scheduler, "best", result(1, 0.1)) == TrialScheduler.STOP
    assert rungs(scheduler)[1] == {"best": -0.1}


def test_bounds_are_inclusive() -> None:
    """Stock conversion takes the upper bound of an integer as exclusive, Optuna as inclusive."""
    converted = OptunaSearch.convert_search_space({"batch_size": tune.randint(1, 2)})
    assert converted["batch_size"].high == 1  # the trap
    searcher = StudySearch(parse_space("search: {trials: 30}\nspace: {batch_size: {int: [1, 2]}}"))
    sizes = {job_of(searcher, str(number)).config["batch_size"] for number in range(30)}
    assert sizes == {1, 2}


def test_no_more_trials_than_there_is_room_for(space: SearchSpace) -> None:
    searcher = StudySearch(space)
    room = 1
    searcher.room = lambda: room
    assert searcher.suggest("a") is not None
    assert searcher.suggest("b") is None
    room = 2  # a node has joined
    assert searcher.suggest("b") is not None
    room = 1  # and is gone again
    searcher.on_trial_complete("b", result(1, 5.0))
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", result(1, 5.0))
    assert searcher.suggest("c") is not None
