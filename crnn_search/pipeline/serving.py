"""A model in replicas on Ray Serve. Needs the extra `serve`.

Ray Serve starts the replicas, chooses one for each request, joins requests that wait for it, and
replaces one that ends. HTTP stays in the process that starts them: there every request is bounded
before Ray sees it, and the metrics are those of all replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from crnn_search.cluster.connection import connect
from crnn_search.cluster.cores import usable_cores
from crnn_search.errors import CrnnSearchError, InputError
from crnn_search.models.model import Model
from crnn_search.models.predictor import load
from crnn_search.models.server.answers import Answer, Work, answer_all
from crnn_search.models.server.limits import IMAGES, Limits
from crnn_search.models.server.problems import UnavailableError
from crnn_search.text import first_line

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""How Ray Serve's processes log, into the folder of Ray's session."""

REPLICA_REQUESTS = 256
"""Requests that a replica has at once; further ones wait in this process."""
HEALTH_S = 5.0
"""How long a replica may take to say that it is ready."""

MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
"""glibc's defaults in replicas: trials keep what they free, for a replica that is a photograph's
pixels for hours."""


class Replica:
    """A model in a process of Ray's. path: of its file."""

    def __init__(self, path: str, limits: Limits) -> None:
        _stay_on_loopback()
        self._model = Model(load(Path(path)))
        self._limits = limits

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=IMAGES,
        batch_wait_timeout_s=0,  # what arrives while a batch is predicted is the next one
        batch_size_fn=lambda requests: sum(work.images for work in requests),
    )
    async def __call__(self, requests: list[Work]) -> list[list[Answer] | InputError]:
        """The answers of each request, or why it is refused."""
        return await asyncio.to_thread(answer_all, self._model, requests, self._limits)

    def ready(self) -> bool:
        """Whether it answers."""
        return True


@dataclass(frozen=True)
class Replicas:
    """Replicas as what predicts for `models.server.app`."""

    handle: DeploymentHandle

    async def predict(self, work: Work) -> list[Answer]:
        """The answer for each sequence.

        Raises:
            InputError: an image cannot be decoded or is too large.
            UnavailableError: the replica has ended, or Ray has.
        """
        try:
            found: list[Answer] | InputError = await self.handle.remote(work)
        except RayTaskError:
            raise  # a fault of ours, not of a replica
        except (RayError, RayServeException) as error:
            raise UnavailableError(first_line(error)) from error
        if isinstance(found, InputError):
            raise found
        return found

    async def ready(self) -> bool:
        """Whether a replica answers in time."""
        try:
            return bool(await asyncio.wait_for(self.handle.ready.remote(), HEALTH_S))
        except (TimeoutError, RayError, RayServeException):
            return False


@contextlib.contextmanager
def replicas(
    path: Path, count: int, limits: Limits, on_note: Callable[[str], None]
) -> Iterator[Replicas]:
    """Start a local Ray with so many replicas of a model; end it after the block.

    They share the cores. path: of the model's file. on_note: called with messages for the user.

    Raises:
        InputError: Ray does not start.
        CrnnSearchError: the replicas do not.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // count))}
    with connect(None, on_note):
        serve.start(proxy_location="Disabled", logging_config=QUIET)
        deployment = serve.deployment(
            Replica,
            name="model",
            num_replicas=count,
            max_ongoing_requests=REPLICA_REQUESTS,
            ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": MEMORY | threads}},
            logging_config=QUIET,
        )
        application = deployment.bind(str(path.resolve()), limits)
        try:
            handle = serve.run(application, name="crnn-search", route_prefix=None)
        except RuntimeError as error:
            raise CrnnSearchError(f"the replicas do not start: {first_line(error)}") from error
        yield Replicas(handle)


def _stay_on_loopback() -> None:
    """Let the gRPC servers of this process listen on the loopback address only.

    A replica of Ray Serve 2.60 has one that listens on all interfaces, whatever its settings. It
    asks for Ray's token; nothing here uses it.
    """
    server = type(grpc.aio.server())
    add_port = server.add_insecure_port

    def add_loopback_port(self: grpc.aio.Server, address: str) -> int:
        port: int = add_port(self, address.replace("[::]:", "127.0.0.1:"))
        return port

    server.add_insecure_port = add_loopback_port
