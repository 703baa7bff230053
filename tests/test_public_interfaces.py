"""No class relies on private attributes of a library's class that it derives from.

ruff's SLF001 and PLC2701 find private attributes of other objects and private modules; they accept
each attribute of `self`, inherited ones, too.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest
from torch import nn

import crnn_search

ALLOWED = {
    # One dict of parameters for both GRUs (tests/kernels: test_state_dict_round_trip).
    ("KernelGRU", "_parameters"),
}


def private_names(source: str) -> set[str]:
    """Private attributes of `self`, and private methods."""
    return set(re.findall(r"\b(?:self\.|def )(_[a-z]\w*)", source))


def foreign_bases(cls: type) -> Iterator[type]:
    for base in cls.__mro__:
        room = base.__module__.partition(".")[0]
        if room not in {"crnn_search", "builtins", "abc", "typing", __name__.partition(".")[0]}:
            yield base


def source_of(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # written in C
        return ""


def shared_names(cls: type) -> set[str]:
    """Private names of a class that a library's base class has, too."""
    inherited = (private_names(source_of(base)) for base in foreign_bases(cls))
    return private_names(source_of(cls)) & set().union(*inherited)


def own_classes() -> Iterator[type]:
    for found in pkgutil.walk_packages(crnn_search.__path__, "crnn_search."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__ == found.name:
                    yield value


@pytest.mark.slow  # imports every library
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # by Ray Serve
def test_classes_share_no_private_name_with_a_library_they_extend() -> None:
    shared = {(cls.__name__, name) for cls in own_classes() for name in shared_names(cls)}
    assert shared == ALLOWED


def test_a_shared_private_name_is_found() -> None:
    class Copy(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._buffers = dict(module.named_buffers())
            self._mine = module

    assert shared_names(Copy) == {"_buffers"}


@pytest.mark.parametrize("source", ["self._a", "def _a(self)", "if x(self._a):"])
def test_private_names_of_a_class(source: str) -> None:
    assert private_names(f"{source} self.b, self.__c, other._d") == {"_a"}
