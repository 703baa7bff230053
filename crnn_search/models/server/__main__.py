"""Serves a model without Ray and PyTorch, as in a container: see `docs/serving.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crnn_search import signals
from crnn_search.cluster.cores import usable_cores
from crnn_search.errors import CrnnSearchError
from crnn_search.models.model import Model
from crnn_search.models.predictor import load
from crnn_search.models.server import listen
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from crnn_search.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; returns the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m crnn_search.models.server", description="Serve a model over HTTP."
    )
    parser.add_argument("model", type=Path, help="a model's file or folder, or a run's folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    try:
        with signals.handled():
            _serve(given.model, given.host, given.port)
    except CrnnSearchError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(path: Path, host: str, port: int) -> None:
    with listen.bind(host, port) as listening:
        token = listen.token_for(listening)
        model, limits = Model(load(listen.preferred(path))), Limits()
        backend = InProcess(model, limits, usable_cores())
        app = build_app(model, backend, token=token.value, limits=limits)

        def ready() -> None:
            print(f"{model.task.target}: {listen.url_of(listening)}", flush=True)
            if token.is_new:
                print(f"token: {token.value}", flush=True)

        listen.serve(app, listening, ready)


if __name__ == "__main__":
    sys.exit(main())
