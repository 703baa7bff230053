"""The README that is exported beside a model: its model card."""

from __future__ import annotations

from crnn_search import __version__
from crnn_search.data.task_info import TaskInfo
from crnn_search.models.info import ModelInfo
from crnn_search.models.onnx_file import output_names
from crnn_search.text import first_line, printable
from crnn_search.training.model import CRNN


def readme(network: CRNN, info: ModelInfo, ensemble: ModelInfo | None = None) -> str:
    """The Markdown text for a network, and for the mean of several, if that is exported, too."""
    task, spec = info.task, info.config.model
    output, running = output_names(task)
    longest = info.longest
    values = {
        "target": _target(task),
        "data": _code(task.name),
        "images": "one image" if longest == 1 else f"1 to {longest:,} images",
        "shape": ", ".join(map(str, task.shape)),
        "preprocessing": "\n".join(f"- {step}" for step in info.preprocessing.describe()),
        "output": output,
        "running": running,
        "version": __version__,
        "convolutions": ", ".join(map(str, spec.conv_channels)),
        "grus": ", ".join(map(str, spec.gru_sizes)),
        "origin": _origin(info),
        "results": _results(info, ensemble),
        "use": _use(info, ensemble),
        "files": _files(ensemble),
        "weights": "\n".join(
            f"| `{name}` | {' × '.join(map(str, value.shape)) or '1'} |"
            for name, value in network.state_dict().items()
        ),
        "longest": longest,
    }
    return ((_SUMS if task.sums else _OWN) + _REST).format(**values)


def _target(task: TaskInfo) -> str:
    return _code(task.target) + (f" ({_code(task.unit)})" if task.unit else "")


def _code(text: str) -> str:
    """The first line of a user's text as a Markdown code span, in which nothing is markup."""
    return f"`{printable(first_line(text)).replace('`', chr(39))}`"


def _origin(info: ModelInfo) -> str:
    """When it was made, from which commit, as far as that is known."""
    known, parts = info.training, [f"crnn-search {__version__}"]
    if commit := known.get("git_commit"):
        parts.append(f"commit {_code(str(commit))}")
    if created := known.get("created"):
        parts.append(f"run {_code(str(known.get('run', '')))} of {str(created)[:10]}")
    if "epochs" in known:
        parts.append(f"{known['epochs']} epochs of {known['epoch_sequences']:,} sequences")
    return ", ".join(parts)


def _results(info: ModelInfo, ensemble: ModelInfo | None) -> str:
    """The figures on the test sequences."""
    columns = {"`model`": info.metrics}
    if ensemble is not None:
        columns[f"`ensemble` ({ensemble.networks} networks)"] = ensemble.metrics
    if not info.metrics:
        return "Its score on test data was not recorded.\n"
    unit = f" ({_code(info.task.unit)})" if info.task.unit else ""
    lines = [
        f"On {info.metrics['sequences']:,} test sequences that no choice has seen{unit}; intervals "
        "are of 95 %, for other images.",
        "",
        "| | " + " | ".join(columns) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]

    def row(name: str, cells: list[str]) -> str:
        return f"| {name} | " + " | ".join(cells) + " |"

    found = list(columns.values())
    lines.append(row("RMSE", [_with_interval(m["rmse"], m["rmse_interval"]) for m in found]))
    lines.append(row("MAE", [f"{m['mae']:.4g}" for m in found]))
    if "exact_sum_rate" in info.metrics:
        lines.append(row("exact sums", [f"{m['exact_sum_rate']:.1%}" for m in found]))
    for length in info.metrics["rmse_by_length"]:
        cells = [
            _with_interval(m["rmse_by_length"][length], m["rmse_interval_by_length"][length])
            for m in found
        ]
        images = "image" if length == "1" else "images"
        lines.append(row(f"RMSE, {length} {images}", cells))
    for name, rmse in info.metrics["baseline_rmse"].items():
        lines.append(row(f"RMSE of {name}", [f"{rmse:.4g}"] * len(found)))
    return "\n".join(lines) + "\n"


def _with_interval(value: float, interval: list[float] | None) -> str:
    if interval is None:
        return f"{value:.4g}"
    return f"{value:.4g} ({interval[0]:.4g} to {interval[1]:.4g})"


def _use(info: ModelInfo, ensemble: ModelInfo | None) -> str:
    """Programs that print predictions for `example.npz`."""
    grey, last = 'example["images"]', 'np.moveaxis(example["images"], -1, 2)'
    if info.task.shape.channels == 1:
        images, pixels = f"{grey}[:, :, None]", grey
    else:
        images = pixels = last
    names = {
        "output": output_names(info.task)[0],
        "images": images,
    }
    parts = [_ONNX.format(file="model.onnx", **names)]
    if ensemble is not None:
        parts.append(_ENSEMBLE.format(count=ensemble.networks))
    return "\n".join([*parts, _SAFETENSORS.format(pixels=pixels)])


def _files(ensemble: ModelInfo | None) -> str:
    lines = [
        "- `model.onnx`: the whole network, no code; read with any ONNX runtime.",
        "- `model.safetensors`: weights and configuration, no code; read with crnn-search.",
        "- `config.json`: the hyperparameters (`config`) and what else is known (`info`): task, "
        "preprocessing, the training images' pixels, figures.",
        "- `example.npz`: sequences with their targets, for the programs above.",
    ]
    if ensemble is not None:
        lines.insert(
            1,
            f"- `ensemble.onnx`: the mean of {ensemble.networks} networks that differ in their "
            f"seed, the first of which is `model.onnx`; it takes {ensemble.networks} times the "
            "time and the space.",
        )
    return "\n".join(lines)


_SUMS = """# A network that adds handwritten digits

It takes a sequence of images of one digit each and predicts the digits' sum: convolutions
({convolutions} channels) of every image, GRUs ({grus} wide) over the sequence, one linear output.
Trained on sequences of {images}, by the sums alone: {origin}.

**Data**: MNIST (Y. LeCun, C. Cortes, C. Burges), digits written in the USA around 1990, under
CC BY-SA 3.0; 60,000 images for training, 10,000 for the test.

## Results

{results}
**Limits**: digits of other hands, pens, countries and cameras are not MNIST's, and were not tried
in a test of any size. Sequences of more than {longest} images are predicted, but how well is
unknown.

## Contract

- `images`: float32 (B, T, {shape}), white on black as in MNIST, pixels from 0 to 1; any B and T.
- `lengths`: int64 (B,), the number of images of each sequence, 1 to T. Images beyond it are padding
  and have no effect.
- `sum`: float32 (B,), the predicted sums. Round them for whole numbers.
- `running_sum`: float32 (B, T), the sum after each image; at or beyond a length without meaning.

`crnn-search predict` makes such images of image files like this, as `preprocessing` in
`config.json` and in each file's metadata says:

{preprocessing}
"""

_OWN = """# A network that predicts {target}

It takes a sequence of images and predicts {target}: convolutions ({convolutions} channels) of every
image, GRUs ({grus} wide) over the sequence, one linear output. Trained on the data set {data}, on
sequences of {images}: {origin}. The data's licence is that of their owner.

## Results

{results}
**Limits**: images of other places, times and cameras than those of the data set were not tried.
Sequences of more than {longest} images are predicted, but how well is unknown.

## Contract

- `images`: float32 (B, T, {shape}), pixels from 0 to 1; any B and T.
- `lengths`: int64 (B,), the number of images of each sequence, 1 to T. Images beyond it are padding
  and have no effect.
- `prediction`: float32 (B,), the predicted {target}, not standardised.
- `running_prediction`: float32 (B, T), the prediction after each image; at or beyond a length
  without meaning.

Images were prepared like this, and `crnn-search predict` prepares them so, as `preprocessing` in
`config.json` and in each file's metadata says:

{preprocessing}
"""

_REST = """
## Use

{use}
## Files

All give the same {output}s but for the ensemble; an export may have written only one format.

{files}

## Weights

Names and shapes in `model.safetensors`:

| name | shape |
| --- | --- |
{weights}
"""

_ONNX = """With `pip install onnxruntime`, which brings NumPy, and nothing else:

```python
import numpy as np, onnxruntime

example = np.load("example.npz")  # uint8 images, lengths, targets
images = {images}.astype(np.float32) / 255
session = onnxruntime.InferenceSession("{file}")
(predictions,) = session.run(["{output}"], {{"images": images, "lengths": example["lengths"]}})
print(predictions, example["targets"])
```
"""

_ENSEMBLE = """`ensemble.onnx` is used in the same way and takes {count} times as long.
"""

_SAFETENSORS = """With crnn-search:

```python
import crnn_search
import numpy as np

example = np.load("example.npz")
model = crnn_search.load_model("model.safetensors")
print(model.predict({pixels}, example["lengths"]), example["targets"])
```
"""
