"""Labelled inputs from an .npz file, checked before anything is computed from them."""

from __future__ import annotations

import math
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

INPUT_NAMES = ("images", "inputs")
LABEL_NAME = "labels"
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
    """The .npz file at `path`, or its first `limit` entries.

    The file holds `images` or `inputs`, (N, …): floating point, taken as it is and rounded to float32, or uint8,
    divided by 255 where `domain` is [0, 1] and taken as it is where it is [0, 255]; and `labels`, (N,) integers.
    Raises UsageError: no such file, not .npz, a missing array, another dtype, uint8 with another domain (None too),
    no entries, different lengths, a value that is not finite, a negative label, limit < 1.
    """
    path = Path(path)
    arrays = _read(path)
    names = [name for name in INPUT_NAMES if name in arrays]
    if len(names) != 1:
        raise UsageError(f"{path}: needs one array named images or inputs, has {', '.join(sorted(arrays)) or 'none'}")
    if LABEL_NAME not in arrays:
        raise UsageError(f"{path}: labels are missing: add an integer array named labels")
    inputs = _inputs(arrays[names[0]], f"{path}: {names[0]}", domain)
    labels = _labels(arrays[LABEL_NAME], len(inputs), f"{path}: labels")
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be >= 1, got {limit}")
    return Dataset(np.ascontiguousarray(inputs[:limit]), labels[:limit], str(path), len(labels))


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
    if value.dtype == np.uint8:
        return _pixels(value, place, domain)
    if value.dtype.kind != "f":
        raise UsageError(f"{place} has dtype {value.dtype}, needs uint8 (0 to 255) or float32 (raw units)")
    with np.errstate(over="ignore"):
        result = value.astype(np.float32)
    if not np.isfinite(result).all():
        k = int(np.flatnonzero(~np.isfinite(result).reshape(len(result), -1).all(axis=1))[0])
        raise UsageError(f"{place} holds a value that is not finite in entry {k}: remove or repair it")
    return result


def _pixels(value: NDArray[Any], place: str, domain: tuple[float, float] | None) -> Float32Array:
    if domain == UNIT:
        return value.astype(np.float32) / np.float32(255)
    if domain == PIXELS:
        return value.astype(np.float32)
    asked = "no domain" if domain is None else f"the domain [{exact(domain[0])}, {exact(domain[1])}]"
    raise UsageError(
        f"{place} has dtype uint8, whose scale is known for the domains [0, 1] (divided by 255) and [0, 255] (as they "
        f"are) only, and {asked} was given: store them as float32 in the units that the model takes"
    )


def _labels(value: NDArray[Any], count: int, place: str) -> NDArray[np.int64]:
    if value.dtype.kind not in "iu" or value.ndim != 1:
        raise UsageError(f"{place} has dtype {value.dtype} and shape {value.shape}, needs integers of shape (N,)")
    if len(value) != count:
        raise UsageError(f"{place} has {len(value)} entries for {count} inputs")
    labels = value.astype(np.int64)
    if (labels < 0).any():
        raise UsageError(f"{place} holds {labels.min()}, needs classes >= 0")
    return labels
