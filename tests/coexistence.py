"""The law of the whole suite: a certificate and a confirmed counterexample of one problem never coexist.

Every claim the judge accepts on the way of certify and audit is kept, and every point at which rigorous evaluation
(certmix.attacks.confirm) found another class ahead, whatever test they come from. At the end of the session, over
all its processes, no such point may lie inside the ball of such a claim. Registered by conftest.py; tests that do not
import certmix pay nothing for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

OUTPUT = "certmix_coexistence"


@dataclass(frozen=True)
class Problem:
    """What a claim and a point must share. robust, standard: digests; standard None: any. predicted: the class."""

    robust: str
    standard: str | None
    alpha: float
    temperature: float
    predicted: int

    def meets(self, other: Problem) -> bool:
        """Whether both speak of one class of one mix. g has no say at alpha = 1, nor where one side allows any."""
        unlike = self.standard not in (None, other.standard) and other.standard is not None and self.alpha < 1
        return dataclasses.replace(self, standard=None) == dataclasses.replace(other, standard=None) and not unlike


@dataclass(frozen=True)
class Proven:
    """`problem.predicted` wins on the ball around `center` (float32 bytes)."""

    problem: Problem
    center: bytes
    radius: float
    norm: Any
    domain: tuple[float, float] | None
    test: str

    def holds(self, point: bytes) -> bool:
        """Whether the point lies in ball and box, exactly."""
        from certmix.attacks.confirm import contained

        candidate, center = (np.frombuffer(b, dtype="<f4") for b in (point, self.center))
        return contained(candidate, center, self.radius, self.norm, self.domain)


@dataclass(frozen=True)
class Refuted:
    """At `point` (float32 bytes) another class is strictly ahead of `problem.predicted`."""

    problem: Problem
    point: bytes
    test: str


def conflicts(proven: Iterable[Proven], refuted: Iterable[Refuted]) -> list[str]:
    """One line for every pair that cannot both be true."""
    by_network: dict[str, list[Refuted]] = {}
    for point in refuted:
        by_network.setdefault(point.problem.robust, []).append(point)
    return [
        f"{claim.test} certifies class {claim.problem.predicted} at {claim.norm} radius {claim.radius!r}; "
        f"{point.test} confirms a point inside where it loses ({claim.problem})"
        for claim in proven
        for point in by_network.get(claim.problem.robust, ())
        if claim.problem.meets(point.problem) and claim.holds(point.point)
    ]


class Law:
    """The pytest plugin. Worker processes of pytest-xdist hand over what they kept when they end."""

    def __init__(self) -> None:
        self.proven: dict[tuple[Any, ...], Proven] = {}
        self.refuted: dict[tuple[Any, ...], Refuted] = {}
        self.test = ""
        self.watching = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.test = item.nodeid
        self.watch()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[OUTPUT] = [[dataclasses.astuple(r) for r in kept.values()] for kept in (self.proven, self.refuted)]
        elif conflicts(self.proven.values(), self.refuted.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        proven, refuted = getattr(node, "workeroutput", {}).get(OUTPUT, ((), ()))
        for problem, *rest in proven:
            self.keep(self.proven, Proven(Problem(*problem), *rest))
        for problem, *rest in refuted:
            self.keep(self.refuted, Refuted(Problem(*problem), *rest))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        found = conflicts(self.proven.values(), self.refuted.values())
        for line in found:
            terminalreporter.write_line(f"CERTIFIED AND REFUTED: {line}", red=True)
        counts = f"{len(self.proven)} claims proven, {len(self.refuted)} counterexamples confirmed"
        terminalreporter.write_line(f"{counts}, {len(found)} in conflict")

    def settle(self, norm: Any) -> list[str]:
        """`conflicts` of the claims in this norm, which are then let go: for tests that take a norm away again."""
        claims = [self.proven.pop(key) for key, claim in list(self.proven.items()) if claim.norm == norm]
        return conflicts(claims, self.refuted.values())

    def keep(self, kept: dict[tuple[Any, ...], Any], record: Proven | Refuted) -> None:
        """Each once, whatever test met it first."""
        kept.setdefault(dataclasses.astuple(record)[:-1], record)

    def watch(self) -> None:
        """Listen to the judge and to the confirmation, once certmix itself has been imported."""
        if "certmix" in sys.modules and not self.watching:
            self.watching = True
            self._judge(importlib.import_module("certmix.provers.judging"))
            self._confirmation(importlib.import_module("certmix.attacks.confirm"))

    def _judge(self, module: Any) -> None:
        original: Callable[..., Any] = module.JudgeSession.verdict

        def verdict(session: Any, line: bytes, value: np.ndarray) -> Any:
            answer = original(session, line, value)
            if isinstance(answer, module.Accepted):
                claim = module.parse.line(line, module.EVIDENCE).claim
                if claim.smoothing is None and claim.adaptive is None:
                    problem = Problem(
                        claim.robust, claim.standard, claim.alpha, claim.temperature, claim.predicted
                    )  # fmt: skip
                    center = np.asarray(value, dtype="<f4").tobytes()
                    self.keep(
                        self.proven, Proven(problem, center, claim.radius, claim.norm, claim.domain, self.test)
                    )  # fmt: skip
            return answer

        module.JudgeSession.verdict = verdict

    def _confirmation(self, module: Any) -> None:
        original: Callable[..., Any] = module.evaluate

        def evaluate(
            point: np.ndarray,
            standard: Any,
            robust: Any,
            alpha: float,
            temperature: float,
            y: int,
            adaptive: Any = None,
        ) -> Any:
            answer = original(point, standard, robust, alpha, temperature, y, adaptive)
            if isinstance(answer, module.Confirmed) and adaptive is None:
                digest = standard.sha256 if isinstance(standard, module.PlainNetwork) else None
                problem = Problem(robust.sha256, digest, float(alpha), float(temperature), int(y))
                center = np.asarray(point, dtype="<f4").tobytes()
                self.keep(self.refuted, Refuted(problem, center, self.test))
            return answer

        module.evaluate = evaluate
