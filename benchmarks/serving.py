"""The server under load: requests a second and their times, beside the model in a loop.

`python -m benchmarks.serving MODEL` starts `crnn-search serve`, with replicas of Ray Serve and
without, and asks it from threads of one other process, each with a connection of its own: the next
request follows an answer at once. A request has one sequence of drawn digits as PNG files in JSON.
In the same run, in a process without a server: the model's network alone, on decoded images, and
`predict_files` on the same files. All share the cores of this machine.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.circumstances import circumstances, in_words

RESULTS = Path(__file__).parent / "results" / "serving.json"
CLIENTS = (1, 8, 64)
SERVERS = {"Ray Serve": ["--ray"], "one process": ["--no-ray"]}
START_S = 300


def digit(number: int) -> bytes:
    """A picture of a digit, as a person may draw it on the page: a PNG file."""
    image = Image.new("L", (280, 280), 255)
    font = ImageFont.load_default(size=220)
    ImageDraw.Draw(image).text((75, 10), str(number % 10), 0, font)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def quantiles(seconds: Sequence[float], elapsed_s: float) -> dict[str, float]:
    """What was measured of calls that took so long each, in `elapsed_s` altogether."""
    return {
        "per_s": len(seconds) / elapsed_s,
        "p50_ms": 1e3 * float(np.quantile(seconds, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(seconds, 0.99)),
    }


def loop(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Call a function again and again, once before it counts."""
    call()
    times, start = list[float](), time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        call()
        times.append(time.perf_counter() - now)
    return quantiles(times, time.perf_counter() - start)


def alone(model: Path, images: int, seconds: float) -> dict[str, Any]:
    """The model without a server."""
    import crnn_search

    loaded = crnn_search.load_model(model)
    files = [digit(number) for number in range(images)]
    pixels = np.stack([loaded.preprocessing.read(file, "digit").pixels for file in files])[None]
    return {
        "the network": loop(lambda: loaded.predict_running(pixels), seconds),
        "predict_files": loop(lambda: loaded.predict_files([files]), seconds),
    }


def ask(url: str, images: int, clients: int, seconds: float) -> dict[str, Any]:
    """Ask a server from so many threads."""
    sequence = [base64.b64encode(digit(number)).decode() for number in range(images)]
    body = json.dumps({"sequences": [sequence]}).encode()
    times, refused = list[float](), list[int]()
    start = time.perf_counter()

    def client() -> None:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        while (now := time.perf_counter()) - start < seconds:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - now)
            if answer.status != 200:
                refused.append(answer.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return quantiles(times, time.perf_counter() - start) | {"refused": len(refused)}


@contextmanager
def server(model: Path, words: Sequence[str]) -> Iterator[str]:
    """A server of its own; gives its URL."""
    program = [sys.executable, "-m", "crnn_search", "serve", str(model), "--port", "0", *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line[line.index("http://") :].strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=START_S)


def in_process(task: str, *words: str) -> dict[str, Any]:
    """Run a task of this module in a process of its own."""
    program = [sys.executable, "-m", "benchmarks.serving", "--task", task, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(
    model: Path, images: int, seconds: float, clients: Sequence[int], replicas: int
) -> dict[str, Any]:
    """All figures: of the model alone, then of each server."""
    common = ["--images", str(images), "--seconds", str(seconds)]
    found = in_process("alone", str(model), *common)
    for name, words in SERVERS.items():
        more = ["--replicas", str(replicas)] if name == "Ray Serve" else []
        with server(model, [*words, *more]) as url:
            for count in clients:
                key = f"{name}, {count} clients"
                found[key] = in_process("ask", url, *common, "--clients", str(count))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model of digits: its file or folder, or a run")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each figure")
    parser.add_argument("--images", type=int, default=5, help="of a sequence")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--task", choices=["alone", "ask"], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.task == "alone":
        print(json.dumps(alone(Path(given.model), given.images, given.seconds)))
    elif given.task == "ask":
        print(json.dumps(ask(given.model, given.images, given.clients[0], given.seconds)))
    else:
        found = measure(
            Path(given.model), given.images, given.seconds, given.clients, given.replicas
        )
        around = circumstances("ray", "onnxruntime", "fastapi", "uvicorn")
        results = around | {"images": given.images, "replicas": given.replicas, "found": found}
        given.output.write_text(json.dumps(results, indent=1) + "\n")
        print(in_words(results))
        for name, figures in found.items():
            print(
                f"{name:22} {figures['per_s']:8.1f} sequences/s  p50 {figures['p50_ms']:8.2f} ms  "
                f"p99 {figures['p99_ms']:8.2f} ms"
            )


if __name__ == "__main__":
    main()
