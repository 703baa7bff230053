"""The rooms of the house: imports point down the list of `docs/architecture.md`, and only down."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import crnn_search

PACKAGE = Path(crnn_search.__file__).parent

FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"control"},
    {"launch"},
    {"search", "retrain", "report", "export"},
    {"cluster", "plots", "predictor", "render", "status", "submission", "warm_start"},
    {"recorder"},
    {"searcher", "scheduler", "trainable", "budget", "progress", "dry_run"},
    {"journal", "checkpoint", "ledger", "evaluate", "lease"},
    {"engine", "space_file", "lines"},
    {"layers", "mnist", "model", "space", "recurrence", "graphs", "optimizers"},
    {
        "data",
        "footprint",
        "paths",
        "domains",
        "yaml_lines",
        "job",
        "kernels",
        "matrices",
        "memory",
        "provenance",
    },
    {"native", "storage", "config"},
    {"compiler"},
    {"cache", "patience"},
    {"errors"},
]

ALLOWED: dict[str, set[str]] = {
    "ray": {"cluster", "recorder", "trainable", "searcher", "scheduler", "submission"},
    "optuna": {"space", "searcher", "search", "report", "warm_start"},
    "onnx": {"export"},
    "onnxruntime": {"predictor"},
    "matplotlib": {"plots"},
    "typer": {"cli", "control"},
    "pyarrow": {"storage"},
    "rich": {"cli", "control", "progress"},
    "pydantic": {"space", "space_file"},
}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(module: str) -> set[str]:
    """Top-level names of what a module imports, of this package as `crnn_search.NAME`."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "crnn_search":
            names = {alias.name for alias in node.names} - {"__version__"}
            found |= {f"crnn_search.{name}" for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_module_has_a_floor() -> None:
    assert sorted(name for floor in FLOORS for name in floor) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    floor = next(i for i, names in enumerate(FLOORS) if module in names)
    below = set().union(*FLOORS[floor + 1 :])
    own = {name.split(".")[1] for name in imports(module) if name.startswith("crnn_search.")}
    assert own <= below


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module: str) -> None:
    for name in imports(module):
        library = name.split(".")[0]
        assert module in ALLOWED.get(library, {module}), f"{module} imports {library}"


@pytest.mark.parametrize("arguments", [["--help"], ["check", "search_spaces/quick.yaml"]])
def test_quick_commands_import_neither_ray_nor_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from crnn_search.cli import app; "
        f"app({arguments!r}, standalone_mode=False); "
        "print(*(name for name in ('ray', 'torch') if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert done.stderr.strip() == ""
