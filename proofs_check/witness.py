"""The witness: slopes that a prover suggests, as bytes (FORMAT.md 7). Its layout, for both sides of the trust line.

A row holds one lower slope per neuron of the sloped nodes, in the order of nodes. Slopes are hints: any number in
[0, 1], in any row, leaves every bound sound, so nothing here is to be trusted but that the stream is bounded.

Precondition: bytes of any origin. Postcondition: slopes in [0, 1], in one of three numbers of rows, or a rejection.
Charged: nothing; a slope is the double that byte / 255 rounds to, and counts as exact.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proofs_check.certificate import LeakyRelu, PlainNetwork, RejectedError, Relu, need

LEVELS = 255  # above 0: a slope w travels as the byte round(255 w)
MAX_BYTES = 2**28
SLOPED = (Relu, LeakyRelu)  # kinds with a lower slope that may be chosen, for each neuron
SHARED_ROW = 0  # of all passes but the last, and of every one without a row of its own


def difference_row(j: int) -> int:
    """The row of the last pass of class j."""
    return 1 + j


def exponential_row(j: int, classes: int) -> int:
    """The row of the exponential form of class j."""
    return 1 + classes + j


def slope_starts(network: PlainNetwork) -> list[int]:
    """Per node, the first column of its neurons; and at the end, how many columns there are."""
    sizes = (math.prod(s) for s in network.shapes)
    kinds = zip(sizes, network.nodes, strict=True)
    return [0, *itertools.accumulate(size if isinstance(node, SLOPED) else 0 for size, node in kinds)]


@dataclass(frozen=True, eq=False)
class Witness:
    """slopes (rows, n) in [0, 1]: lower slopes of every sloped neuron in node order; 1, 1 + K or 1 + 2 K rows."""

    slopes: NDArray[np.float64]

    def row(self, wanted: int, classes: int) -> int:
        """The row for `wanted` in 0..2K, or the nearest this witness has."""
        if wanted < len(self.slopes):
            return wanted
        return wanted - classes if wanted > classes and len(self.slopes) > classes else SHARED_ROW


def encode(levels: NDArray[np.uint8]) -> bytes:
    """The stream of slopes levels / 255."""
    return zlib.compress(levels.tobytes(), 6)


def decode(data: bytes, network: PlainNetwork) -> Witness:
    """Slopes from a zlib stream of uint8. Rejects a stream of another length."""
    n = slope_starts(network)[-1]
    lengths = [n * rows for rows in (1, 1 + network.classes, 1 + 2 * network.classes)]
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, min(lengths[-1], MAX_BYTES) + 1)
    except zlib.error as error:
        raise RejectedError("witness", f"is not a zlib stream: {error}") from error
    fits = n > 0 and len(raw) in lengths and len(raw) <= MAX_BYTES
    need(fits, "witness", f"must hold one of {lengths} bytes and at most {MAX_BYTES}, got {len(raw)}")
    need(stream.eof and not stream.unused_data, "witness", "stream is cut short or too long")
    return Witness(np.frombuffer(raw, dtype=np.uint8).reshape(-1, n) / LEVELS)
