"""Every node must read and write the folder of runs before a trial starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crnn_search.cluster import storage_check
from crnn_search.cluster.nodes import Node, NoResult
from crnn_search.cluster.storage_check import check_storage, why_unusable
from crnn_search.errors import RunFolderError
from crnn_search.storage.run_folder import RunFolder

NODES = [Node(f"id-{name}", name, 1, 0, 8.0) for name in ("good", "bad", "silent")]


def test_node_says_why_it_cannot_use_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("this one")
    assert why_unusable(str(tmp_path), "mark", b"this one") is None
    assert why_unusable(str(tmp_path), "mark", b"other") == "it finds another file there"
    assert why_unusable(str(tmp_path / "gone"), "mark", b"") == "it has no such folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "space.yaml").write_text("space: {}")
    return RunFolder(tmp_path)


def test_nodes_that_cannot_use_the_folder_are_listed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [None, "it has no such folder", NoResult("it does not answer within 120 s")]

    def run_on_nodes(
        targets: list[Node], *arguments: Any, timeout_s: float
    ) -> list[tuple[Node, Any]]:
        assert arguments == (why_unusable, str(run.root), "space.yaml", b"space: {}")
        return list(zip(targets, answers, strict=True))

    monkeypatch.setattr(storage_check, "nodes", lambda: NODES)
    monkeypatch.setattr(storage_check, "run_on_nodes", run_on_nodes)
    with pytest.raises(RunFolderError, match="these cannot use") as caught:
        check_storage(run)
    listed = str(caught.value).splitlines()[1:3]
    assert listed == ["  bad: it has no such folder", "  silent: it does not answer within 120 s"]


def test_single_node_is_not_checked(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_check, "nodes", lambda: NODES[:1])
    monkeypatch.setattr(storage_check, "run_on_nodes", lambda *_: pytest.fail("a node was checked"))
    check_storage(run)
