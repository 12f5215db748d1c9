"""The nearest attacks that a run met: folder attacks/, one compressed file per batch of inputs that has any.

Untrusted, and not for the judge: whoever reads an attack can confirm it again (certmix.attacks.confirm).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from certmix.errors import UsageError
from certmix.records.outcomes import Attack

FOLDER = "attacks"


def write(folder: Path, start: int, attacks: Mapping[int, Attack]) -> None:
    """Attacks by input index, as those of the batch that begins at input `start`; what stood there is replaced."""
    path = folder / FOLDER / f"{start:08d}.npz"
    path.unlink(missing_ok=True)
    if not attacks:
        return
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez_compressed(
            stream,
            index=np.array(list(attacks), dtype=np.int64),
            radius=np.array([a.radius for a in attacks.values()], dtype=np.float64),
            predicted=np.array([a.predicted for a in attacks.values()], dtype=np.int64),
            rival=np.array([a.rival for a in attacks.values()], dtype=np.int64),
            point=np.stack([a.point for a in attacks.values()]).astype("<f4"),
        )
        stream.flush()
        os.fsync(stream.fileno())
    part.rename(path)


def read(folder: Path) -> dict[int, Attack]:
    """All attacks of the run in `folder`, by input index; empty where none were looked for. Raises UsageError."""
    attacks: dict[int, Attack] = {}
    for path in sorted((folder / FOLDER).glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as stored:
                columns = (stored["index"], stored["radius"], stored["predicted"], stored["rival"], stored["point"])
                for index, radius, predicted, rival, point in zip(*columns, strict=True):
                    attacks[int(index)] = Attack(float(radius), int(predicted), int(rival), point.astype(np.float32))
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} holds no attacks ({error}): remove it, or audit again") from None
    return attacks
