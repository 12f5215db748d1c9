"""Tables whose features have units of their own: ends and unit of each, and inputs scaled to these.

A radius has one unit. Scaled inputs are (x - low) / unit, feature by feature, from 0 on; a model in front of which
x = low + unit * scaled is put (models.preprocess) is one of scaled inputs, and a radius r lets feature i move by
r * unit_i: a weighted norm of raw inputs, with no other word for it in claims, engines and judge. Where features end at
different scaled values, the model takes min(scaled, its end): what it computes on the box of the largest end is what it
computes on the box of all ends, since the nearest point there is no farther from an input in any of the norms.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.formatting import exact
from proofs_check.certificate import Float32Array

NAME, LOW, HIGH, UNIT = "feature", "low", "high", "unit"
HEADER = f"a row of names, {LOW},{HIGH} and where wanted {UNIT} and {NAME}, then a row for each feature, in order"
ROUNDING = 2.0**-20  # of a scaled end that is meant to be 1
SHOWN = 4  # features that are spelled out

Step = tuple[str, str, NDArray[np.float32]]  # ONNX operator, what its constant is, the constant


@dataclass(frozen=True)
class Features:
    """low, high: the ends of each feature in raw units; unit: what a radius of 1 is. names: theirs, or none.

    The ends and units that count are float32: low rounded, unit rounded, and low + unit * `ends`.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.low)
        lengths = (count, len(self.high), len(self.unit), len(self.names) or count)
        if count == 0 or set(lengths) != {count}:
            raise UsageError(f"features: needs as many low, high, unit and names, one of each at least, got {lengths}")
        with np.errstate(over="ignore"):
            low, high, unit = (np.array(v, dtype=np.float32) for v in (self.low, self.high, self.unit))
        for k in range(count):
            if not (np.isfinite([low[k], high[k], unit[k]]).all() and low[k] < high[k] and unit[k] > 0):
                raise UsageError(
                    f"features: {self._called(k)} reaches from {exact(self.low[k])} to {exact(self.high[k])} in units "
                    f"of {exact(self.unit[k])}: needs low < high and unit > 0, finite, and apart as float32"
                )
            if not 0 < self.ends[k] < np.inf:
                raise UsageError(
                    f"features: {self._called(k)} is {exact(self.unit[k])} units wide: choose another unit"
                )

    @staticmethod
    def read(path: str | Path) -> Features:
        """A CSV file: a row of names, low,high and where wanted unit and feature, then a row for each feature, in the
        order of the data's columns. Without units each is its feature's width, and radii are shares of it.

        Raises UsageError."""
        try:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path}: cannot be read ({error}): needs {HEADER}") from None
        rows = [[cell.strip() for cell in row] for row in rows if row]
        head = [cell.lower() for cell in rows[0]] if rows else []
        if not {LOW, HIGH} <= set(head) <= {NAME, LOW, HIGH, UNIT} or len(set(head)) < len(head) or len(rows) < 2:
            raise UsageError(f"{path}: begins with {','.join(head)[:99]!r}, needs {HEADER}")
        columns: dict[str, tuple[Any, ...]] = dict.fromkeys((NAME, UNIT), ())
        try:
            for name, cells in zip(head, zip(*rows[1:], strict=True), strict=True):
                columns[name] = cells if name == NAME else tuple(float(cell) for cell in cells)
        except ValueError as error:
            raise UsageError(f"{path}: {error}: needs {HEADER}") from None
        low, high = columns[LOW], columns[HIGH]
        units = columns[UNIT] or tuple(b - a for a, b in zip(low, high, strict=True))
        try:
            return Features(low, high, units, columns[NAME])
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def _called(self, k: int) -> str:
        return self.names[k] if self.names else f"feature {k}"

    @property
    def ends(self) -> Float32Array:
        """(F,) where each feature ends once it is scaled."""
        low, unit = (np.array(v, dtype=np.float32).astype(np.float64) for v in (self.low, self.unit))
        ends = (np.array(self.high) - low) / unit
        return np.where(np.abs(ends - 1) <= ROUNDING, 1.0, ends).astype(np.float32)

    @property
    def domain(self) -> tuple[float, float]:
        """What scaled inputs lie in."""
        return 0.0, float(self.ends.max())

    @property
    def note(self) -> str:
        """What the model takes, in words."""
        each = [
            f"{self._called(k)} {exact(self.low[k])} to {exact(self.high[k])} in units of {exact(self.unit[k])}"
            for k in range(min(SHOWN, len(self.low)))
        ]
        rest = (f", … ({len(self.low)} in all)" if len(self.low) > SHOWN else "") + "; as float32"
        return f"takes (x - low) / unit of raw inputs x, and radii are in these units: {', '.join(each)}{rest}"

    def steps(self, shape: tuple[int, ...]) -> list[Step]:
        """From scaled inputs of this shape, features in C order, to raw ones. Raises UsageError."""
        if int(np.prod(shape)) != len(self.low):
            raise UsageError(
                f"takes inputs of shape {shape}, and there are {len(self.low)} features: give one for each"
            )
        ends, unit, low = (np.array(v, dtype=np.float32).reshape(shape) for v in (self.ends, self.unit, self.low))
        cut = [] if (ends == ends.max()).all() else [("Min", "end", ends)]
        return [*cut, ("Mul", "unit", unit), ("Add", "low", low)]

    def scaled(self, inputs: NDArray[Any], names: tuple[str, ...] | None = None, place: str = "inputs") -> Float32Array:
        """(N, *shape) raw inputs, features in C order, as float32 of their units. names: theirs, where known.

        Raises UsageError: another number of features, other names, a value beyond its feature's ends."""
        raw = inputs.reshape(len(inputs), -1).astype(np.float32)
        if raw.shape[1] != len(self.low):
            raise UsageError(f"{place}: inputs have {raw.shape[1]} features, the domain {len(self.low)}")
        for k, (own, given) in enumerate(zip(self.names, names or (), strict=False)):
            if own != given:
                raise UsageError(
                    f"{place}: feature {k} is {given!r}, and {own!r} in the domain: give them in one order"
                )
        low, high, unit = (np.array(v, dtype=np.float32) for v in (self.low, self.high, self.unit))
        outside = ~((low <= raw) & (raw <= high))
        if outside.any():
            n, k = (int(i) for i in np.argwhere(outside)[0])
            raise UsageError(
                f"{place}: {self._called(k)} of input {n} is {raw[n, k]}, outside its domain "
                f"[{exact(self.low[k])}, {exact(self.high[k])}]"
            )
        found = (raw.astype(np.float64) - low.astype(np.float64)) / unit.astype(np.float64)
        return np.clip(found.astype(np.float32), np.float32(0), self.ends).reshape(inputs.shape)
