"""The ensemble of a configuration's seeds on the report's pages."""

from __future__ import annotations

from typing import Any

from crnn_search.results.summary import summary
from crnn_search.storage.run_folder import RunFolder
from tests.results.result_files import to_html, to_markdown


def test_an_ensemble_stands_beside_single_networks(written: Any, reported: RunFolder) -> None:
    written["ensemble"] |= {
        "rmse": 0.5, "rmse_interval": [0.45, 0.55], "mae": 0.25, "exact_sum_rate": 0.875,
        "improvement": {"difference": 0.125, "interval": [0.1, 0.15], "ratio": 1.25},
        "ms_per_sequence": 0.5, "rmse_by_length": dict.fromkeys("12345", 0.0123),
    }  # fmt: skip
    text = to_markdown(written, reported)
    assert "| ensemble of its 2 seeds | 0.500 | 0.450 to 0.550 | – | 87.5 % |" in text
    assert (
        "has an RMSE of 0.500 (95 % interval 0.450 to 0.550), MAE 0.250, exact sums 87.5 %: an "
        "RMSE lower than the single networks' mean by 0.125 (95 % interval, paired, 0.100 to "
        "0.150), for 2 times the time to predict a sequence (2 × 0.250 ms)."
    ) in text
    assert text.count(" | 0.0123 | ") == 5, "of each length"
    assert "RMSE of 0.500" not in text.split("### Test result")[0], "it is not the headline"
    written["baseline_ensemble"] = written["ensemble"] | {"rmse": 0.75}
    assert "| ensemble of the 2 seeds of the network of 2016 | 0.750 | " in (
        to_markdown(written, reported)
    )


def test_of_one_seed_no_ensemble_is_shown(written: Any, reported: RunFolder) -> None:
    assert "ensemble" in to_html(written, reported)
    written["ensemble"] = None
    texts = (to_markdown(written, reported), to_html(written, reported), summary(written))
    assert not any("ensemble" in text for text in texts)
