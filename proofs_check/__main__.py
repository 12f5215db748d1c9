"""python -m proofs_check DIR: judge every certificate of a run.

Exit 0: every certified line accepted. 1: one was rejected. 2: something is malformed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from proofs_check import folder, judge, parse
from proofs_check.bounds import Prepared, prepare
from proofs_check.certificate import Accepted, MalformedError, RejectedError, wellformed
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case

MAX_SHOWN = 2000  # characters of a reason


@dataclass(frozen=True)
class Result:
    """What became of line `number` (from 1): state, and the words for it."""

    number: int
    index: int | None
    state: str
    radius: float | None
    rule: str | None
    assumptions: tuple[str, ...]
    step: str | None
    reason: str | None


class Bench:
    """One process's judge: the run's networks, prepared once."""

    def __init__(self, robust: Prepared, standard: Prepared | None) -> None:
        self.robust = robust
        self.standard = standard

    def judge(self, number: int, data: bytes, row: folder.Row | None) -> Result:
        place = f"line {number}"
        try:
            found = parse.line(data, EVIDENCE, place)
            wellformed(row is not None and found.index == number - 1, place, f"index {found.index} is out of order")
            wellformed(row is None or found.label == row.label, place, f"label {found.label} is not the dataset's")
        except MalformedError as error:
            return Result(number, None, "malformed", None, None, (), error.place, error.reason)
        if not isinstance(found, parse.Certificate):
            return Result(number, found.index, found.outcome, found.radius, None, (), None, found.reason)
        if row is None:  # excluded above
            raise TypeError("a certificate without its input")
        verdict = judge.check(found, Case(self.robust, self.standard, row.value))
        radius = found.claim.radius
        if isinstance(verdict, Accepted):
            names = tuple(sorted(a.name for a in verdict.assumptions))
            return Result(number, found.index, "accepted", radius, found.rule, names, None, None)
        return Result(number, found.index, "rejected", radius, found.rule, (), verdict.step, verdict.reason)


_bench: list[Bench] = []  # one per worker process, set by _start


def _start(path: Path) -> None:
    _bench[:] = [bench(path, folder.header(path))]


def _work(number: int, data: bytes, row: folder.Row | None) -> Result:
    return _bench[0].judge(number, data, row)


def bench(path: Path, header: parse.RunHeader) -> Bench:
    robust = prepare(folder.network(path, header.robust))
    return Bench(robust, None if header.standard is None else prepare(folder.network(path, header.standard)))


def tasks(path: Path, header: parse.RunHeader) -> Iterator[tuple[int, bytes, folder.Row | None]]:
    """Line number, line and the input it must speak of; line k is about input k - 1."""
    found = folder.rows(path)
    number = 0
    for number, data in enumerate(folder.lines(path), start=1):
        yield number, data, next(found, None)
    wellformed(number >= header.count, "certificates.jsonl", f"has {number} lines, run.json says {header.count}")


def results(path: Path, jobs: int) -> Iterator[Result]:
    """Verdicts in the order of the lines; memory does not grow with their number. Raises MalformedError."""
    header = folder.header(path)
    folder.need_dataset(path, header)
    here = bench(path, header)
    if jobs == 1:
        yield from (here.judge(*task) for task in tasks(path, header))
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read by the children: parallelism is over certificates
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (path,)) as pool:
        waiting: deque[Future[Result]] = deque()
        for task in tasks(path, header):
            waiting.append(pool.submit(_work, *task))
            if len(waiting) > 4 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
            print(folder.text(asdict(result)) if as_json else describe(result))
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
        print(folder.text({"summary": shown, "assumptions": dict(rests), "problem": place}))
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
