"""The judge's verdict on a folder, asked for anew: a report believes no file that says what it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from certmix.runs.store import digests

CLOSING = 2  # lines of the judge's output: the counts, and what they rest on


@dataclass(frozen=True)
class Judged:
    """exit_code: of the judge: 0 all accepted, 1 some rejected, 2 something malformed. lines: its closing words, after
    the lines of what it did not accept. digests: of the files it read."""

    exit_code: int
    lines: tuple[str, ...]
    digests: dict[str, str]


def judged(folder: Path, jobs: int = 1) -> Judged:
    """`python -m proofs_check FOLDER` in a process of its own. Raises OSError if the folder holds no finished run."""
    before = digests(folder)
    command = [sys.executable, "-m", "proofs_check", str(folder), "--jobs", str(jobs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace", check=False)
    words = done.stdout.splitlines()
    if digests(folder) != before:
        return Judged(2, ("the folder changed while it was judged",), before)
    refused = [line for line in words[:-CLOSING] if line.startswith(("rejected", "malformed"))]
    return Judged(done.returncode, (*refused[:20], *words[-CLOSING:]), before)
