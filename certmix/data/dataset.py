"""Labelled inputs from an .npz or .csv file, checked before anything is computed from them."""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.data import file_kinds
from certmix.errors import UsageError
from certmix.formatting import exact
from proofs_check.certificate import Float32Array

INPUT_NAMES = ("images", "inputs", "x", "x_test", "data")
LABEL_NAMES = ("labels", "y", "y_test", "targets")
LABEL_COLUMNS = (*LABEL_NAMES, "label", "target", "class")  # of a table
EXACT = 2**24  # integers up to here are float32 numbers
UNIT: tuple[float, float] = (0.0, 1.0)
PIXELS: tuple[float, float] = (0.0, 255.0)


@dataclass(frozen=True, eq=False)
class Dataset:
    """inputs: (N, *shape) float32 in raw units, finite, N >= 1. labels: (N,) int64 >= 0. source: the file.
    available: how many inputs the file holds, of which these are the first N; None if that is not known."""

    inputs: Float32Array
    labels: NDArray[np.int64]
    source: str
    available: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape, classes = self.inputs.shape[1:], f"{self.labels.min()} to {self.labels.max()}"
        return f"Dataset({self.source[-150:]}: {len(self)} inputs of shape {shape}, labels {classes})"

    def require(self, input_shape: tuple[int, ...], classes: int, domain: tuple[float, float] | None) -> None:
        """Raises UsageError unless a model of this signature can be run on every input, all in `domain`."""
        if self.inputs.shape[1:] != input_shape:
            raise UsageError(
                f"{self.source}: inputs have shape {self.inputs.shape[1:]}, the model takes {input_shape}: "
                f"{shape_advice(self.inputs.shape[1:], input_shape)}"
            )
        wrong = np.flatnonzero(self.labels >= classes)
        if wrong.size:
            k = int(wrong[0])
            raise UsageError(
                f"{self.source}: label {self.labels[k]} of input {k} is out of range: "
                f"the models' classes are 0 to {classes - 1}"
            )
        if domain is not None:
            self._require_domain(*domain)

    def _require_domain(self, low: float, high: float) -> None:
        # compared in float64: the domain's ends need not be float32 numbers
        outside = (self.inputs.astype(np.float64) < low) | (self.inputs.astype(np.float64) > high)
        if outside.any():
            k = int(np.flatnonzero(outside.reshape(len(self), -1).any(axis=1))[0])
            value = self.inputs[k][outside[k]][0]
            advice = outside_advice(float(self.inputs.min()), float(self.inputs.max()))
            raise UsageError(f"{self.source}: input {k} holds {value}, outside the domain [{low}, {high}]: {advice}")


def shape_advice(found: tuple[int, ...], needed: tuple[int, ...]) -> str:
    """How inputs of shape `found` (no batch axis) become what a model of input shape `needed` takes."""
    if len(found) == len(needed) == 3:
        if found != needed and (found[2], found[0], found[1]) == needed:
            return "channels come first: store images.transpose(0, 3, 1, 2); reshape would scramble the pixels"
        if found != needed and (found[1], found[2], found[0]) == needed:
            return "channels come last: store images.transpose(0, 2, 3, 1); reshape would scramble the pixels"
    if len(needed) == 3 and found == needed[1:] and needed[0] == 1:
        return "the channel axis is missing: store images[:, None]"
    if math.prod(found) == math.prod(needed) and 1 in (len(found), len(needed)):
        target = ", ".join(map(str, needed))
        return f"if their coordinates have the same order, store images.reshape(-1, {target})"
    return "these are not inputs of this model"


def outside_advice(low: float, high: float) -> str:
    """What to do about inputs that reach from `low` to `high` and leave the domain."""
    if low < 0:
        return (
            "if they were normalised, store them raw and make normalisation the model's first layer, since a wider "
            "domain would not undo it; if the model takes such values raw, pass their range as the domain"
        )
    if 1 < high <= PIXELS[1]:
        return "divide pixels by 255; only if the model takes pixels from 0 to 255 itself, pass the domain 0 255"
    return "scale the inputs; only if the model takes such values raw, pass their range as the domain"


def load_data(path: str | Path, limit: int | None = None, domain: tuple[float, float] | None = UNIT) -> Dataset:
    """The .npz or .csv file at `path`, or its first `limit` entries.

    An .npz file holds one array of INPUT_NAMES, (N, …): floating point, taken as it is and rounded to float32; uint8,
    divided by 255 where `domain` is [0, 1] and taken as it is where it is [0, 255]; other integers likewise, but as
    they are for any other domain, too, and for [0, 1] where all are 0 or 1. And one of LABEL_NAMES, (N,) or (N, 1)
    classes, whole numbers of any type, or (N, K) one-hot. A .csv file begins with the names of its columns, of which
    one of LABEL_COLUMNS holds the class and all others, as they are, the features.

    Raises UsageError: no such file, another kind of file, a missing or ambiguous array, another dtype, uint8 with
    another domain (None too), no entries, different lengths, a value that is not finite, a negative label, limit < 1.
    """
    path = Path(path)
    inputs, labels = _table(path) if path.suffix == ".csv" else _arrays(path)
    values = _inputs(*inputs, domain)
    classes = _labels(*labels, len(values))
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be >= 1, got {limit}")
    return Dataset(np.ascontiguousarray(values[:limit]), classes[:limit], str(path), len(classes))


Placed = tuple[NDArray[Any], str]  # an array, and where it stands


def _arrays(path: Path) -> tuple[Placed, Placed]:
    """Inputs and labels of an .npz file."""
    arrays = _read(path)
    names = [name for name in INPUT_NAMES if name in arrays]
    if len(names) != 1:
        known, there = ", ".join(INPUT_NAMES), ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{path}: needs one array of inputs, named one of {known}, has {there}")
    found = [name for name in LABEL_NAMES if name in arrays]
    if len(found) != 1:
        known, there = ", ".join(LABEL_NAMES), ", ".join(sorted(arrays))
        raise UsageError(f"{path}: needs one array of labels, named one of {known}, has {there}")
    return (arrays[names[0]], f"{path}: {names[0]}"), (arrays[found[0]], f"{path}: {found[0]}")


def _table(path: Path) -> tuple[Placed, Placed]:
    """Features and labels of a .csv file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file: give the path of a table with a row of names and one row per input")
    try:
        with path.open(encoding="utf-8-sig") as file:
            columns = [name.strip().strip('"').lower() for name in file.readline().split(",")]
        with warnings.catch_warnings(action="ignore"):  # of a table without rows, which is refused below
            values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: not a table of numbers with commas between ({str(error).splitlines()[0]})"
        ) from error
    found = [k for k, name in enumerate(columns) if name in LABEL_COLUMNS]
    if len(found) != 1 or len(columns) != values.shape[1]:
        known = ", ".join(LABEL_COLUMNS)
        raise UsageError(
            f"{path}: its first row must name {values.shape[1]} columns, one of them one of {known}; it names "
            f"{', '.join(columns)[:200]}"
        )
    return (np.delete(values, found[0], axis=1), f"{path}: features"), (values[:, found[0]], f"{path}: labels")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file: give the path of an .npz file with images and labels")
    what = file_kinds.kind(path)
    if what not in (None, file_kinds.ARRAYS, file_kinds.ARRAY):
        raise UsageError(f"{path}: is {what}")
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise UsageError(f"{path}: is a single array: store images and labels with numpy.savez")
        with stored:
            return {name: np.asarray(stored[name]) for name in stored.files}
    except UsageError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: not a complete .npz file ({error})") from error


def _inputs(value: NDArray[Any], place: str, domain: tuple[float, float] | None) -> Float32Array:
    if value.ndim < 2 or value.size == 0:
        raise UsageError(f"{place} has shape {value.shape}, needs (N, …) with at least one entry")
    if value.dtype == np.uint8 or (value.dtype.kind in "iu" and domain == UNIT and value.max() > 1):
        return _pixels(value, place, domain)
    if value.dtype.kind in "iu" and domain is not None:
        if max(abs(int(value.min())), abs(int(value.max()))) > EXACT:
            raise UsageError(f"{place} holds integers beyond 2^24, which float32 rounds: store it as float32")
        return value.astype(np.float32)
    if value.dtype.kind != "f":
        raise UsageError(f"{place} has dtype {value.dtype}, needs integers (0 to 255) or float32 (raw units)")
    with np.errstate(over="ignore"):
        result = value.astype(np.float32)
    if not np.isfinite(result).all():
        k = int(np.flatnonzero(~np.isfinite(result).reshape(len(result), -1).all(axis=1))[0])
        raise UsageError(f"{place} holds a value that is not finite in entry {k}: remove or repair it")
    return result


def _pixels(value: NDArray[Any], place: str, domain: tuple[float, float] | None) -> Float32Array:
    if value.min() < 0 or value.max() > PIXELS[1]:
        raise UsageError(
            f"{place} holds integers from {value.min()} to {value.max()}, which are no pixels from 0 to 255: pass the "
            "domain that they lie in, or store them as float32 in the units that the model takes"
        )
    if domain == UNIT:
        return value.astype(np.float32) / np.float32(255)
    if domain == PIXELS:
        return value.astype(np.float32)
    asked = "no domain" if domain is None else f"the domain [{exact(domain[0])}, {exact(domain[1])}]"
    raise UsageError(
        f"{place} has dtype uint8, whose scale is known for the domains [0, 1] (divided by 255) and [0, 255] (as they "
        f"are) only, and {asked} was given: store them as float32 in the units that the model takes"
    )


def _labels(value: NDArray[Any], place: str, count: int) -> NDArray[np.int64]:
    """(N,) classes from (N,) or (N, 1) whole numbers, or from (N, K) one-hot rows."""
    one_hot = value.ndim == 2 and value.shape[1] > 1
    if value.dtype.kind not in "iufb" or value.ndim not in (1, 2) or (one_hot and not _rows_are_one_hot(value)):
        raise UsageError(
            f"{place} has dtype {value.dtype} and shape {value.shape}, needs classes of shape (N,), or (N, K) one-hot"
        )
    classes = value.argmax(axis=1) if one_hot else value.ravel()
    if len(classes) != count:
        raise UsageError(f"{place} has {len(classes)} entries for {count} inputs")
    whole = np.isfinite(classes) & (classes == np.rint(classes))
    if not whole.all():
        raise UsageError(f"{place} holds {classes[~whole][0]}, needs classes 0, 1, …")
    labels = classes.astype(np.int64)
    if (labels < 0).any():
        raise UsageError(f"{place} holds {labels.min()}, needs classes >= 0")
    return labels


def _rows_are_one_hot(value: NDArray[Any]) -> bool:
    return bool(((value == 0) | (value == 1)).all() and (value.astype(np.int64).sum(axis=1) == 1).all())
