"""How much a request may have."""

from __future__ import annotations

from dataclasses import dataclass

SEQUENCES = 100
"""Sequences of a request."""

IMAGES = 1000
"""Images of a request, in all its sequences."""

SEQUENCE_PIXELS = 8_000_000
"""Pixels of a sequence as the network takes it, all of which are in memory at once: with 32
channels of float32 a GB."""

CONNECTIONS = 1024
"""Connections at once; one more is answered with 503."""


@dataclass(frozen=True)
class Limits:
    """What the server refuses beyond.

    body_bytes: of a request's body. body_s: seconds in which it has to arrive. image_pixels,
    request_pixels: pixels of an image file, and of all those of a request. bytes_at_once: of all
    bodies that are being received and answered.
    """

    body_bytes: int = 16 * 2**20
    body_s: float = 60.0
    image_pixels: int = 25_000_000
    request_pixels: int = 100_000_000
    bytes_at_once: int = 256 * 2**20
