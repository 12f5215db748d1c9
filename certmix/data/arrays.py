"""Arrays of NumPy files, and what of any array counts as inputs and as classes."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.data import file_kinds
from certmix.data.features import Features
from certmix.data.found import Found, Placed
from certmix.errors import UsageError
from certmix.formatting import exact
from proofs_check.certificate import Float32Array

INPUT_NAMES = ("images", "inputs", "x", "x_test", "data")
LABEL_NAMES = ("labels", "y", "y_test", "targets")
NO_LABELS = "none"  # in place of the name of an array: there are no classes
EXACT = 2**24  # integers up to here are float32 numbers
UNIT: tuple[float, float] = (0.0, 1.0)
PIXELS: tuple[float, float] = (0.0, 255.0)


def stored(path: Path, labels: str | None) -> Found:
    """Inputs and classes of an .npz file; of an .npy file and that of its classes. labels: as of `load_data`."""
    if path.suffix == ".npy" and labels is not None:
        inputs = _array(path)
        classes = None if labels == NO_LABELS else _array(Path(labels))
        return Found(inputs, classes, len(inputs[0]) if inputs[0].ndim else None)
    arrays = _archive(path)
    names = [name for name in INPUT_NAMES if name in arrays and name != labels]
    if len(names) != 1:
        known, there = ", ".join(INPUT_NAMES), ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{path}: needs one array of inputs, named one of {known}, has {there}")
    inputs = arrays[names[0]], f"{path}: {names[0]}"
    available = len(inputs[0]) if inputs[0].ndim else None
    if labels == NO_LABELS:
        return Found(inputs, None, available)
    known = LABEL_NAMES if labels is None else (labels,)
    found = [name for name in known if name in arrays]
    if len(found) != 1:
        raise UsageError(
            f"{path}: needs one array of labels, named one of {', '.join(known)}, has {', '.join(sorted(arrays))}: "
            f"name it (--labels NAME), or say that there are none (--labels {NO_LABELS})"
        )
    return Found(inputs, (arrays[found[0]], f"{path}: {found[0]}"), available)


def _array(path: Path) -> Placed:
    """Of an .npy file."""
    _need_file(path, "one array of numbers (.npy)")
    try:
        value = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a complete .npy file ({error})") from error
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{path}: is an archive of arrays: give it as --data, with the name of its labels")
    return value, str(path)


def _need_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such file: give the path of {what}")


def _archive(path: Path) -> dict[str, NDArray[Any]]:
    _need_file(path, "an .npz file with images and labels")
    what = file_kinds.kind(path)
    if what not in (None, file_kinds.ARRAYS, file_kinds.ARRAY):
        raise UsageError(f"{path}: is {what}")
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise UsageError(
                f"{path}: is a single array: give that of its classes, too (--labels LABELS.npy), or say that there "
                f"are none (--labels {NO_LABELS})"
            )
        with content:
            return {name: np.asarray(content[name]) for name in content.files}
    except UsageError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: not a complete .npz file ({error})") from error


def as_inputs(value: NDArray[Any], place: str, domain: tuple[float, float] | Features | None) -> Float32Array:
    """(N, …) float32 in the units that `load_data` says. place: where they stand. Raises UsageError."""
    if value.ndim < 2 or value.size == 0:
        raise UsageError(f"{place} has shape {value.shape}, needs (N, …) with at least one entry")
    if not isinstance(domain, Features) and (
        value.dtype == np.uint8 or (value.dtype.kind in "iu" and domain == UNIT and value.max() > 1)
    ):
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


def as_classes(value: NDArray[Any], place: str, count: int) -> NDArray[np.int64]:
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
