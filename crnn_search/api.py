"""The Python API: what `crnn_search` exports, and what the command line is built on.

Heavy libraries are imported by the functions that need them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from crnn_search.cluster import settings
from crnn_search.errors import InputError, InterruptedRun, RunFolderError, StorageError
from crnn_search.hyperparameters import PARAMETERS
from crnn_search.models.model import Model as Model
from crnn_search.pipeline.session import Session as Session
from crnn_search.pipeline.session import check, opened
from crnn_search.results.forecast import Forecast as Forecast
from crnn_search.storage import runs
from crnn_search.storage.location import is_uri, local_path
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import DEFAULT_STORAGE

if TYPE_CHECKING:
    from crnn_search.data.arrays import SequenceData
    from crnn_search.results.schema import Report
    from crnn_search.spaces.space import SearchSpace
    from crnn_search.storage.trial import TrialRecord

COLUMNS = (
    "number", "name", "state", "reason", "epochs", "validation_rmse", "train_loss",
    "validation_rmse_by_epoch", "seconds", "core_seconds", "gpu_seconds", "node", "device", "seed",
)  # fmt: skip
"""Keys of a row of `Run.trials`, before those of the hyperparameters."""


@dataclass(frozen=True)
class Run:
    """A run. One in an object store is as it was when it was opened: `open_run(run)` reads it anew.

    folder: the names of its files.
    """

    folder: RunFolder

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def location(self) -> str:
        """Its folder or URI."""
        return self.folder.location

    def check(self, *, force: bool = False) -> None:
        """Check that the run may be continued. force: although it belongs to another user.

        Raises:
            InputError: this version cannot continue it, or it was altered after it was finished.
            RunFolderError: another user owns it.
        """
        if not force:
            runs.check_owner(self.folder)
        from crnn_search.pipeline.manifest import Manifest
        from crnn_search.storage import stages

        Manifest.read(self.folder)
        stages.first_open(self.folder)

    def status(self) -> dict[str, Any]:
        """Its state: the content of `crnn-search status --json`.

        Raises:
            InputError: one of its files cannot be read.
        """
        from crnn_search.results.status import read_status

        return read_status(self.folder)

    def trials(self) -> list[dict[str, Any]]:
        """The trials of its search by number, running and infeasible ones too: rows of a table.

        All rows have the same keys: `number`, `name`, `state`, `reason`, `epochs`,
        `validation_rmse` and `train_loss` (the last), `validation_rmse_by_epoch`, `seconds`,
        `core_seconds`, `gpu_seconds`, `node`, `device`, `seed`, and each hyperparameter. What a
        trial does not have is None.

        Raises:
            InputError: the journal or the ledger cannot be read.
        """
        from crnn_search.storage.journal import SEARCH, read_history

        history = read_history(self.folder.journal, self.folder.ledger)
        rows = [_row(record) for record in history.records(SEARCH).values()]
        for trial in history.infeasible:
            row = {"number": trial.number, "state": "INFEASIBLE", "reason": trial.reason}
            rows.append(dict.fromkeys((*COLUMNS, *PARAMETERS)) | row | trial.config)
        return sorted(rows, key=lambda row: row["number"])

    def report(self) -> Report:
        """The report of a finished run, the content of `report.json`: see `results.schema`.

        Raises:
            InputError: it has not been written yet, or was altered since.
        """
        from crnn_search.storage import stages
        from crnn_search.storage.files import read_json

        path = self.folder.report_json
        if not path.is_file():
            raise InputError(f"{self.location} has no {path.name}: the run is not finished")
        stages.check(self.folder, stages.REPORT)
        report: Report = read_json(path)
        return report

    def model(self) -> Model:
        """The exported winner of a finished run, on the CPU.

        Raises:
            ModelFileError: the run has no model, or it was altered.
        """
        return load_model(self.folder.root)


def load_space(path_or_text: str | Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """A search space from a YAML file, or from YAML text: a str with a line break or `: `.

    overrides: `key=value` texts, such as `search.trials=16`, as `--set` takes them.

    Raises:
        InputError: the path is none, as `~nobody/space.yaml`.
        SpaceError: the file cannot be read or the space is wrong; every problem, one line each.
    """
    from crnn_search.spaces import file

    if isinstance(path_or_text, str) and ("\n" in path_or_text or ": " in path_or_text):
        return file.parse_space(path_or_text, list(overrides))
    return file.load_space(local_path(path_or_text), list(overrides))


def launch(
    space: SearchSpace | str | Path,
    *,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    time_budget: str | None = None,
    compute_budget: str | None = None,
    warm_start: Sequence[Run | str | Path] = (),
    **session: Unpack[Session],
) -> Run:
    """Search a space, retrain the winner, report and export it; returns when all is done.

    space: as `load_space` gives or takes it. name: of the run; by default `search-`, the time and
    a random number. storage: the folder of runs, or a URI: s3://BUCKET/PREFIX. time_budget: of the
    whole run, such as `2h`. compute_budget: `20gpuh` or `20corehours`. warm_start: earlier runs to
    learn from.

    Raises:
        InputError: something that was given is wrong; no run is left.
        InterruptedRun: Ctrl-C or `crnn-search stop`; `resume` continues the run.
        CrnnSearchError: the run failed.
    """
    from crnn_search.storage.journal import read_history
    from crnn_search.tuning.budget import parse_budget

    check(session)
    space = _space_for(space, session.get("data"))
    budget = parse_budget(time_budget, compute_budget)
    places = [run.location if isinstance(run, Run) else str(run) for run in warm_start]
    warm_runs = [runs.open_run(place, ()).location for place in places]
    folder = runs.create_run(str(storage), name or runs.default_name("search"))
    if "command" not in session:
        budgets = {"--time-budget": time_budget, "--compute-budget": compute_budget}
        words = ["crnn-search", "launch", folder.location_of(folder.space)]
        for option, value in budgets.items():
            words += [] if value is None else [option, value]
        for run in warm_runs:
            words += ["--warm-start", run]
        session["command"] = shlex.join(words)
    try:
        with opened(folder, session) as (pipeline, progress, settings):
            pipeline.launch(space, folder, progress, settings, budget=budget, warm_runs=warm_runs)
    except StorageError as error:
        if folder.manifest.is_file():
            raise
        runs.remove_run(folder)
        raise RunFolderError(
            f"cannot write {error.path}: {error.reason}; make room, or choose another folder with "
            "--storage"
        ) from error
    except (InputError, InterruptedRun) as error:
        if isinstance(error, InterruptedRun) and folder.manifest.is_file():
            raise
        if not read_history(folder.journal, folder.ledger).stages:
            runs.remove_run(folder)  # no trial started: not even the name is kept
        raise
    return Run(folder)


def resume(run: Run | str | Path, *, force: bool = False, **session: Unpack[Session]) -> Run:
    """Continue a run that was stopped or crashed; nothing is done if it is finished.

    force: trust a run of another user, whose files decide what is trained. Raises as `launch`.
    """
    check(session)
    run = open_run(run)
    run.check(force=force)
    if run.status()["stage"] != "finished":
        with opened(run.folder, session) as (pipeline, progress, settings):
            pipeline.resume(run.folder, progress, settings)
    return run


def extend(
    run: Run | str | Path,
    trials: int,
    *,
    time_budget: str | None = None,
    compute_budget: str | None = None,
    force: bool = False,
    **session: Unpack[Session],
) -> Run:
    """Add trials to a run's search, then report and export again.

    force: trust a run of another user, whose files decide what is trained. Raises as `launch`.
    """
    from crnn_search.tuning.budget import parse_budget

    check(session)
    if trials < 1:
        raise InputError(f"trials must be a whole number from 1 on, got {trials}")
    budget = parse_budget(time_budget, compute_budget)
    run = open_run(run)
    run.check(force=force)
    with opened(run.folder, session) as (pipeline, progress, settings):
        pipeline.extend(run.folder, trials, progress, settings, budget)
    return run


def forecast(
    space: SearchSpace | str | Path,
    *,
    data_dir: str | Path | None = None,
    data: SequenceData | None = None,
    on_note: Callable[[str], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Forecast:
    """Measure a few trials on this machine, and forecast what a run of the space takes here.

    space: as `load_space` gives or takes it. data_dir, data: as for `launch`. on_note: called with
    messages; by default they are lines of the logger `crnn_search`. on_progress: called with what
    is done, how many of it, and how many there are.

    Raises:
        InputError: something that was given is wrong, or a trial cannot be measured.
    """
    from crnn_search.pipeline.forecast import forecast_run
    from crnn_search.pipeline.log_progress import LogProgress

    settings.apply()
    log = LogProgress()
    return forecast_run(
        _space_for(space, data),
        None if data_dir is None else Path(data_dir),
        data,
        on_note or log.note,
        on_progress or log.reading,
    )


def open_run(place: Run | str | Path) -> Run:
    """The run in an existing folder, or at a URI.

    Raises:
        RunFolderError: there is no run, or it cannot be read.
    """
    return Run(runs.open_run(place.location if isinstance(place, Run) else str(place)))


def load_model(path: str | Path) -> Model:
    """The model in a file, a model's folder, a run's folder, or a run at a URI.

    Raises:
        ModelFileError: the file is missing, or is not a model of this package.
        RunFolderError: there is no run at the URI.
    """
    from crnn_search.models import predictor

    local = runs.open_run(str(path)).root if is_uri(str(path)) else local_path(path)
    return Model(predictor.load(local))


def evaluate(
    model: Model | str | Path,
    data: str | Path | SequenceData,
    *,
    target: str | None = None,
    split: str | None = None,
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Score a model on labelled sequences, as a run's report scores its test sequences.

    model: or its place, as `load_model` takes it. data: a folder with `metadata.csv`, an `.npz`
    file, their URI, or arrays; for a model of digits `mnist` or a folder with MNIST's own files,
    too. target: the column, by default the one that the model predicts. split: `all` or one of the
    data's; by default `test` of the model's own data set, else all. data_dir: MNIST's four files,
    for `mnist`; by default a download.

    Returns the content of `crnn-search evaluate --json`: `score` and `baselines`, as those of
    `report.json`, `worst`, `warnings` and what was evaluated.

    Raises:
        InputError: the model, the data or an option are not valid, or no sequence is in the split.
        RunError: the model predicts something that is not a finite number.
    """
    from crnn_search.pipeline import evaluation
    from crnn_search.pipeline.evaluation_data import Options

    loaded = model if isinstance(model, Model) else load_model(model)
    options = Options(target, split, None if data_dir is None else Path(data_dir))
    return evaluation.evaluate(loaded, data, options).figures


def _space_for(space: SearchSpace | str | Path, data: SequenceData | None) -> SearchSpace:
    """A space as `launch` takes it; for data in memory, if there are some."""
    if isinstance(space, str | Path):
        return load_space(space, [] if data is None else [f"task.data={json.dumps(data.name)}"])
    return space if data is None or space.task.data is not None else space.for_data(data.name)


def _row(record: TrialRecord) -> dict[str, Any]:
    """A row of `Run.trials`, without the hyperparameters."""
    trial = record.trial
    return {
        "number": trial.number,
        "name": trial.name,
        "state": str(record.state),
        "reason": record.reason,
        "epochs": record.epochs,
        "validation_rmse": record.last_rmse,
        "train_loss": record.train_loss[-1] if record.train_loss else None,
        "validation_rmse_by_epoch": list(record.validation_rmse),
        "seconds": record.seconds,
        "core_seconds": record.core_seconds,
        "gpu_seconds": record.gpu_seconds,
        "node": record.node,
        "device": record.device,
        "seed": trial.seed,
    } | trial.config.to_dict()
