"""What figures rest on, in the judge's own words: of certified lines, and of bounds that were not judged.

Two sources say the same on purpose: the judge's verdict decides, and a table printed without it must name no less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proofs_check.certificate import Assumption

ENGINE = frozenset({Assumption.ENGINE_TRUSTED})
SMOOTHING = frozenset({Assumption.SAMPLES_IID, Assumption.COUNTS_TRUSTED, Assumption.REAL_ARITHMETIC_BASE})


def of_line(line: dict[str, Any]) -> frozenset[Assumption]:
    """What the judge will say an accepted line rests on."""
    rule = line["evidence"]["rule"]
    adaptive = line["adaptive"] or {}
    declared = adaptive.get("alpha") is not None and adaptive["alpha"]["network"] is None
    return frozenset().union(
        ENGINE if rule.startswith("engine_") else (),
        SMOOTHING if line["smoothing"] is not None else (),
        {Assumption.MODEL_FILE} if isinstance(line["robust"], dict) or isinstance(line["standard"], dict) else (),
        {Assumption.ALPHA_BOUND_TRUSTED} if declared else (),
    )


def words(assumptions: Iterable[Assumption]) -> str:
    """One line: every assumption by its name and meaning."""
    return (
        "; ".join(f"{a.name} ({a.value})" for a in sorted(assumptions, key=lambda a: a.name))
        or "nothing but exact export"
    )
