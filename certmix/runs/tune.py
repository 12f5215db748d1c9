"""A pair (alpha, T) chosen on one split and what became of it on another: the choice, its proportions, its record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from certmix.formatting import exact, nearest
from certmix.runs.audit import Audit
from certmix.runs.finished import FinishedRun
from certmix.runs.sweep import Point, sweep
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


def choose_point(points: Sequence[Point], clean: float) -> Point:
    """The best certified accuracy among points whose clean accuracy is at least `clean`, a share.

    Ties: the cleaner, then the one with less of the robust model. Raises UsageError if none is clean enough.
    """
    allowed = [p for p in points if p.clean >= 100 * clean]
    if not allowed:
        best = max(points, key=lambda p: p.clean)
        raise UsageError(
            f"no pair has clean accuracy {exact(clean)} on the tune split: the best has "
            f"{nearest(best.clean / 100, 4)}, at alpha {exact(best.alpha)}, temperature {exact(best.temperature)}; "
            "lower --clean-accuracy or try other pairs"
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


def as_record(tuned: FinishedRun, audited: FinishedRun, point: Point, confidence: float) -> dict[str, Any]:
    """What tune.json holds."""
    n = len(audited.data)
    audited_point = sweep(audited, (point.alpha,), (point.temperature,), (point.radius,), 0).points[0]
    correct = sum(r["predicted"] == r["label"] for r in audited.certified)
    return {
        "alpha": point.alpha,
        "temperature": point.temperature,
        "radius": point.radius,
        "norm": audited.settings.norm,
        "confidence": confidence,
        "tune": {"n": len(tuned.data), "clean": point.clean / 100, "certified_correct": point.certified_correct / 100},
        "audit": {
            "clean": dataclasses.asdict(proportion(round(audited_point.clean * n / 100), n, confidence)),
            "certified_correct": dataclasses.asdict(proportion(correct, n, confidence)),
        },
    }
