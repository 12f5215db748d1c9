"""Tables: one row for each input, one column for its class, and its features in all the others."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.data.arrays import INPUT_NAMES, LABEL_NAMES, NO_LABELS
from certmix.data.found import Found, Placed
from certmix.errors import UsageError

LABEL_COLUMNS = (*LABEL_NAMES, "label", "target", "class")
IMAGE_COLUMNS = (*INPUT_NAMES, "image", "img")  # of which each cell is a whole input


def read(path: Path, limit: int | None, labels: str | None) -> Found:
    """A .csv or .parquet file. labels: as of `load_data`. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file: give the path of a table with a row of names and one row per input")
    return _csv(path, labels) if path.suffix == ".csv" else _parquet(path, limit, labels)


def _csv(path: Path, labels: str | None) -> Found:
    try:
        with path.open(encoding="utf-8-sig") as file:
            columns = [name.strip().strip('"') for name in file.readline().split(",")]
        with warnings.catch_warnings(action="ignore"):  # of a table without rows, which is refused below
            values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: not a table of numbers with commas between ({str(error).splitlines()[0]})"
        ) from error
    if len(columns) != values.shape[1]:
        raise UsageError(
            f"{path}: its first row must name {values.shape[1]} columns; it names {', '.join(columns)[:200]}"
        )
    place = label_column(path, columns, labels)
    features = values if place is None else np.delete(values, place, axis=1)
    of_classes = None if place is None else (values[:, place], f"{path}: {columns[place]}")
    names = tuple(name for k, name in enumerate(columns) if k != place)
    return Found((features, f"{path}: features"), of_classes, len(values), names)


def label_column(path: Path, columns: list[str], labels: str | None) -> int | None:
    """The place of the column that holds the classes; None where there is said to be none. Raises UsageError."""
    if labels == NO_LABELS:
        return None
    known = LABEL_COLUMNS if labels is None else (labels.lower(),)
    found = [k for k, name in enumerate(columns) if name.lower() in known]
    if len(found) != 1:
        raise UsageError(
            f"{path}: one of its columns must be one of {', '.join(known)}; they are {', '.join(columns)[:200]}: name "
            f"the one with the classes (--labels NAME), or say that there are none (--labels {NO_LABELS})"
        )
    return found[0]


def _parquet(path: Path, limit: int | None, labels: str | None) -> Found:
    """Its features in columns of numbers, or each input in one cell: an image as datasets of Hugging Face hold it, or
    a list of numbers."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow: pip install certmix[parquet], or store it as CSV") from None
    try:
        file = parquet.ParquetFile(path)
        available = int(file.metadata.num_rows)
        table = file.read() if limit is None else file.read().slice(0, limit)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise UsageError(f"{path}: not a complete Parquet file ({str(error).splitlines()[0]})") from error
    columns: list[str] = list(table.column_names)
    place = label_column(path, columns, labels)
    of_classes = None if place is None else (_numbers(path, table, columns[place]), f"{path}: {columns[place]}")
    features = [name for k, name in enumerate(columns) if k != place]
    whole = [name for name in features if name.lower() in IMAGE_COLUMNS]
    if len(features) == 1 and whole:
        return Found(_cells(path, table.column(whole[0]).to_pylist(), whole[0]), of_classes, available)
    if not features:
        raise UsageError(f"{path}: has no column but that of the classes, {', '.join(columns)}")
    values = np.stack([_numbers(path, table, name) for name in features], axis=1)
    return Found((values, f"{path}: features"), of_classes, available, tuple(features))


def _numbers(path: Path, table: Any, name: str) -> NDArray[Any]:
    """(N,) of one column. Raises UsageError where it holds anything but numbers, or holes."""
    column = table.column(name)
    if column.null_count:
        raise UsageError(f"{path}: column {name} has {column.null_count} empty cells: fill them in, or drop the rows")
    values = column.to_numpy()
    if values.dtype.kind not in "iufb" or values.ndim != 1:
        raise UsageError(
            f"{path}: column {name} holds {column.type}, needs numbers: encode it as the model was trained, or drop it"
        )
    return values


def _cells(path: Path, cells: list[Any], name: str) -> Placed:
    """(N, …) of a column whose cells are whole inputs."""
    from certmix.data import images  # and Pillow, where it is wanted

    place = f"{path}: {name}"
    if cells and all(isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes) for cell in cells):
        return images.stacked([images.decoded(cell["bytes"], f"{place} of row {k}") for k, cell in enumerate(cells)])
    try:
        values = np.array(cells)
    except ValueError:
        values = np.array(cells, dtype=object)
    if values.dtype.kind not in "iufb":
        raise UsageError(f"{place} must hold images, or lists of numbers of one length, holds {str(cells[:1])[:80]}")
    return values, place
