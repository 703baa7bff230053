"""How a run's exported models did on the test sequences, for the models' own files."""

from __future__ import annotations

from typing import Any

from crnn_search.results import score_figures, scores
from crnn_search.results.scored import WINNER, read
from crnn_search.storage.run_folder import RunFolder

OF_A_SCORE = (
    "rmse",
    "rmse_interval",
    "mae",
    "r2",
    "exact_sum_rate",
    "sequences",
    "rmse_by_length",
    "rmse_interval_by_length",
    "mae_by_length",
)


def metrics(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Figures of the exported network, `model`, and of the mean of the seeds, `ensemble`.

    By the names of `scores.Score`, of which they have some, and `baseline_rmse`, by name. There is
    no ensemble with one seed.

    Raises:
        InputError: the run's test predictions cannot be read.
    """
    scored = read(run)
    networks, facts = scored.predictions[WINNER], scored.facts
    table, sums = scored.table, facts["task"]["sums"]
    found = {"model": scores.score([networks[0]], table, sums=sums).to_dict()}
    if (ensemble := score_figures.ensemble(networks, table, sums=sums)) is not None:
        found["ensemble"] = ensemble
    baselines = {name: score["rmse"] for name, score in facts["baselines"].items()}
    return {
        name: {key: score[key] for key in OF_A_SCORE if key in score} | {"baseline_rmse": baselines}
        for name, score in found.items()
    }
