"""The Ray side that a search and a retraining share: connect, divide the resources, run jobs."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crnn_search.cluster import gpu_share, provenance
from crnn_search.cluster.gpu_share import Reading
from crnn_search.data.sequences import Digits
from crnn_search.errors import InputError, InterruptedRun, RunFolderError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.lease import interrupt_on_sigterm
from crnn_search.storage.object_store import why_unseen
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.scheduler import FiniteAsha
from crnn_search.tuning.searcher import JobQueue, StudySearch
from crnn_search.tuning.trainable import DigitSumTrainable, shared_tensor

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever the verbosity
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # the run's own journal takes their place
    "TUNE_MAX_PENDING_TRIALS_PG": str(10**6),  # the searchers say how many may wait for a place
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""What Ray is told by environment variables, where the user has not set them."""

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
AUTO_GPU_FRACTION = 0.25
CONNECT_TIMEOUT_S = 5.0
ASKED_GPU, GPU_TIMEOUT_S = 0.01, 180.0


ROOM_REFRESH_S = 2.0
STORAGE_CHECK_TIMEOUT_S = 120.0  # longer than Ray needs to know that a node is gone


@dataclass(frozen=True)
class Slots:
    """How trials share the cluster: what each gets, and how many may run at once.

    follows: whether that many changes as nodes join and leave.
    """

    cpus: float
    gpus: float
    concurrent: int
    follows: bool = False


class Room:
    """How many trials of a search may run at once, as the cluster is just now.

    It is never 0: where no node is left, one trial waits, and an autoscaler sees that it does.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._known = slots.concurrent
        self._read = time.monotonic()

    def __call__(self) -> int:
        if self._slots.follows and time.monotonic() - self._read > ROOM_REFRESH_S:
            self._known = max(1, _fitting(nodes(), self._slots.cpus, self._slots.gpus))
            self._read = time.monotonic()
        return self._known


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
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        what = f"connect to a Ray cluster at {address!r}" if address else "start Ray"
        raise InputError(f"cannot {what}: {error}") from error
    interrupt_on_sigterm()  # after Ray, which sets a handler of its own
    try:
        yield
    except KeyboardInterrupt:
        raise  # at once: a local Ray's processes end with this one
    except BaseException:
        ray.shutdown()
        raise
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
            "cpu_model": provenance.cpu_model() if len(alive) == 1 else None,
        }
        for node in alive
    ]


def read_gpu(space: SearchSpace, digits: Digits) -> Reading | None:
    """What a trial of this space takes of a GPU; None if the cluster has none that can be asked.

    Takes next to nothing of a GPU that other trials use, and gives up when all of it is taken.
    """
    config = gpu_share.largest(space)
    if config is None or not any(node["gpus"] for node in nodes()):
        return None
    task = ray.remote(_read_gpu).options(num_cpus=0, num_gpus=ASKED_GPU, max_retries=0)
    answer = task.remote(
        config, digits.images.numpy(), digits.labels.numpy(), space.task.max_digits
    )
    try:
        reading: Reading | None = ray.get(answer, timeout=GPU_TIMEOUT_S)
    except ray.exceptions.RayError:
        ray.cancel(answer, force=True)
        return None
    return reading


def _read_gpu(config: TrialConfig, images: Any, labels: Any, max_digits: int) -> Reading | None:
    return gpu_share.read(config, Digits(shared_tensor(images), shared_tensor(labels)), max_digits)


def divide(
    cpus_per_trial: float,
    gpus_per_trial: float | str,
    max_concurrent: int | str,
    *,
    may_grow: bool = False,
) -> Slots:
    """Divide the cluster's nodes among trials.

    gpus_per_trial: `auto` is a quarter of a GPU where there is one; see `read_gpu` for better.
    max_concurrent: `auto` for as many as the nodes hold, also those that join later; a number is
        what may run or wait at most, so that a cluster that `may_grow` grows to hold them.

    Raises:
        InputError: no node has what one trial needs.
    """
    alive = nodes()
    gpus = gpus_per_trial
    if isinstance(gpus, str):
        gpus = AUTO_GPU_FRACTION if any(node["gpus"] for node in alive) else 0.0
    fitting = _fitting(alive, cpus_per_trial, gpus)
    if isinstance(max_concurrent, int) and may_grow:
        return Slots(cpus_per_trial, float(gpus), max_concurrent)
    if not fitting:
        raise InputError(
            f"no node has the {cpus_per_trial:g} cores and {gpus:g} GPUs that one trial needs; the "
            "nodes have "
            + ", ".join(f"{node['cpus']:g} cores and {node['gpus']:g} GPUs" for node in alive)
            + _GROWING * may_grow
        )
    if isinstance(max_concurrent, int):
        return Slots(cpus_per_trial, float(gpus), min(fitting, max_concurrent))
    return Slots(cpus_per_trial, float(gpus), fitting, follows=True)


_GROWING = (
    "; to have a cluster grow from nothing, say how far: --set search.max_concurrent_trials=N"
)


def _fitting(alive: Sequence[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many trials the nodes hold at once."""
    return sum(
        math.floor(min(node["cpus"] / cpus, node["gpus"] / gpus if gpus else math.inf))
        for node in alive
    )


def check_storage(run: RunPaths) -> None:
    """See that every node reads and writes the run's place, before any trial.

    Raises:
        RunFolderError: some do not.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2 and not run.mirror:
        return
    place = run.location if run.mirror else str(run.root.absolute())
    answers = [
        ray.remote(why_unseen)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(place, run.space.name, run.space.read_bytes())
        for node in alive
    ]
    reasons = [_answer(answer, node["NodeID"]) for answer, node in zip(answers, alive, strict=True)]
    blind = [
        f"  {node['NodeManagerHostname']}: {reason}"
        for node, reason in zip(alive, reasons, strict=True)
        if reason
    ]
    if blind:
        raise RunFolderError(
            f"every node must see the folder of runs, and these do not see {place}:\n"
            + "\n".join(blind)
            + "\ngive a folder that all of them mount at the same path, or s3://BUCKET/PREFIX, "
            "with --storage, and every node the right to use it"
        )


def _answer(answer: ray.ObjectRef, node: str) -> str | None:
    """What a node says of the folder; nothing if it has left meanwhile."""
    try:
        reason: str | None = ray.get(answer, timeout=STORAGE_CHECK_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        return f"it does not answer within {STORAGE_CHECK_TIMEOUT_S:.0f} s"
    except ray.exceptions.RayError as error:
        left = not any(other["Alive"] for other in ray.nodes() if other["NodeID"] == node)
        return None if left else f"it cannot look: {str(error).strip().splitlines()[0]}"
    return reason


def run_search(
    digits: Digits,
    run: RunPaths,
    searcher: StudySearch,
    scheduler: FiniteAsha,
    slots: Slots,
    recorder: Recorder,
) -> None:
    """Let the searcher propose and the scheduler stop trials until the searcher has finished.

    Raises:
        InterruptedRun: the user stopped the search.
        CrnnSearchError: the recorder's error, if it had one.
    """
    searcher.room = Room(slots)
    config = tune.TuneConfig(search_alg=searcher, scheduler=scheduler, **_ALWAYS)
    _fit(digits, run, config, slots, recorder)
    if not searcher.finished:
        raise _interrupted(run)


def run_jobs(
    digits: Digits, run: RunPaths, jobs: Sequence[Job], slots: Slots, recorder: Recorder
) -> None:
    """Run fixed jobs, in order, as many at once as fit.

    Raises:
        InterruptedRun: the user stopped them.
        CrnnSearchError: the recorder's error, if it had one.
    """
    queue = JobQueue(jobs, recorder)
    _fit(digits, run, tune.TuneConfig(search_alg=queue, **_ALWAYS), slots, recorder)
    if not queue.finished:
        raise _interrupted(run)


def _fit(
    digits: Digits, run: RunPaths, config: tune.TuneConfig, slots: Slots, recorder: Recorder
) -> None:
    """Run Tune with its own files in a folder that is thrown away: nothing is read from them."""
    run.checkpoints.mkdir(exist_ok=True)  # trials make none: see `patience`
    trainable = tune.with_parameters(
        DigitSumTrainable,
        images=digits.images.numpy(),
        labels=digits.labels.numpy(),
        checkpoints=run.checkpoint_location,
    )
    resources = functools.partial(_resources, slots)
    with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=config,
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                callbacks=[recorder],
                # Without it Tune would save at a trial's end, to a folder no other node sees.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if recorder.error:
                raise recorder.error from None
            raise


_ALWAYS: dict[str, Any] = {
    "num_samples": -1,  # the searcher says when it has finished
    "reuse_actors": True,
    "trial_name_creator": lambda trial: str(trial.config["job"]["name"]),
    "trial_dirname_creator": lambda trial: str(trial.trial_id),  # a job may come again
}


def _resources(slots: Slots, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    gpus = config["job"]["gpus"]
    return tune.PlacementGroupFactory(
        [{"CPU": slots.cpus, "GPU": slots.gpus if gpus is None else gpus}]
    )


def _interrupted(run: RunPaths) -> InterruptedRun:
    return InterruptedRun(
        f"everything so far is kept; go on with\n  crnn-search resume {run.location}"
    )
