"""A run's certificates judged one by one, here or in several processes, and held against one another. (Not in
`__main__`, which spawned processes do not import.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from proofs_check import judge
from proofs_check.certificate import (
    Claim,
    MalformedError,
    ModelFile,
    PlainNetwork,
    Rejected,
    RejectedError,
    wellformed,
)
from proofs_check.kernel.bounds import Prepared, prepare
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case, Model

State = Literal["accepted", "rejected", "malformed", "abstained", "falsified"]
OF_RUN = (  # what a header's settings may say of all lines; the smoothing's in an object of their own
    ("norm", "method", "class_of", "alpha", "radius", "temperature", "domain", "semantics", "adaptive", "use_standard"),
    ("noise_std", "base", "failure_probability", "grid"),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of the line about input `index`. line: what it says, without evidence; None where it is malformed.
    size: its bytes. seconds: that judging it took."""

    index: int
    state: State
    line: parse.Certificate | parse.NotCertified | None = None
    assumptions: tuple[str, ...] = ()
    step: str | None = None
    reason: str | None = None
    size: int = 0
    seconds: float = dataclasses.field(default=0.0, compare=False)

    @property
    def claim(self) -> Claim | None:
        return self.line.claim if isinstance(self.line, parse.Certificate) else None


Task = tuple[int, bytes, folder.Row | None]
"""A line: its place, its bytes and the input it must speak of."""
Networks = Callable[[str], PlainNetwork]
"""The run's network of that sha256. Raises MalformedError."""


class ProcessJudge:
    """One process's judge: the run's networks, prepared once, or files of models."""

    def __init__(self, networks: Networks, robust: Model, standard: Model | None) -> None:
        self.networks = networks
        self.robust = robust
        self.standard = standard
        self.alphas: dict[str, Prepared] = {}

    def alpha(self, claim: Claim) -> Prepared | None:
        """The network of alpha that the claim names, from the run's folder; None if it names none."""
        named = claim.alpha_network
        if named is not None and named not in self.alphas:
            self.alphas = {named: prepare(self.networks(named))}  # the last one: memory stays bounded
        return None if named is None else self.alphas[named]

    def measured(self, index: int, data: bytes, row: folder.Row | None) -> Result:
        """`judge`, and what it took."""
        started = time.perf_counter()
        result = self.judge(index, data, row)
        return dataclasses.replace(result, size=len(data), seconds=time.perf_counter() - started)

    def judge(self, index: int, data: bytes, row: folder.Row | None) -> Result:
        """The line `data` in the place of input `index`, whose value and label are `row`."""
        place = f"input {index}"
        try:
            line = parse.line(data, EVIDENCE, place)
            if row is None or line.index != index:
                raise MalformedError(place, f"index {line.index} is out of order, or there is no such input")
            wellformed(line.label == row.label, place, f"label {line.label} is not the dataset's, {row.label}")
            if not isinstance(line, parse.Certificate):
                return Result(index, line.outcome, line, reason=line.reason)
            smoothed = line.claim.smoothing is not None
            wellformed(smoothed == (line.method == "smoothing"), place, f"is not of the method {line.method}")
        except MalformedError as error:
            return Result(index, "malformed", step=error.place, reason=error.reason)
        said = dataclasses.replace(line, evidence=None)
        try:
            case = Case(self.robust, self.standard, row.value, self.alpha(line.claim))
        except MalformedError as error:
            return Result(index, "malformed", step=error.place, reason=error.reason)
        except RejectedError as error:  # a network of alpha beyond the judge's range
            return Result(index, "rejected", said, step=error.step, reason=error.reason)
        except MemoryError as error:
            return Result(index, "rejected", said, step="memory", reason=f"a network does not fit: {error}")
        verdict = judge.check(line, case)
        if isinstance(verdict, Rejected):
            return Result(index, "rejected", said, (), verdict.step, verdict.reason)
        return Result(index, "accepted", said, tuple(sorted(a.name for a in verdict.assumptions)))


_judges: list[ProcessJudge] = []  # one per worker process, set by _start


def _start(path: Path, header: parse.RunHeader) -> None:
    _judges[:] = [open_judge(path, header)]


def _work(index: int, data: bytes, row: folder.Row | None) -> Result:
    return _judges[0].measured(index, data, row)


def open_judge(path: Path, header: parse.RunHeader) -> ProcessJudge:
    """Of the run in this folder. Raises MalformedError, RejectedError."""
    for model in (header.robust, header.standard):
        if isinstance(model, ModelFile):
            folder.model_file(path, model)
    return judge_of(header, functools.partial(folder.network, path))


def judge_of(header: parse.RunHeader, networks: Networks) -> ProcessJudge:
    """Of the run with these networks, whose files of models are known to be what they are named."""

    def at_hand(model: str | ModelFile) -> Model:
        return model if isinstance(model, ModelFile) else prepare(networks(model))

    return ProcessJudge(networks, at_hand(header.robust), None if header.standard is None else at_hand(header.standard))


def said(line: parse.Certificate | parse.NotCertified) -> dict[str, object]:
    """What a line says of the run as a whole, in the names and JSON types of a header's settings (FORMAT.md 3)."""
    if isinstance(line, parse.NotCertified):
        return {n: getattr(line, n) for n in ("norm", "method", "class_of", "alpha", "radius")}
    claim, noise = line.claim, line.claim.smoothing
    named = ("norm", "class_of", "alpha", "radius", "temperature", "semantics", "standard")
    settings: dict[str, object] = {"method": line.method, **{n: getattr(claim, n) for n in named}}
    settings["domain"] = None if claim.domain is None else list(claim.domain)
    settings["adaptive"] = None if claim.adaptive is None else dataclasses.asdict(claim.adaptive)
    if claim.adaptive is not None and claim.adaptive.alpha is not None:
        del settings["alpha"]  # a lower bound on the ball: of the input, not of the run
    if noise is not None:
        settings |= {n: getattr(noise, n) for n in OF_RUN[1]} | {"use_standard": noise.networks == "both"}
    return settings


class Run:
    """A run's folder as it is judged. digests: of run.json and, once every result is taken, of certificates.jsonl;
    of the very bytes that were judged. Raises MalformedError."""

    def __init__(self, path: Path) -> None:
        data = folder.header_bytes(path)
        self.path, self.header = path, parse.run_header(data)
        self.digests = {"run.json": hashlib.sha256(data).hexdigest()}
        settings, noise = self.header.settings, self.header.settings.get("smoothing")
        self._said: dict[str, Any] = {n: settings[n] for n in OF_RUN[0] if n in settings}
        self._said |= {n: noise[n] for n in OF_RUN[1] if n in noise} if isinstance(noise, dict) else {}
        self._one_radius = settings.get("radius") is not None

    def tasks(self) -> Iterator[Task]:
        inputs, total, count = folder.rows(self.path), hashlib.sha256(), 0
        for count, data in enumerate(folder.lines(self.path), start=1):
            total.update(data + b"\n")
            yield count - 1, data, next(inputs, None)
        short = f"has {count} lines, run.json says {self.header.count}"
        wellformed(count >= self.header.count, "certificates.jsonl", short)
        self.digests["certificates.jsonl"] = total.hexdigest()

    def results(self, jobs: int = 1, execute: Executor | None = None) -> Iterator[Result]:
        """In the order of the inputs; memory does not grow with their number. Raises MalformedError, RejectedError.

        execute: what judges the lines, in place of processes of this machine.
        """
        folder.need_dataset(self.path, self.header)
        return map(self._agreeing, self._judged(jobs) if execute is None else execute(self))

    def _judged(self, jobs: int) -> Iterator[Result]:
        here = open_judge(self.path, self.header)  # also where others work: what is wrong with a network is said here
        if jobs == 1:
            yield from (here.measured(*task) for task in self.tasks())
            return
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # read by the children: parallelism is over certificates
        try:
            with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (self.path, self.header)) as pool:
                waiting: deque[Future[Result]] = deque()
                for task in self.tasks():
                    waiting.append(pool.submit(_work, *task))
                    if len(waiting) > 4 * jobs:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RejectedError("memory", f"a process of the judge was ended, as for want of it: {error}") from error

    def _agreeing(self, result: Result) -> Result:
        """The result, malformed where its line says of the run other than the header or a line before it."""
        settings = {} if result.line is None else said(result.line)
        if not self._one_radius:
            settings.pop("radius", None)
        for name, value in settings.items():
            of_run = self._said.get(name, value)
            if type(value) is not type(of_run) or value != of_run:
                reason = f"speaks of {name} = {value}, the run of {of_run}"
                return Result(result.index, "malformed", step=f"input {result.index}", reason=reason)
        if result.state != "rejected":  # what is not proven speaks for no other line
            self._said |= settings
        return result


Executor = Callable[[Run], Iterator[Result]]
"""Judges a run's `tasks`, elsewhere, in their order. Raises MalformedError, RejectedError."""
