"""A run's certificates judged one by one, here or in several processes. (Not in `__main__`, which spawned processes
do not import.)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from proofs_check import judge
from proofs_check.certificate import Claim, MalformedError, Rejected, RejectedError, wellformed
from proofs_check.kernel.bounds import Prepared, prepare
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case


@dataclass(frozen=True)
class Result:
    """What became of line `number` (from 1): state, and the words for it."""

    number: int
    index: int | None
    state: str
    radius: float | None = None
    rule: str | None = None
    assumptions: tuple[str, ...] = ()
    step: str | None = None
    reason: str | None = None


class Bench:
    """One process's judge: the run's networks, prepared once."""

    def __init__(self, path: Path, header: parse.RunHeader, robust: Prepared, standard: Prepared | None) -> None:
        self.path = path
        self.header = header
        self.robust = robust
        self.standard = standard
        self.alphas: dict[str, Prepared] = {}

    def alpha(self, claim: Claim) -> Prepared | None:
        """The network of alpha that the claim names, from the run's folder; None if it names none."""
        named = claim.alpha_network
        if named is not None and named not in self.alphas:
            self.alphas = {named: prepare(folder.network(self.path, named))}  # the last one: memory stays bounded
        return None if named is None else self.alphas[named]

    def judge(self, number: int, data: bytes, row: folder.Row | None) -> Result:
        place = f"line {number}"
        try:
            found = parse.line(data, EVIDENCE, place)
            if row is None or found.index != number - 1:
                raise MalformedError(place, f"index {found.index} is out of order")
            wellformed(found.label == row.label, place, f"label {found.label} is not the dataset's")
            need_same_claim(found, self.header, place)
            if not isinstance(found, parse.Certificate):
                return Result(number, found.index, found.outcome, found.radius, reason=found.reason)
            case = Case(self.robust, self.standard, row.value, self.alpha(found.claim))
        except MalformedError as error:
            return Result(number, None, "malformed", step=error.place, reason=error.reason)
        except RejectedError as error:  # a network of alpha beyond the judge's range
            return Result(number, number - 1, "rejected", step=error.step, reason=error.reason)
        except MemoryError as error:
            return Result(number, number - 1, "rejected", step="memory", reason=f"a network does not fit: {error}")
        verdict, radius = judge.check(found, case), found.claim.radius
        if isinstance(verdict, Rejected):
            return Result(number, found.index, "rejected", radius, found.rule, (), verdict.step, verdict.reason)
        names = tuple(sorted(a.name for a in verdict.assumptions))
        return Result(number, found.index, "accepted", radius, found.rule, names)


_bench: list[Bench] = []  # one per worker process, set by _start


def _start(path: Path) -> None:
    _bench[:] = [bench(path, folder.header(path))]


def _work(number: int, data: bytes, row: folder.Row | None) -> Result:
    return _bench[0].judge(number, data, row)


def bench(path: Path, header: parse.RunHeader) -> Bench:
    robust = prepare(folder.network(path, header.robust))
    standard = None if header.standard is None else prepare(folder.network(path, header.standard))
    return Bench(path, header, robust, standard)


def need_same_claim(line: parse.Certificate | parse.NotCertified, header: parse.RunHeader, place: str) -> None:
    """FORMAT.md 3: what run.json says of the claims, every line says too. Raises MalformedError."""
    said: dict[str, object] = {"method": line.method}
    if isinstance(line, parse.NotCertified):
        said |= {"norm": line.norm, "radius": line.radius}
        fixed_alpha = True
    else:
        claim = line.claim
        said |= {"norm": claim.norm, "temperature": claim.temperature, "semantics": claim.semantics}
        said |= {"domain": None if claim.domain is None else list(claim.domain)}
        if header.settings.get("radius") is not None:
            said["radius"] = claim.radius
        fixed_alpha = claim.adaptive is None or claim.adaptive.alpha is None
        noise, of_run = claim.smoothing, header.settings.get("smoothing")
        wellformed((noise is None) == (line.method != "smoothing"), place, f"is not of the method {line.method}")
        if noise is not None:
            said["use_standard"] = noise.networks == "both"
            own = {n: v for n, v in vars(noise).items() if n != "networks"}
            _agree(own, of_run if isinstance(of_run, dict) else {}, place)
    if fixed_alpha:
        said["alpha"] = line.alpha if isinstance(line, parse.NotCertified) else line.claim.alpha
    _agree(said, header.settings, place)


def _agree(said: dict[str, object], of_run: Any, place: str) -> None:
    for name, value in said.items():
        if name in of_run:
            same = type(value) is type(of_run[name]) and value == of_run[name]
            wellformed(same, place, f"speaks of {name} = {value}, the run of {of_run[name]}")


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
