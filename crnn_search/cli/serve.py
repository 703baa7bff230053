"""The command that serves a model over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.cluster.cores import usable_cores
from crnn_search.errors import InputError
from crnn_search.storage.location import is_uri, local_path
from crnn_search.storage.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crnn_search.models.model import Model
    from crnn_search.models.server.app import Backend
    from crnn_search.models.server.limits import Limits

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
"""Modules of the extra `serve`."""

MOST_REPLICAS = 64


def serve(
    model: options.Model,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. Other machines' requests need a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")
    ] = 8000,
    replicas: Annotated[
        int, typer.Option(min=1, max=MOST_REPLICAS, help="Processes of Ray Serve that predict.")
    ] = 1,
    ray: Annotated[
        bool, typer.Option(help="Predict in replicas of Ray Serve, or in this process.")
    ] = True,
) -> None:
    """Serve a model over HTTP, with a page to try it."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"serve needs {', '.join(missing)}, not installed: pip install 'crnn-search[serve]'"
        )
    from crnn_search.models.server import listen
    from crnn_search.models.server.app import build_app
    from crnn_search.models.server.limits import Limits

    place = open_run(model, ("model",)).root if is_uri(model) else local_path(model)
    path, limits = listen.preferred(place), Limits()
    found = api.load_model(path)
    with listen.bind(host, port) as listening:
        token = listen.token_for(listening)
        os.environ.pop(listen.TOKEN_VARIABLE, None)  # Ray's processes need it not

        def ready() -> None:
            terminal.show(f"{found.task.target}: {listen.url_of(listening)}")
            if token.is_new:
                terminal.show(f"token: {token.value}")
            terminal.show("Ctrl-C ends it")
            terminal.flush_now()

        with _backend(found, path, limits, replicas if ray else 0) as backend:
            app = build_app(found, backend, token=token.value, limits=limits)
            listen.serve(app, listening, ready)


@contextlib.contextmanager
def _backend(model: Model, path: Path, limits: Limits, replicas: int) -> Iterator[Backend]:
    """What predicts: replicas of Ray Serve or, for 0, threads of this process."""
    if not replicas:
        from crnn_search.models.server.app import InProcess

        yield InProcess(model, limits, usable_cores())
        return
    from crnn_search.pipeline import serving

    for library in ("ray", "ray.serve"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with serving.replicas(path, replicas, limits, terminal.complain) as found:
        yield found
