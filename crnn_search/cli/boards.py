"""The commands that open a run in a browser, by a server on this machine only."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import urllib.parse
from typing import Annotated

import typer

from crnn_search.cli import options, terminal
from crnn_search.errors import InputError
from crnn_search.storage import temporary
from crnn_search.storage.run_folder import MANIFEST, STUDY, STUDY_VARIABLE, TENSORBOARD
from crnn_search.storage.runs import open_run

HOST = "127.0.0.1"

PORTS = 100
"""How many ports are tried, from the one that was asked for."""

PINNED = ("validation/rmse", "train/rmse")
"""The charts that TensorBoard shows first; it sorts the others by name."""

Port = Annotated[
    int,
    typer.Option(min=0, max=65535, help="The port, or the next free one; 0 takes any free one."),
]


def tensorboard(run: options.Run, port: Port = 6006) -> None:
    """Open TensorBoard on a run, on this machine only."""
    folder = open_run(run, (TENSORBOARD,))
    if not folder.tensorboard.is_dir():
        raise InputError(
            f"{folder.location} has no TensorBoard files: no trial has finished an epoch yet"
        )
    port = free_port(port)
    pinned = [{"plugin": "scalars", "tag": tag} for tag in PINNED]
    cards = json.dumps(pinned, separators=(",", ":"))
    query = urllib.parse.urlencode({"pinnedCards": cards})
    _show("TensorBoard", f"http://{HOST}:{port}/?{query}#timeseries")
    words = [sys.executable, "-P", "-m", "tensorboard.main"]
    words += ["--logdir", str(folder.tensorboard), "--host", HOST, "--port", str(port)]
    temporary.hand_over()
    os.execve(sys.executable, words, without_secrets())  # noqa: S606  (this Python, no shell)


def dashboard(
    run: options.Run, port: Port = 8080, study_storage: options.StudyStorage = None
) -> None:
    """Open Optuna's dashboard on a run, on this machine only."""
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError(
            "dashboard needs optuna-dashboard, which is not installed: pip install "
            "'crnn-search[dashboard]'"
        )
    folder = open_run(run, (STUDY, MANIFEST))
    from crnn_search.pipeline.manifest import Manifest
    from crnn_search.tuning import dashboard as server
    from crnn_search.tuning import study_storage as storages
    from crnn_search.tuning.study_writer import StudyOf

    storage = storages.given(study_storage, may_have_password=False)
    if storage is None:
        hint = "the search has not started yet, or its study is in the database of --study-storage"
        options.check_file(folder, folder.study, hint)
        found = server.open_file(folder.study)
    else:
        created = Manifest.read(folder).created
        found = server.open_server(storage, StudyOf(folder.name, folder.location, created))
    server.serve(found, HOST, free_port(port), lambda url: _show("Optuna's dashboard", url))


def without_secrets() -> dict[str, str]:
    """The environment for a program that needs no database."""
    return {name: value for name, value in os.environ.items() if name != STUDY_VARIABLE}


def free_port(first: int) -> int:
    """A port of this machine that is free: `first`, or the next one; any one for 0.

    Raises:
        InputError: there is none.
    """
    for port in range(first, min(first + PORTS, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                reason = error.strerror
                continue
            found: int = probe.getsockname()[1]
            return found
    raise InputError(
        f"--port must be one that is free on this machine, or one of the next {PORTS}, got "
        f"{first}: {reason}; 0 takes any free one"
    )


def _show(what: str, url: str) -> None:
    terminal.show(f"{what}: {url}\nCtrl-C ends it")
    sys.stdout.flush()
