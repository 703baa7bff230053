"""Search space files: read and validated completely before a search starts.

All problems are reported at once, each with its line, its rule and the value received.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from crnn_search.errors import InputError, SpaceError
from crnn_search.hyperparameters import PARAMETERS, ImageShape, unknown_name
from crnn_search.spaces.document import Document
from crnn_search.spaces.domain_parser import parse_domain
from crnn_search.spaces.domains import Domain, canonical, to_json
from crnn_search.spaces.entries import EntryCheck
from crnn_search.spaces.sections import (
    SECTIONS,
    MnistSumsSpec,
    ResourcesSpec,
    RetrainSpec,
    SearchSpec,
    Section,
    TaskSpec,
)
from crnn_search.spaces.space import (
    Images,
    SearchSpace,
    problems,
    unknown_parameter,
    why_infeasible,
)
from crnn_search.storage.location import is_uri, local_path
from crnn_search.storage.regular_file import unreadable
from crnn_search.text import shown


def load_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """Read a search space file; `overrides` are `key=value` texts of `--set`.

    Raises:
        SpaceError: the file cannot be read or is wrong; every problem, one line each.
    """
    if reason := unreadable(path):
        raise SpaceError([f"{path}: cannot be read: {reason}"])
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"0x{raw[error.start]:02x}"
        raise SpaceError([f"{path}:{line}: must be UTF-8 text, got the byte {byte}"]) from None
    return parse_space(text, overrides, str(path), path.parent)


def parse_space(
    text: str,
    overrides: Sequence[str] = (),
    name: str = "space.yaml",
    folder: Path = Path(),
) -> SearchSpace:
    """Parse a search space; messages call the file `name`. Data are relative to `folder`.

    Raises:
        SpaceError: the text or an override is wrong; every problem, one line each.
    """
    document = Document(text, name)
    for assignment in overrides:
        document.override(assignment)
    for key in document.values:
        if key not in _KEYS:
            document.add((key,), unknown_name(key, _KEYS))
    task = _read_task(document, folder)
    images = Images.of(task)
    search = _section(document, "search", SearchSpec)
    known_shape = task.data is None and not document.has_problem(("task",))
    max_parameters = search.max_parameters if known_shape else None
    space = _read_space(document, images, max_parameters)
    result = SearchSpace(
        task=task,
        search=search,
        retrain=_section(
            document, "retrain", RetrainSpec, {"epoch_sequences": search.epoch_sequences}
        ),
        resources=_section(document, "resources", ResourcesSpec),
        first=_read_first(document, space, images.shape, max_parameters),
        space=_known(space),
        images=images,
    )
    document.raise_problems()
    return result


_KEYS = (*SECTIONS, "first", "space")

_S = TypeVar("_S", bound=Section)


def _read_task(document: Document, folder: Path) -> TaskSpec:
    """The task. `max_digits` alone is the short form of `mnist_sums`."""
    raw = document.values.get("task")
    if isinstance(raw, dict) and "max_digits" in raw and not raw.keys() & TaskSpec.model_fields:
        return TaskSpec(mnist_sums=_section(document, "task", MnistSumsSpec))
    task = _section(document, "task", TaskSpec)
    if task.data is None:
        return TaskSpec(mnist_sums=task.mnist_sums or MnistSumsSpec())
    try:
        place = task.data if is_uri(task.data) else str((folder / local_path(task.data)).absolute())
    except InputError as error:
        document.add(("task", "data"), str(error))
        return task
    return task.model_copy(update={"data": place, "longer": task.longer or "drop"})


def _section(
    document: Document, section: str, spec: type[_S], defaults: Mapping[str, Any] | None = None
) -> _S:
    """A section's spec; all defaults if it has a problem, which is recorded."""
    raw = document.values.get(section)
    if raw is None:  # absent, or all its lines are comments
        raw = {}
    if not isinstance(raw, dict):
        document.add((section,), f"must be a mapping, got {shown(raw)}")
        return spec()
    try:
        return spec.model_validate({**(defaults or {}), **raw})
    except ValidationError as error:
        # A union reports one problem for each of its members: one for each name is enough.
        by_name = {str(item["loc"][0]): item for item in error.errors()}
    for name, item in by_name.items():
        if name not in spec.model_fields:
            message = unknown_name(name, spec.model_fields)
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = f"must be {spec.model_fields[name].description}, got {shown(raw[name])}"
        document.add((section, name), message)
    return spec()


def _read_space(
    document: Document, images: Images, max_parameters: int | None
) -> dict[str, Domain | None]:
    """The domain of each hyperparameter; None, which has all values, if it has a problem."""
    raw = document.values.get("space")
    space: dict[str, Domain | None] = {}
    if not isinstance(raw, dict):
        received = shown(raw) if "space" in document.values else "none"
        rule = "must be a mapping of hyperparameters ({} searches nothing)"
        document.add(("space",), f"{rule}, got {received}")
        raw = {}
    for name, value in raw.items():
        if name in PARAMETERS:
            space[name] = parse_domain(document, ("space", name), PARAMETERS[name], value)
        else:
            document.add(("space", name), unknown_parameter(name))
    if not document.has_problem(("task",)):
        _check_lengths(document, space.get("max_sequence_length"), images.longest)
    if document.has_problem(("space",)):
        return dict.fromkeys(PARAMETERS) | space
    if reason := why_infeasible(_known(space), images.shape, max_parameters):
        document.add(("space",), f"no sample is feasible: {reason}")
    return space


def _known(space: Mapping[str, Domain | None]) -> dict[str, Domain]:
    return {name: domain for name, domain in space.items() if domain}


def _check_lengths(document: Document, domain: Domain | None, longest: int) -> None:
    """Refuse training sequences longer than the validation sequences."""
    highest = int(PARAMETERS["max_sequence_length"].high)
    too_long = [n for n in range(longest + 1, highest + 1) if domain and domain.contains(n)]
    if too_long:
        rule = f"must be at most {longest}, the images of the longest sequence"
        document.add(("space", "max_sequence_length"), f"{rule}, got {too_long[-1]}")


def _read_first(
    document: Document,
    space: Mapping[str, Domain | None],
    shape: ImageShape,
    max_parameters: int | None,
) -> tuple[dict[str, Any], ...]:
    """The configurations to try first; their problems are recorded."""
    entries = document.values.get("first")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        document.add(("first",), f"must be a list of configurations, got {shown(entries)}")
        return ()
    feasible = not document.has_problem(("space",))
    check = EntryCheck(_known(space), shape, max_parameters)
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            document.add(("first", i), f"must be a mapping of hyperparameters, got {shown(entry)}")
            continue
        found = list(problems(entry, space))
        for name, message in found:
            document.add(("first", i, name), message)
        if not found and feasible and (reason := check.why_infeasible(entry)):
            document.add(("first", i), f"is infeasible: {reason}")
    if document.has_problem(("first",)):
        return ()
    return tuple({k: to_json(canonical(PARAMETERS[k], v)) for k, v in e.items()} for e in entries)
