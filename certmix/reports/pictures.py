"""Inputs as pictures inside a page: PNG files as data addresses, written here because a page loads nothing."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

LARGEST = 64  # pixels along a side; larger images are shown with every k-th pixel
Float32Array = NDArray[np.float32]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape are shown as pictures: channels first, one or three of them."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4


def picture(value: Float32Array, low: float, high: float) -> str:
    """value: (1 or 3, H, W), `low` shown black and `high` white; a data address of a PNG. Requires low < high."""
    step = -(-max(value.shape[1:]) // LARGEST)
    scaled = (value[:, ::step, ::step].astype(np.float64) - low) / (high - low)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_png(np.moveaxis(pixels, 0, 2))).decode()


def difference(point: Float32Array, value: Float32Array) -> str:
    """What was added to `value`, grey where nothing was, stretched so that the largest change is black or white."""
    change = point.astype(np.float64) - value
    most = float(np.abs(change).max()) or 1.0
    return picture(change.astype(np.float32), -most, most)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """pixels: (H, W, 1 or 3)."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # filter 0 before each row
    kind = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = ((b"IHDR", kind), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
