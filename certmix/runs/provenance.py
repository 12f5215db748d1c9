"""Where a run came from: the files as given, the command that repeats it, date, versions, machine.

The writer's word, for people: nothing here is judged, and no claim rests on it. File provenance.json of a run: one
entry for each session that wrote to it.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certmix.errors import UsageError
from certmix.models import sources

NAME = "provenance.json"
PACKAGES = ("certmix", "torch", "numpy", "onnxruntime", "python-flint", "auto_LiRPA")


@dataclass(frozen=True)
class GivenFile:
    """A file as it was given: its path, the sha256 of its bytes, and their number. Of a folder: of one line for each
    file in it, by name, of its sha256, two spaces and its path there, as sha256sum prints them; and all their bytes. Of
    a state dict and the file with its architecture: of two such lines, with the paths given."""

    path: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: str | Path) -> GivenFile:
        """Raises UsageError where it cannot be read."""
        if Path(path).is_dir():
            each = [cls.of(file) for file in sorted(Path(path).rglob("*")) if file.is_file()]
            return cls._together(str(path), each, [str(Path(file.path).relative_to(path)) for file in each])
        if len(parts := sources.files(path)) > 1:
            return cls._together(str(path), [cls.of(part) for part in parts], [str(part) for part in parts])
        try:
            with Path(path).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                return cls(str(path), digest, stream.tell())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None

    @classmethod
    def _together(cls, path: str, each: Sequence[GivenFile], names: Sequence[str]) -> GivenFile:
        lines = [f"{file.sha256}  {name}\n" for file, name in zip(each, names, strict=True)]
        return cls(path, hashlib.sha256("".join(lines).encode()).hexdigest(), sum(file.bytes for file in each))


@dataclass(frozen=True)
class Provenance:
    """command: what repeats the run, as a shell reads it. files: standard, robust, data, and alpha_network where
    there is one. used, available: how many of the data file's inputs, from the first on, the run speaks of, and how
    many there are."""

    command: str
    files: dict[str, GivenFile]
    used: int
    available: int | None


def session(provenance: Provenance) -> dict[str, Any]:
    """The entry of a session that begins now."""
    return {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": provenance.command,
        "files": {name: dataclasses.asdict(file) for name, file in provenance.files.items()},
        "used": provenance.used,
        "available": provenance.available,
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
    }


def versions() -> dict[str, str]:
    """Of the packages that matter here, as far as they are installed."""
    package_versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            package_versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return package_versions


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def sessions(folder: Path) -> list[dict[str, Any]]:
    """The entries in a run's folder, the earliest first; empty if none were recorded. Raises UsageError."""
    path = folder / NAME
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): remove it, no claim rests on it") from None
    if not isinstance(entries, list):
        raise UsageError(f"{path} holds no list of sessions: remove it, no claim rests on it")
    return entries
