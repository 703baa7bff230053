"""Image files as MNIST has its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crnn_search.errors import ImageError
from crnn_search.hyperparameters import IMAGE_SIZE


def read_image(path: Path) -> Tensor:
    """An image file of any size and mode as MNIST has them: white on black, uint8 `(28, 28)`.

    Transparent pixels become white; an image that is not square is squeezed. If the outermost
    pixels are bright on average, the image is black on white and is inverted.

    Raises:
        ImageError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            grey = _greyscale(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; give an image file such as a PNG") from error
    # Pillow's decoders raise any of these for a file that is not an image, truncated or too large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{path} cannot be decoded: {error}; give an image file such as a PNG"
        ) from error
    pixels = torch.from_numpy(np.array(grey))
    inner = pixels[1:-1, 1:-1]
    border = (pixels.sum() - inner.sum()) / (pixels.numel() - inner.numel())
    return 255 - pixels if border > 127 else pixels


def _greyscale(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip values of more than 8 bits at 255: spread their own range instead.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        values -= values.min()
        return Image.fromarray((values * (255 / (values.max() or 1))).round().astype(np.uint8))
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("L")
