"""A run's folder, read as a stream: header, inputs and labels row by row, certificate lines one by one."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from proofs_check import parse
from proofs_check.certificate import Float32Array, MalformedError, PlainNetwork, wellformed

MAX_LINE = 2**26
MAX_FILE = 2**32
NPY = re.compile(rb"\x93NUMPY\x01\x00")
NPY_HEADER = re.compile(
    rb"\{'descr': '(<f4|<i8)', 'fortran_order': False, 'shape': \(([0-9]{1,18}),((?: [0-9]{1,18},?)*)\), \} *\n"
)
UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    IndexError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Row:
    """One input of the dataset: value (shape) float32, label."""

    value: Float32Array
    label: int


def header(folder: Path) -> parse.RunHeader:
    return parse.run_header(_bytes(folder / "run.json", MAX_LINE))


def network(folder: Path, sha256: str) -> PlainNetwork:
    """networks/<sha256>.safetensors, whose bytes must have that digest."""
    name = f"networks/{sha256}.safetensors"
    found = parse.network(_bytes(folder / name, MAX_FILE), name)
    wellformed(found.sha256 == sha256, name, "content does not have the digest of its name")
    return found


def _bytes(path: Path, largest: int) -> bytes:
    try:
        need_file(path, largest)
        return path.read_bytes()
    except OSError as error:
        raise MalformedError(path.name, f"cannot be read: {error.strerror}") from error


def need_file(path: Path, largest: float) -> None:
    """A regular file: a pipe or a device may never end. Raises OSError, MalformedError."""
    found = path.stat()
    wellformed(stat.S_ISREG(found.st_mode), path.name, "is not a regular file")
    wellformed(found.st_size <= largest, path.name, f"is larger than {largest} bytes")


def rows(folder: Path) -> Iterator[Row]:
    """Rows of inputs.npz (members `inputs` float32, `labels` int64) in order, one at a time in memory."""
    try:
        need_file(folder / "inputs.npz", math.inf)
        with (
            zipfile.ZipFile(folder / "inputs.npz") as archive,
            _member(archive, "inputs.npy") as values,
            _member(archive, "labels.npy") as labels,
        ):
            yield from _zip_rows(values, labels)
    except MalformedError:
        raise
    except UNREADABLE as error:
        raise MalformedError("inputs.npz", f"cannot be read: {error}") from error


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(name)
    plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    wellformed(plain, f"inputs.npz.{name}", "must be stored or deflated")
    return archive.open(info)


def _npy_header(stream: IO[bytes], dtype: str, place: str) -> tuple[int, ...]:
    """The shape; the header must be spelled as numpy does."""
    head = stream.read(10)
    wellformed(len(head) == 10 and NPY.match(head), place, "is not an npy file of version 1.0")
    text = stream.read(int.from_bytes(head[8:], "little"))
    found = NPY_HEADER.fullmatch(text)
    if found is None or found[1].decode() != dtype:
        raise MalformedError(place, f"must be C-ordered {dtype}, its header is {text[:80]!r}")
    return (int(found[2]), *(int(n) for n in found[3].replace(b",", b" ").split()))


def _zip_rows(values: IO[bytes], labels: IO[bytes]) -> Iterator[Row]:
    shape = _npy_header(values, "<f4", "inputs.npz.inputs")
    count = _npy_header(labels, "<i8", "inputs.npz.labels")
    wellformed(
        len(shape) >= 2 and len(count) == 1 and count == shape[:1],
        "inputs.npz",
        f"inputs {shape} and labels {count} do not fit",
    )
    size = 4 * math.prod(shape[1:])
    wellformed(0 < size <= MAX_LINE, "inputs.npz", f"inputs of shape {shape[1:]} are too large")
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
        need_file(folder / "certificates.jsonl", math.inf)
        with (folder / "certificates.jsonl").open("rb") as stream:
            while data := stream.readline(MAX_LINE):
                wellformed(data.endswith(b"\n"), "certificates.jsonl", "a line is too long or has no newline")
                yield data[:-1]
    except OSError as error:
        raise MalformedError("certificates.jsonl", f"cannot be read: {error.strerror}") from error


def text(value: object) -> str:
    """One line of JSON for a machine to read."""
    return json.dumps(value, separators=(",", ":"))
