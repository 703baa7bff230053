"""The sections of the report on finalists, compute, and how to repeat a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from crnn_search.hyperparameters import Arithmetic
from crnn_search.results.formatting import (
    block,
    code,
    deviation,
    number,
    plain,
    table,
    time,
    times,
)
from crnn_search.results.page.document import Section, Text
from crnn_search.results.schema import Report, SearchReport, Untrained
from crnn_search.results.words import heading, is_sums, network


def sections(report: Report, location: str) -> list[Section]:
    """The sections of a finished run. location: where it is stored."""
    winner = f"winner and {network(report)}"
    return [
        Section(
            "finalists", "Finalists and seeds", [Text(_finalists(report)), Text(_seeds(report))]
        ),
        *unfinished_sections(report, location, winner, list(report["arithmetics"])),
    ]


def unfinished_sections(
    report: SearchReport, location: str, retrained: str = "winner and baseline",
    used: list[str] | None = None,
) -> list[Section]:  # fmt: skip
    """Those of any run. retrained: what is. used: the arithmetics that trials trained in."""
    return [
        Section("compute", "Compute", [Text(_compute(report, retrained))]),
        Section("repeat", "How to repeat it", [Text(_repeat(report, location, used))]),
    ]


def _finalists(report: Report) -> str:
    rows = [
        [
            f"trial {item['number']}",
            number(item["search_validation_rmse"]),
            _repeated(item),
            deviation([rmse for rmse in item["validation_rmse_by_seed"] if rmse is not None]),
            str(len(item["validation_rmse_by_seed"])),
        ]
        for item in report["finalists"]
    ]
    header = ["", "in the search", "repeated, mean", "SD over seeds", "new seeds"]
    return (
        f"{plain(heading(report, 'Validation RMSE'))}. The best of many trials owes some of its "
        "figure to luck; the winner is the finalist with the lowest mean over new seeds, or the "
        "only one.\n\n" + table(header, rows)
    )


def _repeated(finalist: Mapping[str, Any]) -> str:
    if finalist["validation_rmse"] is None:
        return f"failed: {code(finalist['failure'])}"
    repeated = finalist["validation_rmse_by_seed"]
    return number(finalist["validation_rmse"]) if repeated else "not repeated"


def _seeds(report: Report) -> str:
    """The retrained networks, seed by seed."""
    name = report["baseline_name"]
    rows = [
        [
            label,
            str(entry["seed"]),
            number(rmse),
            time(entry["core_seconds"]),
            plain(entry["device"]),
        ]
        for label, key, score in (
            ("winner", "winner", report["test"]),
            (network(report), "baseline", report["baselines"][name]),
        )
        for entry, rmse in zip(report["retrained"][key], score["rmse_by_seed"], strict=True)
    ]
    rmse = plain(heading(report, "test RMSE"))
    return "### Retrained networks\n\n" + table(["", "seed", rmse, "core time", "device"], rows)


def _compute(report: SearchReport, retrained: str) -> str:
    compute = report["compute"]
    cores, gpus = compute["core_seconds"], compute["gpu_seconds"]
    words = {
        "completed": "completed trials",
        "stopped": "trials stopped early or cut",
        "failed": "failed trials",
        "finalists": "finalists, repeated",
        "retrain": f"retraining of {retrained}",
    }
    rows = [[text, time(cores[key]), time(gpus[key])] for key, text in words.items()]
    spared = {
        "early stopping saved": compute["stopped_early"],
        "the end of the search cut": compute["cut"],
    }
    others = [
        [text, str(found["trials"]), f"{found['epochs']:,}", *_cost(found)]
        for text, found in spared.items()
    ]
    header = ["not spent", "trials", "epochs", "core time", "GPU time"]
    return (
        f"{table(['compute spent on', 'core time', 'GPU time'], rows)}\n\n{table(header, others)}"
        "\n\nWhat was not spent is estimated by each trial's own pace. A limit of time or compute "
        "cuts trials; those are not in what early stopping saved. Wall time: "
        f"{times(report['seconds'])}."
    )


def _cost(found: Untrained) -> list[str]:
    return [time(found["core_seconds"]), time(found["gpu_seconds"])]


def _repeat(report: SearchReport, location: str, used: list[str] | None) -> str:
    run = report["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"- started: {run['created']}",
        f"- commit: {run['git_commit'] or 'missing, not run from a checkout'}",
        f"- seed: {run['seed']}",
        f"- arithmetic: {_arithmetic(report, used)}",
        f"- versions: {versions}",
        *(f"- warm start: {code(earlier)}" for earlier in run.get("warm_start", [])),
        *_data_digests(report),
        *(f"- node: {_node(node)}" for node in (run["hardware"] or {"nodes": []})["nodes"]),
    ]
    return f"{block(_commands(run['command'], location))}\n\n" + "\n".join(lines)


def _commands(launched: str, location: str) -> str:
    """The commands that launch a run again and use what it left."""
    place = shlex.quote(location)
    return "\n".join(
        [
            launched,
            f"crnn-search report {place}",
            f"crnn-search tensorboard {place}",
            f"crnn-search dashboard {place}",
            f"crnn-search export {place} --format onnx",
            f"crnn-search extend {place} --trials 20",
        ]
    )


def _data_digests(report: SearchReport) -> list[str]:
    """What identifies a data set of the user's own; the packages' versions identify MNIST."""
    digests = {} if is_sums(report) else report["run"]["data_sha256"]
    return [f"- data: {name}, SHA-256 {digest}" for name, digest in digests.items()]


def _arithmetic(report: SearchReport, used: list[str] | None) -> str:
    """What the run's trials had to train in, and what they did train in."""
    if report["arithmetic"] is None:
        return "not chosen yet"
    stated = str(Arithmetic(**report["arithmetic"]))
    if used is None:
        return stated
    difference = "" if used == [stated] else f"; really used: {' and '.join(used) or 'none'}"
    return f"{stated}{difference}; test predictions in float32"


def _node(node: Mapping[str, Any]) -> str:
    return (
        f"CPU {plain(node['cpu_model'] or 'model missing')}, cores {node['cpus']:g}, "
        f"GPUs {node['gpus']:g}, memory {node['memory_gb']:g} GB"
    )
