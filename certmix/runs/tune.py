"""A mix chosen on one split and what became of it on another: the choice, its proportions, its record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from certmix.formatting import exact, nearest
from certmix.runs.audit import RECORD, Audit
from certmix.runs.store import Store
from proofs_check.reading.parse import array_sha256
from verifiers.smoothing.confidence import clopper_pearson_lower

# ---------------------------------------------------------------- the splits


def need_disjoint(tune: Dataset, audit: Dataset) -> None:
    """Raises UsageError if any input of one split, bit for bit, is in the other too."""
    tune_digests = Counter(array_sha256(x) for x in tune.inputs)
    shared = [array_sha256(x) in tune_digests for x in audit.inputs]
    if any(shared):
        raise UsageError(
            f"{sum(shared)} of the {len(audit)} inputs of {audit.source} are also among the {len(tune)} of "
            f"{tune.source}, the first at {shared.index(True)}: a pair chosen on an input cannot be audited on it"
        )


def finish(audit: Audit) -> int:
    """Run it unless its folder holds exactly this run, finished; the exit code."""
    if audit.store.finished(audit.header()):
        return int(any(r["outcome"] == "falsified" and r["confirmed"] for r in audit.store.lines()))
    return audit.run()


# ---------------------------------------------------------------- the choice, and what became of it


class Candidate(Protocol):
    """What a choice looks at: a mix, and its shares in percent on the split that it is chosen on."""

    @property
    def alpha(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def radius(self) -> float: ...
    @property
    def clean(self) -> float: ...
    @property
    def certified_correct(self) -> float: ...
    def in_words(self) -> str: ...


C = TypeVar("C", bound=Candidate)


def choose_point(points: Sequence[C], clean: float) -> C:
    """The best certified accuracy among points whose clean accuracy is at least `clean`, a share.

    Ties: the cleaner, then the one with less of the robust model. Raises UsageError if none is clean enough.
    """
    allowed = [p for p in points if p.clean >= 100 * clean]
    if not allowed:
        best = max(points, key=lambda p: p.clean)
        raise UsageError(
            f"no mix has clean accuracy {exact(clean)} on the tune split: the best has "
            f"{nearest(best.clean / 100, 4)}, at {best.in_words()}; lower --clean-accuracy or try others"
        )
    return max(allowed, key=lambda p: (p.certified_correct, p.clean, -p.alpha, -p.temperature))


@dataclass(frozen=True)
class Proportion:
    """hits of n, as a share, with its two-sided Clopper–Pearson interval."""

    hits: int
    n: int
    share: float
    lower: float
    upper: float


def proportion(hits: int, n: int, confidence: float) -> Proportion:
    """Each end fails with probability at most (1 - confidence) / 2 over the draw of the split. Rounded outward."""
    tail = (1 - confidence) / 2
    if not tail > 0:
        return Proportion(hits, n, hits / n, 0.0, 1.0)
    lower, missed = clopper_pearson_lower([hits, n - hits], n, tail)
    return Proportion(hits, n, hits / n, float(lower), 1 - float(missed))


def as_record(point: Candidate, norm: str, tuned: int, audit: Path, confidence: float) -> dict[str, Any]:
    """What tune.json holds. tuned: how many inputs the mix was chosen on. audit: folder of the finished audit."""
    store = Store(audit)
    lines, record = list(store.lines()), store.read_json(RECORD)
    if record is None:
        raise UsageError(f"{audit / RECORD} is missing: remove {audit}, and audit again")
    right = sum(p == r["label"] for p, r in zip(record["predictions"]["mix"], lines, strict=True))
    certified = sum(r["outcome"] == "certified" and r["predicted"] == r["label"] for r in lines)
    return {
        "alpha": point.alpha,
        "temperature": point.temperature,
        "mix": point.in_words(),
        "radius": point.radius,
        "norm": norm,
        "confidence": confidence,
        "tune": {"n": tuned, "clean": point.clean / 100, "certified_correct": point.certified_correct / 100},
        "audit": {
            "clean": dataclasses.asdict(proportion(right, len(lines), confidence)),
            "certified_correct": dataclasses.asdict(proportion(certified, len(lines), confidence)),
        },
    }
