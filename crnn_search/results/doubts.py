"""What a reader of a report has to know before its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crnn_search.results.formatting import interval, number
from crnn_search.results.schema import Doubt
from crnn_search.results.search_figures import at_border
from crnn_search.spaces.space import SearchSpace

MAX_NAMES = 5
"""How many trials, or hyperparameters, are named in a warning."""

NETWORKS = {"mnist_crnn_2016": "network of 2016", "default": "default network"}
"""What the network that the winner is compared with is called."""

_BLIND = {
    "mean_guess": "guessing the mean", "count_only": "counting the digits",
    "length_only": "least squares on the length",
}  # fmt: skip


def beaten(
    test: Mapping[str, Any],
    baselines: Mapping[str, Any],
    baseline: str,
    improvement: Mapping[str, Any],
) -> list[Doubt]:
    """Warnings where the winner is not better than a baseline. baseline: the network's name."""
    found = []
    better = [
        f"{'the ' if name == baseline else ''}{words} ({number(score['rmse'])})"
        for name, score in baselines.items()
        if (words := NETWORKS.get(name) or _BLIND.get(name)) and test["rmse"] >= score["rmse"]
    ]
    if better:
        text = f"the winner, with a test RMSE of {number(test['rmse'])}, does not beat "
        found.append(Doubt(kind="baseline", text=text + " and ".join(better)))
    known = improvement["interval"]
    if known and known[0] <= 0 < improvement["difference"]:
        text = (
            f"the winner may not be better than the {NETWORKS[baseline]}: the 95 % interval of "
            f"the difference of their test RMSEs is {interval(known)}"
        )
        found.append(Doubt(kind="baseline", text=text))
    return found


def short_retraining(space: SearchSpace) -> list[Doubt]:
    """A warning if the winner is retrained for less than a trial's full budget."""
    retrain, search = space.retrain, space.search
    full = search.max_epochs * search.epoch_sequences
    if retrain.epochs * retrain.epoch_sequences >= full:
        return []
    text = (
        f"the retraining budget, {retrain.epochs} epochs of {retrain.epoch_sequences:,} sequences, "
        f"is below a trial's, {search.max_epochs} epochs of {search.epoch_sequences:,}"
    )
    return [Doubt(kind="retraining", text=text)]


def on_border(space: SearchSpace, config: Mapping[str, Any]) -> list[Doubt]:
    """A warning if a configuration, the winner's, is on the border of the space."""
    found = at_border(space, config)
    if not found:
        return []
    more = f"; {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
    text = (
        "the winner lies on the border of the search space, a wider one may have a better: "
        f"{'; '.join(found[:MAX_NAMES])}{more}"
    )
    return [Doubt(kind="border", text=text)]


def different_arithmetics(names: Mapping[str, Sequence[str]]) -> list[Doubt]:
    """A warning if trials trained in more than one arithmetic. names: of the trials, by it."""
    if len(names) < 2:
        return []
    parts = []
    for arithmetic, trials in sorted(names.items(), key=lambda item: -len(item[1])):
        more = f" and {len(trials) - MAX_NAMES} more" if len(trials) > MAX_NAMES else ""
        parts.append(f"{len(trials)} in {arithmetic} ({', '.join(trials[:MAX_NAMES])}{more})")
    text = (
        "trials trained in different arithmetics, so that their RMSEs differ by more than their "
        f"configurations and seeds: {'; '.join(parts)}"
    )
    return [Doubt(kind="arithmetic", text=text)]


def of_data(data: Mapping[str, Any] | None) -> list[Doubt]:
    """Warnings of what is doubtful in a data set of the user's own."""
    return [Doubt(kind="data", text=text) for text in (data["warnings"] if data else [])]
