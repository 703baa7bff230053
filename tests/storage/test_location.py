from __future__ import annotations

from pathlib import Path

import pytest

from crnn_search.errors import InputError
from crnn_search.storage.location import is_uri, join, local_path


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
    assert join("/a?b/runs", "c") == "/a?b/runs/c"


def test_home_folders_expand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs") == tmp_path / "runs"
    assert local_path(Path("~")) == tmp_path
    assert local_path("~root/x") == Path("~root/x").expanduser() != Path("~root/x")
    for other in ("runs", "a~b", "/x/~/y"):
        assert local_path(other) == Path(other)
    assert local_path("./~") == Path("~").absolute()


def test_a_home_folder_of_nobody_is_refused_but_not_a_file_of_that_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no home folder for '~nobody-here/runs'"):
        local_path("~nobody-here/runs")
    Path("~nobody-here").touch()
    assert local_path("~nobody-here") == tmp_path / "~nobody-here"


@pytest.mark.parametrize(
    "location",
    [
        "s3:/bucket/runs", "s3:bucket/runs", "S3:/bucket", "s3//bucket/runs", "gs:/bucket",
        "az:\\\\bucket", "http:/host/runs", "file:/runs", "hdfs:/runs", "C:\\runs",
    ],
)  # fmt: skip
def test_what_looks_like_a_broken_uri_is_no_folder(location: str) -> None:
    with pytest.raises(InputError, match="must be a path or a URI such as s3://BUCKET/PREFIX, got"):
        local_path(location)
    assert local_path(f"./{location}").absolute() == Path(location).absolute()


@pytest.mark.parametrize("location", ["a:b", "s3/runs", "s3", "2026:11:25", "s3runs/x", "x/s3:/y"])
def test_other_names_are_folders(location: str) -> None:
    assert local_path(location) == Path(location)
