"""Which certmix this is, to the byte: processes of one run on several machines must be of the same."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import certmix
import proofs_check
import verifiers


@cache
def sha256() -> str:
    """Of one line for each Python file of the three packages, as sha256sum prints them: of its sha256, two spaces and
    its path."""
    lines: list[str] = []
    for package in (certmix, proofs_check, verifiers):
        above = Path(package.__path__[0]).parent
        for path in sorted(above.joinpath(package.__name__).rglob("*.py")):
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(above).as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
