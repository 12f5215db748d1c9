"""The folder of a run: written so that nothing half-finished is taken for a result and nothing finished is lost.

Layout: run.json (sealed header), networks/<sha256>.safetensors, inputs.npz, certificates.jsonl (only when
complete; certificates.partial.jsonl until then), audit.json (untrusted: predictions, timing), curves/ (untrusted:
bounds, see curves.py), refuted/; for readers verdict.json (commands/check.py), summary.json, report.html (commands/report.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.records.lines import run_line
from proofs_check.certificate import FORMAT, MalformedError, PlainNetwork
from proofs_check.reading import folder, parse

PARTIAL = "certificates.partial.jsonl"
FINAL = "certificates.jsonl"
VERDICT = "verdict.json"


def dataset_sha256(inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """The digest a run header names (folder.DatasetDigest)."""
    total = folder.DatasetDigest()
    for value, label in zip(inputs, labels, strict=True):
        total.add(folder.Row(value, int(label)))
    return total.hexdigest()


class Store:
    """An audit's folder. Lines are appended in the order of the inputs and flushed to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(
        self,
        header: parse.RunHeader,
        networks: Iterable[PlainNetwork],
        inputs: NDArray[np.float32],
        labels: NDArray[np.int64],
    ) -> int:
        """Start, or go on with, exactly this run; the number of lines already there.

        Raises UsageError if the folder holds anything else, or this run, finished.
        """
        wanted = run_line(header)
        run = self.path / "run.json"
        if run.exists():
            if run.read_bytes() != wanted:
                raise UsageError(f"{self.path} already holds another run: choose another --out, or remove it")
            if (self.path / FINAL).exists():
                raise UsageError(f"{self.path} already holds this run, finished: see certmix report {self.path}")
            return self._finished_lines()
        if self.path.exists() and any(self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty and holds no run: choose another --out")
        (self.path / "networks").mkdir(parents=True, exist_ok=True)
        for network in networks:
            _write(self.path / "networks" / f"{network.sha256}.safetensors", network.data)
        with (self.path / "inputs.npz.part").open("wb") as stream:
            np.savez(stream, inputs=inputs.astype("<f4"), labels=labels.astype("<i8"))
        (self.path / "inputs.npz.part").rename(self.path / "inputs.npz")
        _write(run, wanted)
        return 0

    def _finished_lines(self) -> int:
        """Count whole, sealed lines of the partial file; cut off a torn last one."""
        path = self.path / PARTIAL
        if not path.exists():
            return 0
        kept, data = 0, path.read_bytes()
        end = 0
        for line in data.splitlines(keepends=True):
            try:
                parse.unseal(line.removesuffix(b"\n"), FORMAT, "line")
            except MalformedError:
                break
            if not line.endswith(b"\n"):
                break
            kept, end = kept + 1, end + len(line)
        with path.open("r+b") as stream:
            stream.truncate(end)
        return kept

    def append(self, lines: Iterable[bytes]) -> None:
        """Add lines; they are on the disk when this returns."""
        with (self.path / PARTIAL).open("ab") as stream:
            stream.write(b"".join(line + b"\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """All lines are there: give the file its final name."""
        (self.path / PARTIAL).rename(self.path / FINAL)

    def lines(self) -> list[dict[str, Any]]:
        """Every line so far as a plain object (for tables; the judge reads them itself, strictly)."""
        path = self.path / FINAL if (self.path / FINAL).exists() else self.path / PARTIAL
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def write_json(self, name: str, value: object) -> Path:
        path = self.path / name
        _write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
        return path


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the files a verdict speaks of; run.json names the networks and the inputs by theirs. Raises OSError."""
    found: dict[str, str] = {}
    for name in ("run.json", FINAL):
        with (folder / name).open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: written beside, flushed to disk, renamed."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.rename(path)
