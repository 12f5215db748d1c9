"""A time as people write it, and what one law came to, in words: for the command and for the pytest plugin."""

from __future__ import annotations

import re

from certmix.errors import UsageError
from certmix.testing.runner import LawResult

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 5m, 1h. Raises UsageError for anything else or for 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget must be a time such as 90s, 5m or 1h, got {text!r}")
    return float(match[1]) * UNITS[match[2]]


def line(result: LawResult) -> str:
    """One law's result in one line, its evidence in a second."""
    text = (
        f"{result.status.upper():13} {result.law.name:45} {result.examples:6d} examples {result.claims:7d} claims "
        f"{result.points:9d} points {result.seconds:6.1f} s"
    )
    if result.crashes:
        text += f"\n              raised in {result.crashes} of {result.examples} examples: {result.crash}"
    if result.broken is not None:
        exact = " (confirmed in exact arithmetic)" if result.broken.exact else ""
        text += f"\n              {result.broken.evidence}{exact}"
    return text
