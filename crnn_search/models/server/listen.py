"""Where the server listens, who may ask, and how it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from crnn_search.errors import CrnnSearchError, InputError
from crnn_search.models.folder import ModelFolder
from crnn_search.models.server.limits import CONNECTIONS
from crnn_search.storage.run_folder import RunFolder

TOKEN_VARIABLE = "CRNN_SEARCH_SERVE_TOKEN"  # noqa: S105  (a name, not a token)

LEAST_TOKEN = 16
"""Characters of a token that the user gives."""

STOP_S = 10
"""How long requests may take to end once the server is asked to."""


class Token(NamedTuple):
    """What requests have to bring, or None; and whether the user does not know it yet."""

    value: str | None
    is_new: bool = False


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, which accepts nothing yet.

    Raises:
        InputError: the address is not one of this machine, or the port is taken.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port must be from 0 to {2**16 - 1}, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host must be a name or an address of this machine, got {host!r}: {error}"
        ) from error
    found = socket.socket(family, kind)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        reason = error.strerror or error
        raise InputError(
            f"cannot listen on {host} with --port {port}: {reason}; name another address of this "
            "machine or another port, 0 for any free one"
        ) from error
    return found


def url_of(listening: socket.socket) -> str:
    """The address of the server's page."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def token_for(listening: socket.socket) -> Token:
    """The token that requests have to bring: that of `TOKEN_VARIABLE`, or a new one, or None.

    A server that other machines reach always has one.

    Raises:
        InputError: that of the variable is not valid.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    if given is not None:
        if not re.fullmatch(rf"[!-~]{{{LEAST_TOKEN},}}", given):
            raise InputError(
                f"{TOKEN_VARIABLE} must have {LEAST_TOKEN} characters or more, visible ones of "
                f"ASCII, got {len(given)} characters"
            )
        return Token(given)
    if ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        return Token(None)
    return Token(secrets.token_urlsafe(), is_new=True)


def preferred(model: Path) -> Path:
    """The file of a model that is read most quickly: of a folder or a run its ONNX file, if any."""
    for place in (ModelFolder(model), ModelFolder(RunFolder(model).model)):
        if model.is_dir() and place.model("onnx").is_file():
            return place.model("onnx")
    return model


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server for an application, which has not started yet. It logs its own faults only."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else: what others send it
    config = uvicorn.Config(
        app,
        http="h11",  # it bounds the size of headers
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an application until a KeyboardInterrupt; closes the socket.

    uvicorn runs in a thread: in the main one it would take the signals, and raise them again.

    ready: called once it answers.

    Raises:
        CrnnSearchError: the server ended by itself.
    """
    server = server_of(app)
    listening.listen(server.config.backlog)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            while thread.is_alive() and not server.started:
                thread.join(0.02)
            if server.started:
                ready()
            thread.join()
            raise CrnnSearchError("the server has ended by itself")
        finally:
            server.should_exit = True
            thread.join()
            listening.close()
