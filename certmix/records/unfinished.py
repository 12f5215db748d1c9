"""How far branching on an input has come, for a run that is interrupted: folder unfinished/, a file for each input.

Untrusted, and not for the judge: certificates are judged again when the run goes on. Files are written whole or not at
all, and removed once the run holds the input's line.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = "unfinished"


@dataclass(frozen=True)
class Unfinished:
    """seconds, parts: spent. line: of the best certificate so far, or None. with_standard: parts are now bounded with
    g, too. beyond: the smallest radius that could not be proven so, or None. advice: why there is no certificate at the
    radius asked for, once that is settled."""

    seconds: float = 0.0
    parts: int = 0
    line: str | None = None
    with_standard: bool = False
    beyond: float | None = None
    advice: str | None = None


@dataclass(frozen=True)
class Desk:
    """The folder of a run, where its branching keeps what is not finished."""

    run: Path

    def _path(self, index: int) -> Path:
        return self.run / FOLDER / f"{index:08d}.json"

    def read(self, index: int) -> Unfinished:
        """What was kept of this input; that nothing was spent, where there is nothing that can be read."""
        try:
            return Unfinished(**json.loads(self._path(index).read_bytes()))
        except (OSError, ValueError, TypeError):  # a hint that is lost costs time and nothing else
            return Unfinished()

    def write(self, index: int, value: Unfinished) -> None:
        """Keep this, on the disk when this returns."""
        path = self._path(index)
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w") as stream:
            json.dump(dataclasses.asdict(value), stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(path)

    def clear(self, indices: Iterable[int]) -> None:
        """Their lines are in the run."""
        for index in indices:
            self._path(index).unlink(missing_ok=True)
        if (self.run / FOLDER).is_dir() and not any((self.run / FOLDER).iterdir()):
            (self.run / FOLDER).rmdir()
