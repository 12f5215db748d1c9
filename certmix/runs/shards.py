"""The lines of an unfinished run: folder shards/, one file of sealed lines for each range of inputs that is done.

A shard is written whole or not at all, and is independent of all others: it may be proven anywhere, by the same run in
another folder, and put beside them. A finished run holds its lines in one file instead (store.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from certmix.errors import UsageError
from proofs_check.certificate import FORMAT, MalformedError
from proofs_check.reading import parse

FOLDER = "shards"
_NAME = re.compile(r"(\d{8,})-(\d{8,})\.jsonl")


@dataclass(frozen=True)
class Part:
    """The `number`-th, from 1, of `of` parts of a run's inputs, each of whole batches."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def inputs(self, total: int, size: int) -> range:
        """Of a run of `total` inputs in batches of `size`; the parts hold each input once."""
        batches = -(-total // size)
        start, stop = (min(batches * k // self.of * size, total) for k in (self.number - 1, self.number))
        return range(start, stop)


WHOLE = Part(1, 1)


@dataclass(frozen=True, order=True)
class Shard:
    """Lines of inputs start, …, stop - 1, in `path`."""

    start: int
    stop: int
    path: Path

    def lines(self) -> list[bytes]:
        """Without newlines. Raises MalformedError unless there is a whole, sealed line for each input."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        if len(lines) != self.stop - self.start:
            raise MalformedError(str(self.path), f"{len(lines)} lines for {self.stop - self.start} inputs")
        for index, line in enumerate(lines, self.start):
            place = f"{self.path}: input {index}"
            found = parse.unseal(line.removesuffix(b"\n"), FORMAT, place).get("index")
            if found != index or not line.endswith(b"\n"):
                raise MalformedError(place, f"its line is of input {found!r}, or torn")
        return [line.removesuffix(b"\n") for line in lines]


def path_of(folder: Path, start: int, stop: int) -> Path:
    """Where the run in `folder` keeps these inputs' lines."""
    return folder / FOLDER / f"{start:08d}-{stop:08d}.jsonl"


def content(lines: Iterable[bytes]) -> bytes:
    """The bytes of a file of lines."""
    return b"".join(line + b"\n" for line in lines)


def found(folder: Path) -> list[Shard]:
    """The shards of the run in `folder`, in order. Raises UsageError where two speak of the same input."""
    names = ((path, _NAME.fullmatch(path.name)) for path in (folder / FOLDER).glob("*.jsonl"))
    shards = sorted(Shard(int(name[1]), int(name[2]), path) for path, name in names if name)
    for one, other in pairwise(shards):
        if other.start < one.stop:
            raise UsageError(f"{one.path} and {other.path.name} speak of the same inputs: remove one of them")
    return shards


def gaps(shards: Sequence[Shard], total: int) -> Iterator[range]:
    """The inputs of 0, …, total - 1 that no shard speaks of, as ranges in order."""
    start = 0
    for stop, following in [*((s.start, s.stop) for s in shards), (total, total)]:
        if start < stop:
            yield range(start, stop)
        start = following


def cut(inputs: range, size: int) -> Iterator[range]:
    """`inputs` cut at the multiples of `size`, so that batches are the same wherever a run was interrupted."""
    start = inputs.start
    while start < inputs.stop:
        stop = min(start - start % size + size, inputs.stop)
        yield range(start, stop)
        start = stop
