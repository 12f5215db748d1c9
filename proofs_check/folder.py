"""A run's folder, read as a stream: header, inputs and labels row by row, certificate lines one by one."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from proofs_check import parse
from proofs_check.certificate import Float32Array, MalformedError, PlainNetwork, wellformed

MAX_LINE = 2**26
UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Row:
    """One input of the dataset: value (shape) float32, label."""

    value: Float32Array
    label: int


def header(folder: Path) -> parse.RunHeader:
    return parse.run_header(_bytes(folder / "run.json"))


def network(folder: Path, sha256: str) -> PlainNetwork:
    """networks/<sha256>.safetensors, whose bytes must have that digest."""
    name = f"networks/{sha256}.safetensors"
    found = parse.network(_bytes(folder / name), name)
    wellformed(found.sha256 == sha256, name, "content does not have the digest of its name")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedError(path.name, f"cannot be read: {error.strerror}") from error


def rows(folder: Path) -> Iterator[Row]:
    """Rows of inputs.npz (members `inputs` float32, `labels` int64) in order, one at a time in memory."""
    try:
        with (
            zipfile.ZipFile(folder / "inputs.npz") as archive,
            archive.open("inputs.npy") as values,
            archive.open("labels.npy") as labels,
        ):
            yield from _zip_rows(values, labels)
    except MalformedError:
        raise
    except UNREADABLE as error:
        raise MalformedError("inputs.npz", f"cannot be read: {error}") from error


def _npy_header(stream: IO[bytes], dtype: str, place: str) -> tuple[int, ...]:
    version = npy.read_magic(stream)
    wellformed(version == (1, 0), place, f"npy version {version} is not known")
    shape, fortran, found = npy.read_array_header_1_0(stream)
    wellformed(found == np.dtype(dtype) and not fortran, place, f"must be C-ordered {dtype}, got {found}")
    return shape


def _zip_rows(values: IO[bytes], labels: IO[bytes]) -> Iterator[Row]:
    shape = _npy_header(values, "<f4", "inputs.npz.inputs")
    count = _npy_header(labels, "<i8", "inputs.npz.labels")
    wellformed(len(shape) >= 2 and len(count) == 1 and count == shape[:1], "inputs.npz", f"inputs {shape} and labels {count} do not fit")
    size = 4 * math.prod(shape[1:])
    wellformed(size <= MAX_LINE, "inputs.npz", f"inputs of shape {shape[1:]} are too large")
    for _ in range(next(iter(shape))):
        data, label = values.read(size), labels.read(8)
        wellformed(len(data) == size and len(label) == 8, "inputs.npz", "ends early")
        value = np.frombuffer(data, dtype="<f4").reshape(shape[1:])
        yield Row(value, int.from_bytes(label, "little", signed=True))
    wellformed(not values.read(1) and not labels.read(1), "inputs.npz", "holds more than its shape says")


class DatasetDigest:
    """sha256 over, per row: the input's digest (parse.array_sha256, ASCII), a colon, the label, a newline."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"certmix-dataset/1\n")

    def add(self, row: Row) -> None:
        self._hash.update(f"{parse.array_sha256(row.value)}:{row.label}\n".encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def need_dataset(folder: Path, found: parse.RunHeader) -> None:
    """inputs.npz is the dataset the run header names. Raises MalformedError."""
    total, count = DatasetDigest(), 0
    for row in rows(folder):
        total.add(row)
        count += 1
    wellformed(count == found.count, "inputs.npz", f"holds {count} inputs, run.json says {found.count}")
    wellformed(total.hexdigest() == found.dataset, "inputs.npz", "is not the dataset named by run.json")


def lines(folder: Path) -> Iterator[bytes]:
    """Lines of certificates.jsonl without their newline; the last one must end in a newline too."""
    try:
        with (folder / "certificates.jsonl").open("rb") as stream:
            while data := stream.readline(MAX_LINE):
                wellformed(data.endswith(b"\n"), "certificates.jsonl", "a line is too long or has no newline")
                yield data[:-1]
    except OSError as error:
        raise MalformedError("certificates.jsonl", f"cannot be read: {error.strerror}") from error


def text(value: object) -> str:
    """One line of JSON for a machine to read."""
    return json.dumps(value, separators=(",", ":"))
