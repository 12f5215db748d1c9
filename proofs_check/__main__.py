"""python -m proofs_check DIR: judge every certificate of a run.

Exit 0: every certified line accepted. 1: one was rejected. 2: something is malformed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from proofs_check.certificate import MalformedError, RejectedError
from proofs_check.run import Result, results

MAX_SHOWN = 2000  # characters of a reason


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def describe(result: Result) -> str:
    """One line of text: what the file says cannot look like a line of its own."""
    head = f"{result.state:9s} line {result.number}"
    if result.state == "accepted":
        rests = ", ".join(result.assumptions) or "none beyond exact export"
        return f"{head}: radius {result.radius!r} by {result.rule}; assumptions: {rests}"
    where = f"{result.step}: " if result.step else ""
    return f"{head}: {printable(f'{where}{result.reason}')}"


def printable(text: str) -> str:
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text[:MAX_SHOWN])


def summarise(found: Iterable[Result], as_json: bool) -> int:
    """Print one line per result and a summary; the exit code."""
    states: Counter[str] = Counter()
    rests: Counter[str] = Counter()
    problem: tuple[str, str, str] | None = None  # state, place, reason
    try:
        for result in found:
            print(_json(asdict(result)) if as_json else describe(result))
            states[result.state] += 1
            rests.update(result.assumptions)
    except MalformedError as error:
        problem = "malformed", error.place, error.reason
    except RejectedError as error:  # a network beyond the judge's range
        problem = "rejected", error.step, error.reason
    except (MemoryError, BrokenProcessPool) as error:
        problem = "rejected", "memory", f"the judge ran out of it: {error}"
    if problem is not None:
        states[problem[0]] += 1
    shown = {name: states[name] for name in ("accepted", "rejected", "malformed", "abstained", "falsified")}
    if as_json:
        place = None if problem is None else {"place": problem[1], "reason": problem[2]}
        print(_json({"summary": shown, "assumptions": dict(rests), "problem": place}))
    else:
        if problem is not None:
            print(f"{problem[0]} {printable(f'{problem[1]}: {problem[2]}')}")
        print(
            ", ".join(f"{count} {name}" for name, count in shown.items() if count or name in ("accepted", "rejected"))
        )
        uses = ", ".join(f"{name} ({count})" for name, count in sorted(rests.items())) or "none beyond exact export"
        print(f"assumptions: {uses}")
    return 2 if states["malformed"] else 1 if states["rejected"] else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="proofs_check", description="Judge every certificate of a run.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder written by certmix audit")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of text")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default 1)")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {options.jobs}")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # whatever the terminal's encoding
    return summarise(results(options.folder, options.jobs), options.json)


if __name__ == "__main__":
    sys.exit(main())
