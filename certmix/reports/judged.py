"""The judge's verdict on a folder, asked for anew: a report believes no file that says what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certmix.runs.store import digests

SHOWN = 20  # lines that were not accepted, of those a report repeats
LONGEST = 500  # characters of a reason
STATES = ("accepted", "rejected", "malformed", "abstained", "falsified")


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one line. reason: why it was not accepted, None where it was or claims nothing."""

    state: str
    reason: str | None
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """exit_code: of the judge: 0 all accepted, 1 some rejected, 2 something malformed. of: verdicts by input index.
    lines: closing words for a reader, after what was not accepted. words: the claim in the judge's own sentences.
    digests: of the files it read."""

    exit_code: int
    of: dict[int, Verdict]
    lines: tuple[str, ...]
    words: tuple[str, ...]
    digests: dict[str, str]


def judged(folder: Path, jobs: int = 1) -> Judged:
    """`python -m proofs_check FOLDER` in a process of its own. Raises OSError if the folder holds no finished run."""
    before = digests(folder)
    command = [sys.executable, "-m", "proofs_check", str(folder), "--jobs", str(jobs), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace", check=False)
    if digests(folder) != before:
        return Judged(2, {}, ("the folder changed while it was judged",), (), before)
    try:
        objects: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        verdicts, summary = _verdicts(objects[:-1]), objects[-1]
        problem, words = summary["problem"], tuple(printable(w) for w in summary["words"])
    except (ValueError, KeyError, IndexError, TypeError):
        return Judged(2, {}, ("the judge did not finish",), (), before)
    return Judged(done.returncode, verdicts, _closing(verdicts, problem), words, before)


def _verdicts(objects: list[dict[str, Any]]) -> dict[int, Verdict]:
    """One per line, lines in the order of the inputs."""
    verdicts: dict[int, Verdict] = {}
    for index, line in enumerate(objects):
        why = line["state"] in ("rejected", "malformed")
        reason = printable(f"{line['step']}: {line['reason']}") if why else None
        verdicts[index] = Verdict(line["state"], reason, tuple(line["assumptions"]))
    return verdicts


def _closing(found: dict[int, Verdict], problem: dict[str, Any] | None) -> tuple[str, ...]:
    refused = [f"input {k} {v.state}: {v.reason}" for k, v in found.items() if v.reason is not None]
    more = [f"and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
    ended = [] if problem is None else [printable(f"{problem['place']}: {problem['reason']}")]
    states = Counter(v.state for v in found.values())
    counts = [f"{states[name]} {name}" for name in STATES if states[name] or name in ("accepted", "rejected")]
    rests = Counter(name for v in found.values() for name in v.assumptions)
    uses = ", ".join(f"{name} ({count})" for name, count in sorted(rests.items())) or "none beyond exact export"
    return (*refused[:SHOWN], *more, *ended, ", ".join(counts), f"assumptions: {uses}")


def printable(text: str) -> str:
    """What a file says cannot move a terminal's cursor or look like a line of its own."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text[:LONGEST])
