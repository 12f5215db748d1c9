"""What a reader of data found, before it is converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Placed = tuple[NDArray[Any], str]  # an array, and where it stands


@dataclass(frozen=True, eq=False)
class Found:
    """inputs: (N, …) of any numbers. labels: classes (N, …), None where there are none. available: how many inputs
    there are, where that is known. names: of the features, where they have such."""

    inputs: Placed
    labels: Placed | None
    available: int | None
    names: tuple[str, ...] | None = None
