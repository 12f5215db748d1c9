"""Inputs and their classes, from files or from Python, checked before anything is computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.data import objects, tables
from certmix.data.arrays import INPUT_NAMES, LABEL_NAMES, PIXELS, UNIT, as_classes, as_inputs, stored
from certmix.data.features import Features
from certmix.data.found import Found
from certmix.errors import UsageError
from proofs_check.certificate import Float32Array

__all__ = ["INPUT_NAMES", "LABEL_NAMES", "Dataset", "load_data", "outside_advice", "shape_advice"]
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Dataset:
    """inputs: (N, *shape) float32 in raw units, finite, N >= 1. labels: (N,) int64 >= 0, or all UNLABELLED. source: the
    file. available: how many inputs it holds, of which these are the first N; None if that is not known.
    labels_named: what `load_data` was told of the labels. features: in whose units inputs are, if not in raw ones."""

    inputs: Float32Array
    labels: NDArray[np.int64]
    source: str
    available: int | None = None
    labels_named: str | None = None
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the classes are known; if not, nothing can be right or wrong."""
        return bool((self.labels != UNLABELLED).any())

    def __repr__(self) -> str:
        classes = f"labels {self.labels.min()} to {self.labels.max()}" if self.labelled else "no labels"
        return f"Dataset({self.source[-150:]}: {len(self)} inputs of shape {self.inputs.shape[1:]}, {classes})"

    def require_labels(self, why: str) -> None:
        """Raises UsageError where there are none."""
        if not self.labelled:
            raise UsageError(f"{why}, and {self.source} has none: give labels")

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


def load_data(
    source: str | Path | Iterable[Any],
    limit: int | None = None,
    domain: tuple[float, float] | Features | None = UNIT,
    labels: str | Path | None = None,
) -> Dataset:
    """Inputs and classes of `source`, or its first `limit`: a file, a folder of images, or an object of Python.

    A file is an .npz archive of arrays, one array of inputs (.npy), a table (.csv, .parquet), or a folder with one
    folder of images for each class (docs/data.md says what each holds). An object is a pair of arrays or tensors, or
    yields pairs (input, class), batches of them, or mappings with such entries: datasets of torchvision and Hugging
    Face, loaders, lists. Inputs are floating point, taken as they are and rounded to float32; uint8, divided by 255
    where `domain` is [0, 1] and taken as they are where it is [0, 255]; other integers likewise, but as they are for
    any other domain, too, and for [0, 1] where all are 0 or 1. Classes are (N,) or (N, 1) whole numbers of any type, or
    (N, K) one-hot.

    domain: also Features: every feature in its own ends, and scaled to its own unit. The models then are to be loaded
    with the same features, and certified with domain=features.domain.

    labels: the name of the array, the column or the entry that holds the classes, where it has none of the usual names;
    of one array of inputs the .npy file of the classes; "none": there are none.

    Raises UsageError: no such file, another kind of file, a missing or ambiguous array, another dtype, uint8 with
    another domain (None too), no entries, different lengths, a value that is not finite, a negative label, limit < 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be >= 1, got {limit}")
    named = None if labels is None else str(labels)
    if isinstance(source, str | Path):
        name, found = str(source), _read(Path(source), limit, named)
    else:
        name, found = objects.name(source), objects.collected(source, limit, named)
    values = as_inputs(*found.inputs, domain)
    count, values = len(values), values[:limit]
    features = domain if isinstance(domain, Features) else None
    if features is not None:
        values = features.scaled(values, found.names, name)
    classes = np.full(count, UNLABELLED) if found.labels is None else as_classes(*found.labels, count)
    return Dataset(np.ascontiguousarray(values), classes[:limit], name, found.available, named, features)


def _read(path: Path, limit: int | None, labels: str | None) -> Found:
    if path.is_dir():
        from certmix.data import images  # and Pillow, where it is wanted

        return images.folder(path, limit, labels)
    if path.suffix in (".csv", ".parquet"):
        return tables.read(path, limit, labels)
    return stored(path, labels)
