"""One run from several folders that each hold a part of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certmix.errors import UsageError
from certmix.records import attack_archive, bound_archive
from certmix.runs import provenance, shards
from certmix.runs.audit import RECORD, together
from certmix.runs.shards import Shard
from certmix.runs.store import FINAL, MODELS, Store
from proofs_check.certificate import MalformedError
from proofs_check.reading import parse

BESIDE = (bound_archive.FOLDER, attack_archive.FOLDER, "refuted", "networks", MODELS)  # a file for each of something


@dataclass(frozen=True)
class Merged:
    """count: the run's inputs. missing: those in none of the folders. versions: of certmix, that began the parts."""

    count: int
    missing: tuple[range, ...]
    versions: tuple[str, ...]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Put the parts of one run that `folders` hold together in `out`, which is new.

    Each folder holds the same run, header and all (settings that change nothing aside), finished or not. Ensures: every
    line is in `out` as it was; if nothing is missing `out` is a finished run, else one that `certmix audit` goes on
    with. Raises UsageError, before anything is written: no run, another run, a damaged part, an input with two
    different lines.
    """
    if len({f.resolve() for f in folders}) < len(folders):
        raise UsageError("a folder is given twice: merge takes different ones, each with a part of one run")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose another --out")
    headers = [_header(folder) for folder in folders]
    for folder, header in zip(folders[1:], headers[1:], strict=True):
        if differing := Store(folders[0]).differences(header):
            raise UsageError(f"{folder} holds another run than {folders[0]} ({'; '.join(differing)})")
    count = headers[0].count
    parts = list(_disjoint([shard for folder in folders for shard in _parts(folder, count)]))
    store = Store(out)
    with store.locked():
        for number, folder in enumerate(folders):
            _copy_beside(folder, out, number)
        shutil.copy2(folders[0] / "inputs.npz", out)
        shutil.copy2(folders[0] / "run.json", out)
        for shard, known in parts:
            store.add(shard.start + known, shard.lines()[known:])
        record: dict[str, Any] | None = None
        for found in (Store(folder).read_json(RECORD) for folder in folders):
            record = record if found is None else together(record, found)
        if record is not None:
            store.write_json(RECORD, record)
        store.write_json(provenance.NAME, [s for folder in folders for s in provenance.sessions(folder)])
        missing = tuple(shards.gaps(shards.found(out), count))
        if not missing and record is not None:  # without one, `certmix audit` finishes it, and writes one
            store.finish()
    return Merged(count, missing, tuple(sorted({str(h.settings.get("certmix")) for h in headers})))


def _header(folder: Path) -> parse.RunHeader:
    try:
        return parse.run_header((folder / "run.json").read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} holds no run of certmix audit: run.json: {error.strerror}") from None
    except MalformedError as error:
        raise UsageError(f"{folder} is damaged ({error}): leave it out, and audit its inputs again") from None


def _parts(folder: Path, count: int) -> list[Shard]:
    """What the run in `folder` holds; a finished one is a shard of all inputs."""
    final = folder / FINAL
    return [Shard(0, count, final)] if final.exists() else shards.found(folder)


def _disjoint(parts: list[Shard]) -> Iterator[tuple[Shard, int]]:
    """Shards in order, each with how many of its first lines are in those before it already."""
    seen: dict[int, tuple[bytes, Path]] = {}
    for shard in sorted(parts):
        try:
            lines = shard.lines()
        except MalformedError as error:
            raise UsageError(
                f"{error}: start that folder's audit again, which proves this part anew, or leave it out"
            ) from None
        known = 0
        for index, line in enumerate(lines, shard.start):
            digest = hashlib.sha256(line).digest()
            if index in seen and seen[index][0] != digest:
                raise UsageError(
                    f"input {index} has one line in {seen[index][1]} and another in {shard.path}: leave one of them out"
                )
            known += index in seen
            seen.setdefault(index, (digest, shard.path))
        if known < len(lines):
            yield shard, known


def _copy_beside(folder: Path, out: Path, number: int) -> None:
    """Files that stand beside the lines. Names of batches cut otherwise may meet, and what they hold is read under
    any: the later one takes its folder's number into its name."""
    for source in (path for name in BESIDE for path in sorted((folder / name).glob("*")) if path.is_file()):
        target = out / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        if target.exists() and target.read_bytes() != source.read_bytes():
            target = target.with_stem(f"{target.stem}-{number}")
        shutil.copy2(source, target)
