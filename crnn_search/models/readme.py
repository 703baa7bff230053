"""The README that is exported beside a model."""

from __future__ import annotations

from crnn_search import __version__
from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import TrialConfig
from crnn_search.models.images import preprocessing
from crnn_search.models.predictor import output_name
from crnn_search.text import first_line, printable


def readme(config: TrialConfig, task: TaskInfo) -> str:
    """The Markdown text for a network of this configuration that was trained on this task."""
    spec = config.model
    longest = task.longest
    if not task.sums:
        longest = min(longest, config.training.max_sequence_length)
    template = (_SUMS if task.sums else _OWN) + _REST
    return template.format(
        target=_code(task.target) + (f" ({_code(task.unit)})" if task.unit else ""),
        data=_code(task.name),
        images="one image" if longest == 1 else f"1 to {longest:,} images",
        shape=", ".join(map(str, task.shape)),
        preprocessing="\n".join(f"- {step}" for step in preprocessing(task).split("; ")),
        output=output_name(task),
        things="digits" if task.sums else "images",
        version=__version__,
        convolutions=", ".join(map(str, spec.conv_channels)),
        grus=", ".join(map(str, spec.gru_sizes)),
    )


def _code(text: str) -> str:
    """The first line of a user's text as a Markdown code span, in which nothing is markup."""
    return f"`{printable(first_line(text)).replace('`', chr(39))}`"


_SUMS = """# A network that adds handwritten digits

It takes a sequence of images of one digit each and predicts the digits' sum: convolutions
({convolutions} channels) of every image, GRUs ({grus} wide) over the sequence, one linear output.
crnn-search {version} trained it on sequences of {images}.

## Contract

- `images`: float32 (B, T, {shape}), white on black as in MNIST, pixels from 0 to 1. Any B and T
  are valid; how good the sums of longer sequences are is unknown.
- `lengths`: int64 (B,), the number of images of each sequence, 1 to T. Images beyond it are padding
  and have no effect.
- `sum`: float32 (B,), the predicted sums. Round them for whole numbers.

`crnn-search predict` makes such images of image files like this:

{preprocessing}
"""

_OWN = """# A network that predicts {target}

It takes a sequence of images and predicts {target}: convolutions ({convolutions} channels) of every
image, GRUs ({grus} wide) over the sequence, one linear output. crnn-search {version} trained it on
the data set {data}, on sequences of {images}.

## Contract

- `images`: float32 (B, T, {shape}), pixels from 0 to 1. Any B and T are valid; how good predictions
  of longer sequences are is unknown.
- `lengths`: int64 (B,), the number of images of each sequence, 1 to T. Images beyond it are padding
  and have no effect.
- `prediction`: float32 (B,), the predicted {target}, not standardised.

Images were prepared like this, and `crnn-search predict` prepares them so:

{preprocessing}
"""

_REST = """
## Use

With `pip install onnxruntime` and nothing else:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((2, 5, {shape}), np.float32)  # two sequences; put your {things} here
lengths = np.array([5, 3], np.int64)  # one of five images, one of three
({output}s,) = session.run(["{output}"], {{"images": images, "lengths": lengths}})
print({output}s)
```

## Files

Both models give the same {output}s; an export may have written only one of them.

- `model.safetensors`: weights and configuration, no code; read with crnn-search.
- `model.onnx`: the whole network, no code; read with any ONNX runtime.
- `config.json`: the hyperparameters (`config`) and what else is known of the network (`info`).
"""
