"""What exported models state of their test."""

from __future__ import annotations

from typing import Any

import pytest

from crnn_search.results import exported, scored
from crnn_search.storage.run_folder import RunFolder


def test_figures_of_the_exported_network_and_of_the_ensemble(
    reported: RunFolder, written: dict[str, Any]
) -> None:
    found = exported.metrics(reported)
    assert found["model"]["rmse"] == pytest.approx(written["test"]["exported_rmse"])
    assert found["ensemble"].keys() == found["model"].keys()
    for name in exported.OF_A_SCORE:
        if name in written["ensemble"]:
            assert found["ensemble"][name] == written["ensemble"][name]
    guess = written["baselines"]["count_only"]["rmse"]
    assert found["ensemble"]["baseline_rmse"]["count_only"] == guess


def test_one_seed_has_no_ensemble(reported: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    known = scored.read(reported)
    known.predictions["winner"] = known.predictions["winner"][:1]
    monkeypatch.setattr(exported, "read", lambda run: known)
    assert exported.metrics(reported).keys() == {"model"}
