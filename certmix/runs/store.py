"""The folder of a run: written so that nothing half-finished is taken for a result and nothing finished is lost.

Layout: run.json (sealed header), networks/<sha256>.safetensors, inputs.npz, certificates.jsonl (only when
complete; shards/ until then, shards.py), models/<sha256>.onnx (models without plain network, of which only smoothed
claims speak); untrusted: audit.json (predictions, faithfulness, timing), provenance.json (provenance.py), curves/
(bounds, bound_archive.py), attacks/ (attack_archive.py), refuted/, and until complete unfinished/ (unfinished.py); for
readers summary.json and report.html (commands/report.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.data.features import Features
from certmix.errors import UsageError
from certmix.records.lines import run_line
from certmix.runs import shards
from certmix.runs.shards import Shard
from certmix.settings import with_added
from proofs_check.certificate import FORMAT, RUN_FORMAT, MalformedError, PlainNetwork
from proofs_check.reading import folder, parse

PARTIAL = "certificates.partial.jsonl"  # the lines of an unfinished run, as earlier versions kept them
FINAL = "certificates.jsonl"
ENDS = "model_ends"  # setting of a header: what was asked of the ends of the models' files, by role
LABELS = "labels"  # setting of a header: what was said of the labels of the data, if anything was
OPAQUE = "standard_model"  # setting of a header: the sha256 of the ONNX file in MODELS that is g
MODELS = "models"  # folder of ONNX files that ran in onnxruntime
_STARTING = "run.json.part"  # the first file of a folder: until it becomes run.json, the run has not begun
_BEFORE_THE_RUN = frozenset({_STARTING, "networks", MODELS, "inputs.npz", "inputs.npz.part"})
# settings that change how fast a claim is found, or where, but not what is claimed: a run may go on with others
NEUTRAL = frozenset(
    {"batch_size", "device", "threads", "draw_batch", LABELS, "standard", "robust", "standard_faithfulness"}
    | {"robust_faithfulness", "certmix", "torch"}
)


def dataset_sha256(inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """The digest a run header names (folder.DatasetDigest)."""
    total = folder.DatasetDigest()
    for value, label in zip(inputs, labels, strict=True):
        total.add(folder.Row(value, int(label)))
    return total.hexdigest()


def scaling(settings: Mapping[str, Any]) -> Features | None:
    """The features in whose units a run's inputs and radii are, by its header's settings; None: raw units.

    Raises MalformedError."""
    place = f"run.json.settings.{ENDS}"
    of_robust = parse.read(dict, settings.get(ENDS, {}), place).get("robust") or {}
    stored = of_robust.get("features") if isinstance(of_robust, dict) else None
    return None if stored is None else parse.read(Features, stored, f"{place}.robust.features")


class Store:
    """An audit's folder. Lines are added a range of inputs at a time, in any order, and flushed to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(
        self,
        header: parse.RunHeader,
        networks: Iterable[PlainNetwork],
        inputs: NDArray[np.float32],
        labels: NDArray[np.int64],
        models: Iterable[bytes] = (),
    ) -> None:
        """Start, or go on with, this run.

        models: ONNX files to keep beside it. Raises UsageError if the folder holds anything else, or this run,
        finished. Settings in NEUTRAL may differ from those that the run began with; its header keeps the first ones.
        """
        run = self.path / "run.json"
        if run.exists():
            other = self.differences(header)
            if other:
                raise UsageError(
                    f"{self.path} already holds another run ({'; '.join(other)}): choose another --out, or remove it"
                )
            if (self.path / FINAL).exists():
                shutil.rmtree(self.path / shards.FOLDER, ignore_errors=True)  # where it ended before they were removed
                raise UsageError(f"{self.path} already holds this run, finished: see certmix report {self.path}")
            return
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set[str]()
        if names and not (_STARTING in names and names <= _BEFORE_THE_RUN):
            raise UsageError(f"{self.path} is not empty and holds no run: choose another --out")
        (self.path / "networks").mkdir(parents=True, exist_ok=True)
        _write_part(self.path / _STARTING, run_line(header))
        for network in networks:
            _write(self.path / "networks" / f"{network.sha256}.safetensors", network.data)
        for data in models:
            (self.path / MODELS).mkdir(exist_ok=True)
            _write(self.path / MODELS / f"{hashlib.sha256(data).hexdigest()}.onnx", data)
        with (self.path / "inputs.npz.part").open("wb") as stream:
            np.savez(stream, inputs=inputs.astype("<f4"), labels=labels.astype("<i8"))
            stream.flush()
            os.fsync(stream.fileno())
        (self.path / "inputs.npz.part").rename(self.path / "inputs.npz")
        (self.path / _STARTING).rename(run)
        _sync_folder(self.path)

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """While this lasts no other process may write the run; the system drops the lock with the process that holds
        it, however that ends. Raises UsageError if somebody else is writing."""
        self.path.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is writing {self.path}: wait for it, or choose another --out"
                ) from error
            yield
        finally:
            os.close(folder)

    def differences(self, header: parse.RunHeader) -> list[str]:
        """What of the run in the folder differs from `header`, NEUTRAL settings aside, each with both values; empty if
        it is the same run. Requires run.json. Raises UsageError if that is no header."""
        try:
            stored_header = parse.unseal((self.path / "run.json").read_bytes(), RUN_FORMAT, "run.json")
        except MalformedError as error:
            what = "is of another version of certmix" if error.place == "run.json.format" else "is damaged"
            raise UsageError(f"{self.path} {what} ({error}): choose another --out") from error
        if isinstance(settings := stored_header.get("settings"), dict):
            stored_header["settings"] = with_added(settings)  # type: ignore[arg-type]  # keys of JSON objects are text
        return _differences(stored_header, parse.unseal(run_line(header), RUN_FORMAT, "run.json"), "")

    def finished(self, header: parse.RunHeader) -> bool:
        """Whether the folder holds this run, finished."""
        return (self.path / FINAL).exists() and not self.differences(header)

    def unfinished(self) -> bool:
        """Whether the folder holds a run whose lines are not all there."""
        begun = (self.path / shards.FOLDER).exists() or (self.path / PARTIAL).exists()
        return begun and not (self.path / FINAL).exists()

    def done(self, size: int) -> tuple[list[Shard], list[str]]:
        """What is proven already, in order, and what of it was damaged and is put aside, a sentence each.

        size: of batches; what an earlier version left is kept as far as its batches are whole. Raises UsageError where
        two shards speak of the same input.
        """
        self._adopt_partial(size)
        sound: list[Shard] = []
        damaged: list[str] = []
        for shard in shards.found(self.path):
            try:
                shard.lines()
                sound.append(shard)
            except MalformedError as error:
                shard.path.rename(shard.path.with_suffix(".damaged"))  # to look at, until the run is whole
                damaged.append(f"{error}: inputs {shard.start} to {shard.stop - 1} are proven again")
        return sound, damaged

    def _adopt_partial(self, size: int) -> None:
        path, kept = self.path / PARTIAL, list[bytes]()
        if not path.exists():
            return
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                parse.unseal(line.removesuffix(b"\n"), FORMAT, "line")
            except MalformedError:
                break  # torn where the run was interrupted
            if line.endswith(b"\n"):
                kept.append(line.removesuffix(b"\n"))
        whole = len(kept) - len(kept) % size
        if whole:
            self.add(0, kept[:whole])
        path.unlink()

    def add(self, start: int, lines: Sequence[bytes]) -> None:
        """Lines of inputs start, start + 1, …; they are on the disk when this returns."""
        path = shards.path_of(self.path, start, start + len(lines))
        path.parent.mkdir(exist_ok=True)
        _write(path, shards.content(lines))
        _sync_folder(path.parent)

    def finish(self) -> None:
        """All lines are there: put them into one file, under its final name. Requires: shards without a gap."""
        part = self.path / (FINAL + ".part")
        with part.open("wb") as stream:
            for shard in shards.found(self.path):
                stream.write(shard.path.read_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(self.path / FINAL)
        _sync_folder(self.path)
        shutil.rmtree(self.path / shards.FOLDER)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line so far as a plain object (for tables; the judge reads them itself, strictly)."""
        final = self.path / FINAL
        for path in [final] if final.exists() else [shard.path for shard in shards.found(self.path)]:
            with path.open("rb") as stream:
                yield from map(json.loads, stream)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """What an earlier session wrote; None where there is nothing that can be read."""
        try:
            found = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):  # the writer's word, on which nothing rests
            return None
        return found if isinstance(found, dict) else None  # type: ignore[return-value]  # keys of JSON objects are text

    def write_json(self, name: str, value: object) -> Path:
        path = self.path / name
        _write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
        return path


@dataclass(eq=False)
class Writer:
    """Adds ranges of lines to a store as they come, in any order, those that adjoin as one shard, and not more often
    than every `seconds`: what is lost where a run is killed, and what makes writing cheap beside quick proofs.
    written: is told of each range of inputs whose lines are on the disk."""

    store: Store
    written: Callable[[range], None]
    seconds: float = 1.0
    _waiting: dict[int, list[bytes]] = field(default_factory=dict)
    _last: float = -math.inf

    def __call__(self, start: int, lines: Iterable[bytes]) -> None:
        self._waiting[start] = list(lines)
        if time.monotonic() >= self._last + self.seconds:
            self.flush()

    def flush(self) -> None:
        """Everything is on the disk when this returns."""
        while self._waiting:
            start = min(self._waiting)
            lines = self._waiting[start]
            taken = [start]
            while start + len(lines) in self._waiting:
                taken.append(start + len(lines))
                lines = lines + self._waiting[taken[-1]]
            self.store.add(start, lines)
            for k in taken:
                del self._waiting[k]
            self.written(range(start, start + len(lines)))
        self._last = time.monotonic()


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the files a verdict speaks of; run.json names the networks and the inputs by theirs. Raises OSError."""
    hashes: dict[str, str] = {}
    for name in ("run.json", FINAL):
        with (folder / name).open("rb") as stream:
            hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: written beside, flushed to disk, renamed."""
    part = path.with_name(path.name + ".part")
    _write_part(part, data)
    part.rename(path)


def _write_part(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    """Renames in the folder survive a loss of power from here on."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _differences(held: dict[str, Any], asked: dict[str, Any], prefix: str) -> list[str]:
    differences: list[str] = []
    for name in dict.fromkeys([*held, *asked]):
        if prefix and name in NEUTRAL:
            continue
        there, here = held.get(name), asked.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            differences += _differences(there, here, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif there != here:
            setting = f"{prefix}{name}".removeprefix("settings.")
            differences.append(f"{setting} is {there} there, {here} here")
    return differences
