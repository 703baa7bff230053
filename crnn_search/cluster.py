"""The Ray side that a search and a retraining share: connect, divide the resources, run jobs."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from crnn_search.data import Digits
from crnn_search.errors import InputError, InterruptedRun, RunError
from crnn_search.recorder import JobRecord, Recorder
from crnn_search.scheduler import FiniteAsha
from crnn_search.searcher import StudySearch
from crnn_search.trainable import METRIC, DigitSumTrainable, Job

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever the verbosity
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""What Ray is told by environment variables, where the user has not set them."""

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
AUTO_GPU_FRACTION = 0.25
MAX_PROCESS_FAILURES = 3
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Slots:
    """How trials share the cluster: what each gets, and how many fit at once."""

    cpus: float
    gpus: float
    concurrent: int


@contextlib.contextmanager
def connect(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local one, and leave it again.

    Raises:
        InputError: nothing answers at the address.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address:
        _check_reachable(address)
    local = {} if address else {"object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            configure_logging=False,
            log_to_driver=verbose,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot connect to a Ray cluster at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse at once an address where nobody listens; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # `auto` and the like are for Ray to resolve
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {address}: {error}; name a running cluster (auto or HOST:6379), "
            "or leave --address out to start a local one"
        ) from error


def nodes() -> list[dict[str, Any]]:
    """The cluster's living nodes: name, cores, GPUs, memory."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        {
            "name": node["NodeManagerHostname"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
            "memory_gb": round(node["Resources"].get("memory", 0.0) / 1e9, 1),
            "cpu_model": _cpu_model() if len(alive) == 1 else None,
        }
        for node in alive
    ]


def divide(cpus_per_trial: float, gpus_per_trial: float | str, max_concurrent: int | str) -> Slots:
    """Divide the cluster's nodes among trials; `auto` takes a quarter of a GPU where there is one.

    Raises:
        InputError: no node has what one trial needs.
    """
    alive = nodes()
    gpus = gpus_per_trial
    if isinstance(gpus, str):
        gpus = AUTO_GPU_FRACTION if any(node["gpus"] for node in alive) else 0.0
    fitting = sum(
        math.floor(min(node["cpus"] / cpus_per_trial, node["gpus"] / gpus if gpus else math.inf))
        for node in alive
    )
    if not fitting:
        raise InputError(
            f"no node has the {cpus_per_trial:g} cores and {gpus:g} GPUs that one trial needs; the "
            "nodes have "
            + ", ".join(f"{node['cpus']:g} cores and {node['gpus']:g} GPUs" for node in alive)
        )
    wanted = fitting if isinstance(max_concurrent, str) else min(fitting, max_concurrent)
    return Slots(cpus_per_trial, float(gpus), wanted)


def run_search(
    digits: Digits,
    folder: Path,
    searcher: StudySearch,
    scheduler: FiniteAsha,
    trials: int,
    slots: Slots,
    recorder: Recorder,
) -> list[JobRecord]:
    """Let the searcher propose and the scheduler stop `trials` trials; returns what became of each.

    Raises:
        InterruptedRun: the user stopped the search.
    """
    config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=trials,
        max_concurrent_trials=slots.concurrent,
        reuse_actors=True,
        trial_name_creator=_name,
        trial_dirname_creator=_name,
    )
    checkpoints = tune.CheckpointConfig(
        num_to_keep=1,
        checkpoint_frequency=1,
        checkpoint_score_attribute=METRIC,
        checkpoint_score_order="min",
    )
    return _fit(digits, folder, {}, config, checkpoints, slots, recorder, trials)


def run_jobs(
    digits: Digits, folder: Path, jobs: Sequence[Job], slots: Slots, recorder: Recorder
) -> list[JobRecord]:
    """Run fixed jobs to their end, in order, as many at once as fit.

    Raises:
        InterruptedRun: the user stopped them.
        RunError: one failed for good.
    """
    config = tune.TuneConfig(
        reuse_actors=True, trial_name_creator=_name, trial_dirname_creator=_name
    )
    space = {"job": tune.grid_search([job.to_dict() for job in jobs])}
    checkpoints = tune.CheckpointConfig(num_to_keep=1, checkpoint_frequency=1)
    records = _fit(digits, folder, space, config, checkpoints, slots, recorder, len(jobs))
    failed = [record for record in records if record.state != "COMPLETE"]
    if failed:
        raise RunError("\n".join(f"{record.job.name} failed: {record.reason}" for record in failed))
    return sorted(records, key=lambda record: record.job.number)


def _fit(
    digits: Digits,
    folder: Path,
    param_space: dict[str, Any],
    config: tune.TuneConfig,
    checkpoints: tune.CheckpointConfig,
    slots: Slots,
    recorder: Recorder,
    jobs: int,
) -> list[JobRecord]:
    trainable = tune.with_parameters(
        DigitSumTrainable, images=digits.images.numpy(), labels=digits.labels.numpy()
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": slots.cpus, "gpu": slots.gpus}),
        param_space=param_space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent.absolute()),
            callbacks=[recorder],
            checkpoint_config=checkpoints,
            failure_config=tune.FailureConfig(max_failures=MAX_PROCESS_FAILURES),
            verbose=0,
        ),
    )
    tuner.fit()
    records = list(recorder.records.values())
    if sum(bool(record.state) for record in records) < jobs:
        raise InterruptedRun(
            f"stopped with {sum(bool(r.state) for r in records)} of {jobs} jobs done; what was "
            f"recorded is in {folder.parent.parent}"
        )
    return records


def _name(trial: Any) -> str:
    return str(trial.config["job"]["name"])


def _cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
