"""The manifest of a run: what is needed to repeat it."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from crnn_search import __version__
from crnn_search.cluster.provenance import git_commit
from crnn_search.errors import InputError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.spaces.sections import check_sections
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.checks import ALTERED, check_types
from crnn_search.storage.files import read_json, write_json
from crnn_search.storage.journal import REPORT_TYPES
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import check_arithmetic
from crnn_search.tuning.budget import Budget

FORMAT = 3
"""Of a run's files. A run of another format has to be continued by the version that wrote it."""

PACKAGES = (
    "ray", "optuna", "torch", "torchvision", "numpy", "onnx", "onnxruntime",
    "safetensors",
)  # fmt: skip


UNLIMITED, NOTHING_USED = Budget(), Budget(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RunBudget:
    """What a run may use. before: what it had used when the limits were set."""

    limits: Budget = UNLIMITED
    before: Budget = NOTHING_USED


@dataclass(frozen=True)
class Manifest:
    """What is needed to repeat a run.

    command: that launches it again, ready for a shell. created: time of the launch, UTC, ISO 8601.
    hardware: the cluster's nodes and what was measured of its GPU; None before a cluster is there.
    arithmetic: that of every trial; None before a cluster is there.
    warm_start: the runs whose trials its sampler started with. space: the sections of its space.
    earlier_reports: test RMSE and number of trials of each report before the run was extended.
    """

    name: str
    command: str
    created: str
    git_commit: str | None
    versions: dict[str, str]
    seed: int
    data_sha256: dict[str, str]
    space: dict[str, Any]
    budget: RunBudget = RunBudget()
    hardware: dict[str, Any] | None = None
    arithmetic: Arithmetic | None = None
    warm_start: list[str] = field(default_factory=list)
    earlier_reports: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        run: RunFolder,
        space: SearchSpace,
        data_sha256: dict[str, str],
        limits: Budget = UNLIMITED,
        warm_runs: Sequence[str] = (),
        command: str = "",
    ) -> Self:
        """The manifest of a new run."""
        return cls(
            name=run.name,
            command=command,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            git_commit=git_commit(),
            versions={"python": platform.python_version(), "crnn-search": __version__}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            seed=space.search.seed,
            data_sha256=data_sha256,
            space=space.sections(),
            budget=RunBudget(limits),
            warm_start=list(warm_runs),
        )

    @classmethod
    def read(cls, run: RunFolder) -> Self:
        """The manifest of an existing run.

        Raises:
            InputError: it is missing or altered, or the run has another format.
        """
        if not run.manifest.is_file():
            raise InputError(
                f"{run.location} has no {run.manifest.name}: its launch ended before the search "
                "was set up; launch it again"
            )
        values = read_json(run.manifest)
        try:
            found = values.pop("format", 1)
            if found != FORMAT:
                raise InputError(_other_format(run, found, values["versions"]["crnn-search"]))
            _check(values)
            if values["arithmetic"] is not None:
                values["arithmetic"] = Arithmetic(**values["arithmetic"])
            budgets = {name: Budget(**budget) for name, budget in values["budget"].items()}
            return cls(**values | {"budget": RunBudget(**budgets)})
        except ALTERED as error:
            raise InputError(
                f"{run.location_of(run.manifest)} is not a manifest of this version of "
                f"crnn-search: {type(error).__name__}: {error}"
            ) from error

    def write(self, run: RunFolder) -> None:
        """Write it into a run's folder."""
        write_json(run.manifest, {"format": FORMAT, **asdict(self)})

    def on_cluster(
        self, space: SearchSpace, hardware: dict[str, Any], arithmetic: Arithmetic
    ) -> Self:
        """The manifest once a cluster is there: the first hardware of a run stays."""
        return replace(
            self,
            space=space.sections(),
            hardware=self.hardware or hardware,
            arithmetic=arithmetic,
        )


_TYPES = {
    "name": "str", "command": "str", "created": "str", "git_commit": "str | None",
    "versions": "dict[str, Any]", "seed": "int", "data_sha256": "dict[str, Any]",
    "space": "dict[str, Any]", "budget": "dict[str, Any]", "warm_start": "list[str]",
    "hardware": "dict[str, Any] | None", "arithmetic": "dict[str, Any] | None",
    "earlier_reports": "list[dict[str, Any]]",
}  # fmt: skip
"""Types of a manifest's values."""

_NODE_TYPES = {
    "cpus": "float", "gpus": "float", "memory_gb": "float", "cpu_model": "str | None",
}  # fmt: skip
"""Types of what a report says of a node."""


def _check(values: dict[str, Any]) -> None:
    """Check the types of what a manifest holds. Raises one of `ALTERED`."""
    check_types({name: values[name] for name in _TYPES}, _TYPES)
    for name in ("versions", "data_sha256"):
        check_types(values[name], dict.fromkeys(values[name], "str"))
    for budget in values["budget"].values():
        check_types(budget, dict.fromkeys(budget, "float | None"))
    for found in values["earlier_reports"]:
        check_types({name: found[name] for name in REPORT_TYPES}, REPORT_TYPES)
    if values["hardware"] is not None:
        nodes: list[dict[str, Any]] = values["hardware"]["nodes"]
        check_types({"nodes": nodes}, {"nodes": "list[dict[str, Any]]"})
        for node in nodes:
            check_types({name: node[name] for name in _NODE_TYPES}, _NODE_TYPES)
    if values["arithmetic"] is not None:
        check_arithmetic(values["arithmetic"])
    check_sections(values["space"])


def _other_format(run: RunFolder, found: object, version: str) -> str:
    return (
        f"{run.location} was written by crnn-search {version}, whose runs have format {found} (see "
        f"{run.manifest.name}); crnn-search {__version__} reads runs of format {FORMAT}: use the "
        "version that wrote it, or launch the search again"
    )
