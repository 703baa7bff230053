"""Score an exported model on MNIST's test sequences with onnxruntime and NumPy alone.

    python examples/score_onnx.py runs/demo ~/.cache/crnn-search/mnist

The run's `test_predictions.npz` says which images each sequence has, and MNIST's own files have the
images. It prints the RMSE of `model/model.onnx`, and of `model/ensemble.onnx` if there is one.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TRAINING_IMAGES = 60_000
AT_ONCE = 2000


def test_images(folder: Path) -> np.ndarray:
    """MNIST's test images, uint8 `(10000, 1, 28, 28)`."""
    (path,) = folder.glob("t10k-images*idx3-ubyte*")
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 1, 28, 28)


def rmse(model: Path, images: np.ndarray, table: dict[str, np.ndarray]) -> float:
    """The RMSE of a model's sums."""
    session = onnxruntime.InferenceSession(model)
    squared = 0.0
    for start in range(0, len(table["targets"]), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        lengths = table["lengths"][some]
        # Image 60,000 is the first one of the test; padding, which has no effect, is image 0.
        numbers = np.maximum(table["indices"][some, : lengths.max()] - TRAINING_IMAGES, 0)
        pixels = images[numbers].astype(np.float32) / 255
        (sums,) = session.run(["sum"], {"images": pixels, "lengths": lengths})
        squared += ((sums.astype(np.float64) - table["targets"][some]) ** 2).sum()
    return float(np.sqrt(squared / len(table["targets"])))


def main(run: Path, data: Path) -> None:
    """Score the models of a run."""
    images = test_images(data)
    with np.load(run / "test_predictions.npz") as stored:
        table = {name: stored[name] for name in ("indices", "lengths", "targets")}
    for name in ("model", "ensemble"):
        path = run / "model" / f"{name}.onnx"
        if path.exists():
            print(f"{name}: RMSE {rmse(path, images, table):.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
