"""Compiles the kernels before the first test, whose time does not count them."""

from __future__ import annotations

import pytest

from crnn_search.kernels import native


@pytest.fixture(autouse=True, scope="session")
def _compiled_kernels() -> None:
    assert native.problem() is None, "these tests need a C compiler"
