"""python -m proofs_check DIR: judge every certificate of a run.

Prints what was not accepted, what the accepted certificates claim, and how many there are. Inputs count from 0.
Exit 0: every certified line accepted. 1: one was rejected. 2: something is malformed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from proofs_check.certificate import Assumption, Claim, MalformedError, RejectedError

if TYPE_CHECKING:
    from proofs_check.run import Executor, Result, Run

MAX_SHOWN = 2000  # characters of a reason
STATES = ("accepted", "rejected", "malformed", "abstained", "falsified")
NAMED = ("dataset", "robust", "standard")  # in a header, by digest
BAR = 30  # characters


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def printable(text: str) -> str:
    """What a file says cannot look like a line of its own."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text[:MAX_SHOWN])


def describe(result: Result) -> str:
    """One line of text."""
    from proofs_check.words import down

    claim, head = result.claim, f"{result.state:9s} input {result.index}"
    if result.state == "malformed":
        return f"malformed {printable(f'{result.step}: {result.reason}')}"
    if result.state != "accepted" or claim is None:
        return f"{head}: {printable(': '.join(t for t in (result.step, result.reason) if t))}"
    rests = ", ".join(result.assumptions) or "none beyond exact export"
    cost = f"{result.size} bytes, judged in {result.seconds:.2f} s"
    return f"{head}: class {claim.predicted}, radius {down(claim.radius)}; assumptions: {rests}; {cost}"


def as_object(result: Result) -> dict[str, object]:
    """The same for programs. radius_down: the radius as a decimal number that does not exceed it."""
    from proofs_check.words import down

    line, claim = result.line, result.claim
    said = claim or line  # a line without a claim states some of its fields itself
    radius = getattr(said, "radius", None)
    return {
        "index": result.index,
        "state": result.state,
        **{name: getattr(line, name, None) for name in ("label", "method", "rule")},
        **{name: getattr(said, name, None) for name in ("predicted", "class_of", "alpha", "radius")},
        "radius_down": None if radius is None else down(radius, 17),
        "assumptions": result.assumptions,
        "step": result.step,
        "reason": result.reason,
        "bytes": result.size,
    }


class Summary:
    """What can be said of a run as a whole, from what the judge found and nothing else.

    correct: accepted certificates of the class that is the input's label; labelled: those of inputs that have one.
    radii: the smallest and the largest accepted.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.states: Counter[str] = Counter()
        self.rests: Counter[str] = Counter()
        self.correct = self.labelled = 0
        self.claim: Claim | None = None
        self.radii = math.inf, 0.0
        self.problem: dict[str, str] | None = None

    def add(self, result: Result) -> None:
        self.states[result.state] += 1
        claim = result.claim
        if result.state != "accepted" or claim is None or result.line is None:
            return
        self.rests.update(result.assumptions)
        self.correct += claim.predicted == result.line.label
        self.labelled += result.line.label >= 0
        self.claim = self.claim or claim
        self.radii = min(self.radii[0], claim.radius), max(self.radii[1], claim.radius)

    def fail(self, state: str, place: str, reason: str) -> None:
        """Judging ended before the last line."""
        self.states[state] += 1
        self.problem = {"state": state, "place": place, "reason": reason}

    @property
    def exit_code(self) -> int:
        return 2 if self.states["malformed"] else 1 if self.states["rejected"] else 0

    def words(self) -> list[str]:
        """The claim of the accepted certificates, and what it rests on; one sentence each."""
        from proofs_check.words import of_claims

        if self.run is None:
            return []
        count = self.run.header.count
        if self.claim is None:
            return [f"Certified: none of {count} inputs."]
        right = f"{self.correct} of them as the label's class" if self.labelled else "none of which has a label"
        certified = f"Certified: {self.states['accepted']} of {count} inputs, {right}."
        assumed = [f"Assumed by {n} of them: {Assumption[name].value}." for name, n in sorted(self.rests.items())]
        return [certified, *of_claims(self.claim, *self.radii), *assumed]

    def text(self) -> str:
        fault = self.problem
        ended = [] if fault is None else [f"{fault['state']} {printable(fault['place'] + ': ' + fault['reason'])}"]
        counts = [f"{self.states[n]} {n}" for n in STATES if self.states[n] or n in ("accepted", "rejected")]
        uses = ", ".join(f"{name} ({n})" for name, n in sorted(self.rests.items())) or "none beyond exact export"
        return "\n".join([*ended, *self.words(), ", ".join(counts), f"assumptions: {uses}"])

    def as_object(self) -> dict[str, object]:
        """The same for programs. claim: what all accepted claims share, null where they do not (a radius, an alpha that
        depends on the input), and the ends of their radii; digests: of what was judged."""
        from proofs_check.words import down

        claim, header = None, {} if self.run is None else dataclasses.asdict(self.run.header)
        if self.claim is not None:
            claim = {n: v for n, v in dataclasses.asdict(self.claim).items() if n not in ("predicted", "input")}
            claim["radius"] = self.radii[0] if self.radii[0] == self.radii[1] else None
            claim["radii"], claim["radii_down"] = self.radii, [down(r, 17) for r in self.radii]
            claim["alpha"] = None if claim["adaptive"] and claim["adaptive"]["alpha"] else claim["alpha"]
        return {
            "summary": {name: self.states[name] for name in STATES},
            "count": header.get("count"),
            "correct": self.correct if self.labelled or self.claim is None else None,
            "assumptions": dict(self.rests),
            "claim": claim,
            "words": self.words(),
            "digests": {**(self.run.digests if self.run else {}), **{n: header.get(n) for n in NAMED}},
            "problem": self.problem,
        }


class Bar:
    """Progress on standard error, where somebody looks at it."""

    def __init__(self, wanted: bool) -> None:
        self.shown, self.next = wanted and sys.stderr.isatty(), 0.0

    def show(self, done: int, total: int) -> None:
        if self.shown and time.monotonic() >= self.next:
            self.next = time.monotonic() + 0.1
            full = min(BAR, BAR * done // total)
            print(f"\rjudging {'#' * full:.<{BAR}s} {done} of {total}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def judge(options: argparse.Namespace, execute: Executor | None = None) -> int:
    """Judge the run in options.folder and print what was found; the exit code. execute: what judges its lines, in place
    of processes of this machine."""
    from proofs_check.run import Run  # here and not above: help, and the answer to a mistake, come at once

    summary, bar = Summary(), Bar(not options.quiet)
    try:
        summary.run = Run(options.folder)
        for done, result in enumerate(summary.run.results(options.jobs, execute), start=1):
            summary.add(result)
            told = options.verbose or options.json or result.state in ("rejected", "malformed")
            if told and not options.quiet:
                bar.clear()
                print(_json(as_object(result)) if options.json else describe(result))
            bar.show(done, summary.run.header.count)
    except MalformedError as error:
        summary.fail("malformed", error.place, error.reason)
    except RejectedError as error:  # a network beyond the judge's range
        summary.fail("rejected", error.step, error.reason)
    except MemoryError as error:
        summary.fail("rejected", "memory", f"the judge ran out of it: {error}")
    bar.clear()
    print(_json(summary.as_object()) if options.json else summary.text())
    return summary.exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, here and of `certmix check`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder written by certmix audit")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object per input, and one for the run")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="only what is said of the run as a whole")
    shown.add_argument("--verbose", action="store_true", help="one line per input, also where it was accepted")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="proofs_check", description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {options.jobs}")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # whatever the terminal's encoding
    try:
        code = judge(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # who read this has left: nothing more is said, also not at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
