from __future__ import annotations

import torch
import torch.nn.functional as F

from crnn_search.data.sequences import Digits
from crnn_search.training.augment import augment


def test_augmentation_distorts_with_its_strength(digits: Digits) -> None:
    images = digits.images[:64]
    pixels = images.float() / 255
    torch.manual_seed(0)
    weak, strong = augment(images, 0.1), augment(images, 1.0)
    assert weak.shape == pixels.shape
    assert 0 < F.mse_loss(weak, pixels) < F.mse_loss(strong, pixels) < 0.1


def test_strength_zero_keeps_images(digits: Digits) -> None:
    images = digits.images[:64]
    torch.testing.assert_close(augment(images, 0.0), images.float() / 255, rtol=0, atol=1e-5)
