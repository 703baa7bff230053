"""`RunFolder`: the name of every file of a run, and where the run is stored."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crnn_search.errors import InputError
from crnn_search.storage.location import join

if TYPE_CHECKING:
    from crnn_search.storage.mirror import Mirror

SPACE = "space.yaml"
"""The file that makes a folder the folder of a run."""

JOURNAL, LEDGER, STAGES = "journal.jsonl", "trials.jsonl", "stages.json"
LOG, TENSORBOARD, STUDY = "search.log", "tensorboard", "study.db"
MANIFEST, REPORT = "manifest.json", "report.json"
STUDY_VARIABLE = "CRNN_SEARCH_STUDY_STORAGE"
"""The environment variable that names a database in place of `STUDY`; it may hold a password."""

CHECKPOINTS, STOP, LEASE = "checkpoints", "stop", "lease.json"

APPENDED = (JOURNAL, LEDGER)
"""Files that grow line by line; in an object store each line is written as it is appended."""

NOT_PUSHED = (*APPENDED, CHECKPOINTS, STOP, LEASE)
"""Names that `changes` leaves alone: they are written to an object store on their own."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run and the names of all files in it.

    root: the local folder. mirror: keeps it in step with an object store, if the run is stored in
    one; checkpoints are then in the object store only.
    """

    root: Path
    mirror: Mirror | None = None

    @property
    def location(self) -> str:
        """Where the run is stored, as a user names it: a folder or a URI."""
        return self.mirror.uri if self.mirror else str(self.root)

    @property
    def resume_command(self) -> str:
        """The command that continues the run, ready for a shell."""
        return shlex.join(["crnn-search", "resume", self.location])

    @property
    def checkpoint_location(self) -> str:
        """The folder or URI of all trials' checkpoints, as every node finds it."""
        if self.mirror:
            return join(self.mirror.uri, CHECKPOINTS)
        return str(self.checkpoints.absolute())

    def location_of(self, path: Path) -> str:
        """Where a file of the run is stored, as a user names it."""
        return join(self.location, *path.relative_to(self.root).parts)

    def with_locations(self, text: str) -> str:
        """A text whose local paths are replaced by locations as a user names them."""
        if not self.mirror:
            return text
        paths = re.escape(str(self.root)) + r"[^\s:;,]*"
        return re.sub(paths, lambda found: self.location_of(Path(found[0])), text)

    def has(self, path: Path) -> bool:
        """Whether the run has a file or a folder, fetched or not."""
        if path.exists():
            return True
        return self.mirror is not None and self.mirror.has(path.relative_to(self.root).as_posix())

    def size(self, path: Path) -> int | None:
        """The size of a file of the run, fetched or not, in bytes; None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        try:
            if path.is_file():
                return path.stat().st_size
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return self.mirror.size(path.relative_to(self.root).as_posix()) if self.mirror else None

    def fetch(self, *names: str) -> None:
        """Fetch more files of a run that was opened for some only; in a folder nothing is to do.

        Raises:
            StorageError: the object store cannot be read.
        """
        if self.mirror:
            self.mirror.pull_more(names)

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """A block that changes files of the run; all that changed is stored when it ends.

        Without an object store there is nothing to do: the files are where they belong. If the
        block raises, nothing is pushed.

        Raises:
            StorageError: the object store cannot be written, or another process took over the run.
        """
        yield
        if self.mirror:
            self.mirror.push()

    def file(self, relative: str) -> Path:
        """A file of the run, fetched from the object store if it is not in the folder.

        Raises:
            StorageError: the object store cannot be read.
        """
        path = self.root / relative
        if self.mirror and not path.exists():
            self.mirror.store.fetch(relative, path)
        return path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def manifest(self) -> Path:
        return self.root / MANIFEST

    @property
    def space(self) -> Path:
        return self.root / SPACE

    @property
    def ledger(self) -> Path:
        return self.root / LEDGER

    @property
    def journal(self) -> Path:
        return self.root / JOURNAL

    @property
    def warm_start(self) -> Path:
        """Trials of earlier runs that the sampler starts with."""
        return self.root / "warm_start.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Training states, a folder for each trial."""
        return self.root / CHECKPOINTS

    @property
    def tensorboard(self) -> Path:
        return self.root / TENSORBOARD

    @property
    def study(self) -> Path:
        """A copy of the study for Optuna's dashboard, unless it is in a database server."""
        return self.root / STUDY

    @property
    def finalists(self) -> Path:
        return self.root / "finalists.json"

    @property
    def best(self) -> Path:
        return self.root / "best.json"

    @property
    def retrained(self) -> Path:
        return self.root / "retrained.json"

    @property
    def stages(self) -> Path:
        """The files of each stage that is done."""
        return self.root / STAGES

    @property
    def retrained_models(self) -> Path:
        return self.root / "retrained"

    @property
    def report_json(self) -> Path:
        return self.root / REPORT

    @property
    def report_markdown(self) -> Path:
        return self.root / "report.md"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def test_predictions(self) -> Path:
        """What the retrained networks predicted for the test sequences."""
        return self.root / "test_predictions.npz"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def data(self) -> Path:
        """The data set, if it is at no place where it can be found again."""
        return self.root / "data"

    @property
    def stop(self) -> Path:
        """A file whose presence asks the process that runs the search to stop."""
        return self.root / STOP

    @property
    def log(self) -> Path:
        """Output of Ray and the libraries, kept out of the terminal."""
        return self.root / LOG
