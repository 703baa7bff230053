"""The README that is exported beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crnn_search import __version__
from crnn_search.training.model import CRNN


def readme(network: CRNN, info: Mapping[str, Any]) -> str:
    """The Markdown text for a network. info: `max_digits` in it is named, if it is known."""
    spec, shape = network.spec, network.shape
    return _TEMPLATE.format(
        version=__version__,
        lengths=f"1 to {info['max_digits']} images" if "max_digits" in info else "images",
        convolutions=", ".join(map(str, spec.conv_channels)),
        grus=", ".join(map(str, spec.gru_sizes)),
        shape=", ".join(map(str, shape)),
    )


_TEMPLATE = """# A network that adds handwritten digits

It takes a sequence of images of one digit each and predicts the digits' sum: convolutions
({convolutions} channels) of every image, GRUs ({grus} wide) over the sequence, one linear output.
crnn-search {version} trained it on sequences of {lengths}.

## Contract

- `images`: float32 (B, T, {shape}), white on black as in MNIST, pixels from 0 to 1. Any B and T
  are valid; how good the sums of longer sequences are is unknown.
- `lengths`: int64 (B,), the number of images of each sequence, 1 to T. Images beyond it are padding
  and have no effect.
- `sum`: float32 (B,), the predicted sums. Round them for whole numbers.

## Use

With `pip install onnxruntime` and nothing else:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((2, 5, {shape}), np.float32)  # two sequences; put your digits here
lengths = np.array([5, 3], np.int64)  # one of five images, one of three
(sums,) = session.run(["sum"], {{"images": images, "lengths": lengths}})
print(sums)
```

## Files

Both models give the same sums; an export may have written only one of them.

- `model.safetensors`: weights and configuration, no code; read with crnn-search.
- `model.onnx`: the whole network, no code; read with any ONNX runtime.
- `config.json`: the hyperparameters (`config`) and what else is known of the network (`info`).
"""
