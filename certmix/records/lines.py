"""The writer's side of the certificate format: sealed JSON lines and the run header (see proofs_check/FORMAT.md)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from certmix.records.outcomes import Abstained, Falsified, Method
from proofs_check import certificate as c
from proofs_check.reading import parse


def _sealed(value: dict[str, Any]) -> bytes:
    return parse.seal(json.dumps(value, separators=(",", ":"), allow_nan=False).encode()[:-1])


def certificate_line(index: int, label: int, method: Method, claim: c.Claim, rule: str, evidence: object) -> bytes:
    """Bytes of a certified line, without newline. `evidence`: the frozen dataclass of `rule`."""
    return _sealed(
        {
            "format": c.FORMAT,
            "index": index,
            "label": label,
            "outcome": "certified",
            "method": method,
            **dataclasses.asdict(claim),
            "evidence": {"rule": rule, **dataclasses.asdict(evidence)},  # type: ignore[call-overload]
        }
    )


def record_line(index: int, label: int, outcome: Abstained | Falsified) -> bytes:
    """Bytes of a line that claims nothing."""
    falsified = isinstance(outcome, Falsified)
    return _sealed(
        {
            "format": c.FORMAT,
            "index": index,
            "label": label,
            "outcome": "falsified" if falsified else "abstained",
            "method": outcome.method,
            "class_of": outcome.class_of,
            "alpha": outcome.alpha,
            "norm": outcome.norm,
            "radius": outcome.radius,
            "predicted": outcome.predicted,
            "reason": "COUNTEREXAMPLE" if falsified else outcome.reason.name,
            "advice": outcome.advice,
            "counterexample": outcome.counterexample.astype("<f4").tobytes().hex() if falsified else None,
            "confirmed": outcome.confirmed if falsified else False,
        }
    )


def run_line(header: parse.RunHeader) -> bytes:
    """Bytes of run.json."""
    return _sealed({"format": c.RUN_FORMAT, **dataclasses.asdict(header)})
