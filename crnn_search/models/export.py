"""Model files: write a network in each format, and check the sums of each file against PyTorch.

- `safetensors`: weights and configuration, no code; read with this package.
- `onnx`: a small graph in one self-contained file, no code; read with any ONNX runtime.

`predictor` states the contract of both. Shapes: `S` sequences, `I` images.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

import crnn_search
from crnn_search.data.sequences import Digits, SequenceTable, testing_table
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.models import onnx_graph
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.models.predictor import Predictor, load, torch_predictor
from crnn_search.models.readme import readme
from crnn_search.storage import stages
from crnn_search.storage.files import read_json, write_json, write_text, writing
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN

MAX_DIFFERENCE = 1e-3
"""Largest difference in a sum between an exported file and the PyTorch model."""

EXPORT_CHECK_SEQUENCES = 1000
"""Test sequences that a run's exported files are checked on."""

CHUNK = 100
"""Sequences compared at once."""


@dataclass(frozen=True)
class TrainedModel:
    """A network, the configuration it was trained with, and whatever else JSON holds as `info`.

    `max_digits` in `info` is named in the files.
    """

    network: CRNN
    config: TrialConfig
    info: dict[str, Any] = field(default_factory=dict)


def export_winner(run: RunFolder, formats: Sequence[str], digits: Digits) -> dict[str, float]:
    """Write the winner of a run, of its first seed, to the run's `model/` folder.

    digits: with the test images. Returns and raises as `export`, and InputError if the run has not
    been retrained.
    """
    stages.check(run, stages.RETRAIN)
    entry = read_json(run.retrained)["winner"][0]
    winner = TrainedModel(*checkpoint.load_model(run.root / entry["file"]))
    table = testing_table(digits.labels, winner.info["max_digits"])
    first = SequenceTable(*(values[:EXPORT_CHECK_SEQUENCES] for values in vars(table).values()))
    folder = ModelFolder(run.model)
    differences = export(winner, folder, formats, digits.pixels, first)
    files = (folder.config, folder.readme, *map(folder.model, formats))
    stages.record(run, stages.EXPORT, files, add=True)
    return differences


def export(
    model: TrainedModel,
    folder: ModelFolder,
    formats: Sequence[str],
    images: Tensor,
    table: SequenceTable,
) -> dict[str, float]:
    """Write a model's files, `config.json` and `README.md` into `folder`: all of them or none.

    images: uint8 `(I, C, H, W)`, of the network's shape. table: sequences to check each file on, at
    least one.

    Returns for each format the largest difference in a sum to the PyTorch model. Files that an
    earlier export wrote in other formats stay.

    Raises:
        InputError: `formats` is empty or has an unknown name.
        RunError: a file's sums differ from the model's by more than `MAX_DIFFERENCE`.
        StorageError: the folder cannot be written.
    """
    if not formats or not set(formats) <= set(FORMATS):
        raise InputError(
            f"formats must be one or more of {', '.join(FORMATS)}, got {list(formats)}"
        )
    model = replace(model, network=_plain_copy(model.network))
    expected = _sums(torch_predictor(model.network), images, table)
    differences = {}
    with writing(folder.root), _staging(folder) as staged:
        config, shape = model.config.to_dict(), model.network.shape
        write_json(staged.config, {"config": config, "image_shape": shape, "info": model.info})
        for name in FORMATS:
            if name in formats:
                path = staged.model(name)
                _WRITERS[name](path, model)
                differences[name] = _difference(name, _sums(load(path), images, table), expected)
        write_text(staged.readme, readme(model.network, model.info))
    return differences


@contextlib.contextmanager
def _staging(folder: ModelFolder) -> Iterator[ModelFolder]:
    """A temporary folder whose files move into `folder` at the end, if nothing is raised."""
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.root, prefix=".export-") as temporary:
            yield ModelFolder(Path(temporary))
            for path in Path(temporary).iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(folder.root / path.name)
    finally:
        with contextlib.suppress(OSError):  # not empty: files were written
            folder.root.rmdir()


def _plain_copy(network: CRNN) -> CRNN:
    """The network as the formats store it: float32, contiguous, on the CPU."""
    plain = copy.deepcopy(network).eval().requires_grad_(False).float().cpu()
    return plain.to(memory_format=torch.contiguous_format)


def _sums(predictor: Predictor, images: Tensor, table: SequenceTable) -> Tensor:
    """The predicted sums, `(S,)`. Sequences are padded with image 0, which is not blank."""
    sums = []
    for rows in torch.arange(len(table)).split(CHUNK):
        pixels = images[table.indices[rows].long()].cpu().float() / 255
        sums.append(predictor(pixels, table.lengths[rows]))
    return torch.cat(sums)


def _difference(name: str, sums: Tensor, expected: Tensor) -> float:
    """The largest difference of two predictions `(S,)`, if it is small enough."""
    largest = (sums - expected).abs().max().item()
    if not largest <= MAX_DIFFERENCE:  # so that NaN is refused
        raise RunError(
            f"the {name} file's sums differ from the PyTorch model's by up to {largest:.3g}, more "
            f"than {MAX_DIFFERENCE:g}; no file was written"
        )
    return largest


def _write_safetensors(path: Path, model: TrainedModel) -> None:
    checkpoint.save_model(path, model.network, model.config, model.info)


def _write_onnx(path: Path, model: TrainedModel) -> None:
    metadata = {
        "config": json.dumps(model.config.to_dict()),
        "crnn_search_version": crnn_search.__version__,
    }
    if "max_digits" in model.info:
        metadata["max_digits"] = str(model.info["max_digits"])
    onnx.save_model(onnx_graph.build(model.network, metadata), path)


_WRITERS: dict[str, Callable[[Path, TrainedModel], None]] = {
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}
