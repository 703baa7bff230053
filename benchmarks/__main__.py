"""The engine beside its alternatives: `python -m benchmarks`, `make bench`.

Four engines train the same two trials at once, on two cores, in turn (A B C D A B C D). Speed is
measured from the end of the first epoch to the end of the last; the time before, for processes,
imports and kernels, has its own column. Ray is started once, before anything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import ours
from benchmarks.circumstances import circumstances
from benchmarks.peers import keras_demo, optuna_alone, ray_recipe
from benchmarks.table import OURS, PAGE, TITLES, markdown, replace_section, summarise
from benchmarks.work import NETWORKS, SIZES, Trained, Work, epochs_per_hour, start_s
from crnn_search.cluster import connection

RESULTS = Path(__file__).parent / "results"
CHOICES = RESULTS / "choices.json"

PACKAGES = ("ray", "optuna", "keras", "jax")

NUM_WORKERS, BACKENDS = (0, 2), ("torch", "jax")

Engine = Callable[[Work], list[Trained]]


def engines(choice: dict[str, Any]) -> dict[str, Engine]:
    """All engines by name, each with its faster setting."""
    return {
        OURS: ours.run,
        "ray": partial(ray_recipe.run, num_workers=choice["num_workers"]),
        "optuna": partial(optuna_alone.run, num_workers=choice["num_workers"]),
        "keras": partial(keras_demo.run, backend=choice["backend"]),
    }


def measure(engine: Engine, work: Work) -> dict[str, Any]:
    """Two trials by one engine."""
    start = time.time()
    trials = engine(work)
    return {
        "epochs_per_hour": epochs_per_hour(trials),
        "start_s": start_s(trials, start),
        "validation_rmse": [trial.validation_rmse[-1] for trial in trials],
    }


def choose(arguments: argparse.Namespace) -> dict[str, Any]:
    """The faster number of loader processes and the faster backend of Keras, by network."""
    chosen = {}
    for network, config in NETWORKS.items():
        sequences, _ = size_of(network, arguments)
        work = Work(config, (0, 1), 2, sequences, arguments.data_dir)
        speed: dict[str, dict[Any, float]] = {
            "num_workers": {
                n: measure(partial(ray_recipe.run, num_workers=n), work)["epochs_per_hour"]
                for n in NUM_WORKERS
            },
            "backend": {
                name: measure(partial(keras_demo.run, backend=name), work)["epochs_per_hour"]
                for name in BACKENDS
            },
        }
        best = {setting: max(found, key=found.__getitem__) for setting, found in speed.items()}
        chosen[network] = best | {"epochs_per_hour": speed}
    return chosen


def size_of(network: str, arguments: argparse.Namespace) -> tuple[int, int]:
    """Training sequences of an epoch, and epochs."""
    sequences, epochs = SIZES[network]
    return arguments.sequences or sequences, arguments.epochs or epochs


def compare(arguments: argparse.Namespace, choices: dict[str, Any]) -> dict[str, Any]:
    """Measure every network with every engine, in turn, `repeats` times."""
    networks: dict[str, Any] = {}
    for network, config in NETWORKS.items():
        found = {
            name: engine for name, engine in engines(choices[network]).items()
            if name in arguments.only
        }  # fmt: skip
        measured: dict[str, dict[str, list[Any]]] = {name: {} for name in found}
        for repeat in range(arguments.repeats):
            seeds = (2 * repeat, 2 * repeat + 1)
            sequences, epochs = size_of(network, arguments)
            work = Work(config, seeds, epochs, sequences, arguments.data_dir)
            for name, engine in found.items():
                row = measure(engine, work)
                for figure, value in row.items():
                    measured[name].setdefault(figure, []).append(value)
                print(network, repeat + 1, name, json.dumps(row), flush=True)
        networks[network] = measured
    return networks


@contextlib.contextmanager
def quiet_ray() -> Iterator[None]:
    """A local Ray that logs errors only."""
    with connection.connect(None):
        logging.getLogger("ray").setLevel(logging.ERROR)
        yield


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sequences", type=int, help="training sequences of an epoch")
    parser.add_argument("--epochs", type=int, help="two or more")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default=",".join(TITLES), help="engines: " + ", ".join(TITLES))
    parser.add_argument(
        "--name", default="bench", help="of the result file and the section of the page"
    )
    parser.add_argument("--data-dir", help="folder of MNIST's files")
    parser.add_argument(
        "--choose", action="store_true", help="only measure the peers' settings again"
    )
    arguments = parser.parse_args()
    arguments.only = {OURS, *arguments.only.split(",")}
    if unknown := arguments.only - set(TITLES):
        parser.error(f"--only takes {', '.join(TITLES)}, got {', '.join(sorted(unknown))}")
    if arguments.epochs is not None and arguments.epochs < 2:
        parser.error(f"--epochs must be at least 2, got {arguments.epochs}: the first is start-up")
    return arguments


def main() -> None:
    """Measure; write `results/NAME.json` and the section NAME of `docs/benchmarks.md`."""
    arguments = parse()
    RESULTS.mkdir(exist_ok=True)
    start = time.monotonic()
    with quiet_ray():
        if arguments.choose:
            choices = choose(arguments)
            CHOICES.write_text(
                json.dumps(circumstances(*PACKAGES) | {"choices": choices}, indent=2) + "\n"
            )
            print(CHOICES.read_text())
            return
        choices = json.loads(CHOICES.read_text())["choices"]
        results = circumstances(*PACKAGES)
        measured = compare(arguments, choices)
    results |= {
        "repeats": arguments.repeats,
        "sizes": {network: size_of(network, arguments) for network in measured},
        "choices": choices,
        "minutes": (time.monotonic() - start) / 60,
        "networks": measured,
        "summary": {network: summarise(found) for network, found in measured.items()},
    }
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(results, indent=2) + "\n")
    text = markdown(results)
    replace_section(PAGE, arguments.name, text)
    Console().print(Markdown(text))


if __name__ == "__main__":
    main()
