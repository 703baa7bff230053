from __future__ import annotations

import pytest

from crnn_search.storage.location import is_uri, join


@pytest.mark.parametrize(
    ("location", "expected"),
    [("s3://bucket/runs", True), ("runs", False), ("/shared/runs", False), ("a:b", False)],
)
def test_is_uri(location: str, expected: bool) -> None:
    assert is_uri(location) is expected


def test_names_are_joined_before_the_options_of_a_uri() -> None:
    assert join("s3://b/p?scheme=http", "a", "b") == "s3://b/p/a/b?scheme=http"
    assert join("/shared/runs/", "a") == "/shared/runs/a"
    assert join("runs", "") == "runs"
