"""What was looked at, what was found there, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """of: what was looked at. found: in words. way_out: what to do, of all that is not ok.

    note: something optional is absent, or slower than it could be; wrong: certmix does not work with it.
    """

    of: str
    state: State
    found: str
    way_out: str = ""


def judged(of: str, good: bool, found: str, way_out: str) -> Finding:
    """Ok, or wrong with the way out."""
    return Finding(of, "ok", found) if good else Finding(of, "wrong", found, way_out)
