"""A run's folder, read as a stream: header, inputs and labels row by row, certificate lines one by one."""

from __future__ import annotations

import hashlib
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

import numpy as np

from proofs_check.certificate import Float32Array, MalformedError, ModelFile, PlainNetwork, wellformed
from proofs_check.reading import parse

MAX_LINE = 2**26
MAX_FILE = 2**32
NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<f4|<i8)', 'fortran_order': False, "
    rb"'shape': \(((?:0|[1-9][0-9]{0,17})),((?: [1-9][0-9]{0,17},)* [1-9][0-9]{0,17}|)\), \} *\n",
    re.DOTALL,
)
# what zipfile and zlib raise on damaged files; also KeyError, IndexError, NotImplementedError, RecursionError
UNREADABLE = (
    OSError, EOFError, LookupError, OverflowError, RuntimeError, ValueError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Row:
    """One input of the dataset: value (shape) float32, label."""

    value: Float32Array
    label: int


@contextmanager
def _opened(path: Path, largest: float) -> Generator[BufferedReader, None, None]:
    """A regular file: a pipe or a device may never end. Raises MalformedError, also for what fails in reading it."""
    try:
        status = path.stat()
        wellformed(stat.S_ISREG(status.st_mode), path.name, "is not a regular file")
        wellformed(status.st_size <= largest, path.name, f"is larger than {largest} bytes")
        with path.open("rb") as stream:
            yield stream
    except MalformedError:
        raise
    except UNREADABLE as error:
        raise MalformedError(path.name, f"cannot be read: {error}") from error


def _bytes(path: Path, largest: int) -> bytes:
    with _opened(path, largest) as stream:
        return stream.read()


def header_bytes(folder: Path) -> bytes:
    return _bytes(folder / "run.json", MAX_LINE)


def header(folder: Path) -> parse.RunHeader:
    return parse.run_header(header_bytes(folder))


def network(folder: Path, sha256: str) -> PlainNetwork:
    """networks/<sha256>.safetensors, whose bytes must have that digest."""
    return network_of(network_bytes(folder, sha256), sha256)


def network_bytes(folder: Path, sha256: str) -> bytes:
    return _bytes(folder / f"networks/{sha256}.safetensors", MAX_FILE)


def network_of(data: bytes, sha256: str) -> PlainNetwork:
    """Of the bytes of that file."""
    name = f"networks/{sha256}.safetensors"
    plain_network = parse.network(data, name)
    wellformed(plain_network.sha256 == sha256, name, "content does not have the digest of its name")
    return plain_network


def model_file(folder: Path, named: ModelFile) -> ModelFile:
    """`named`, whose file models/<sha256>.onnx must have the digest of its name. Nothing else is read of it."""
    name = f"models/{named.sha256}.onnx"
    with _opened(folder / name, math.inf) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    wellformed(found == named.sha256, name, "content does not have the digest of its name")
    return named


def rows(folder: Path) -> Iterator[Row]:
    """Rows of inputs.npz (members `inputs` float32, `labels` int64) in order, one at a time in memory."""
    with (
        _opened(folder / "inputs.npz", math.inf) as stream,
        zipfile.ZipFile(stream) as archive,
        _member(archive, "inputs.npy") as values,
        _member(archive, "labels.npy") as labels,
    ):
        yield from _zip_rows(values, labels)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(name)
    plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and archive.namelist().count(name) == 1
    wellformed(plain, f"inputs.npz.{name}", "must be there once, stored or deflated")
    return archive.open(info)


def _npy_shape(stream: IO[bytes], dtype: bytes, place: str) -> tuple[int, ...]:
    """From a header of version 1.0, which must be spelled as numpy does."""
    head = stream.read(10)
    head += stream.read(int.from_bytes(head[8:], "little"))
    fields = NPY.fullmatch(head)
    if fields is None or fields[1] != dtype:
        raise MalformedError(place, f"must be a C-ordered npy file 1.0 of {dtype}, begins with {head[:80]!r}")
    return (int(fields[2]), *(int(n) for n in fields[3].replace(b",", b" ").split()))


def _zip_rows(values: IO[bytes], labels: IO[bytes]) -> Iterator[Row]:
    number, *shape = _npy_shape(values, b"<f4", "inputs.npz.inputs")
    count = _npy_shape(labels, b"<i8", "inputs.npz.labels")
    wellformed(shape and count == (number,), "inputs.npz", f"{number} inputs {shape} and labels {count} do not fit")
    size = 4 * math.prod(shape)
    wellformed(0 < size <= MAX_LINE, "inputs.npz", f"inputs of shape {shape} are too large")
    for _ in range(number):
        data, label = values.read(size), labels.read(8)
        wellformed(len(data) == size and len(label) == 8, "inputs.npz", "ends early")
        value = np.frombuffer(data, dtype="<f4").reshape(shape)
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
    with _opened(folder / "certificates.jsonl", math.inf) as stream:
        while data := stream.readline(MAX_LINE):
            wellformed(data.endswith(b"\n"), "certificates.jsonl", "a line is too long or has no newline")
            yield data[:-1]
