"""Runs laws on a certifier within a time budget and reports what held and what broke."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity

from certmix.testing.laws import laws_of
from certmix.testing.laws.law import Counterexample, Law
from certmix.testing.protocol import Certifier, ProtocolError

Status = Literal["held", "broken", "warning", "no claims", "could not run"]
EVERY_HEALTH_CHECK: list[HealthCheck] = list(HealthCheck)  # type: ignore[arg-type]
EXAMPLES_PER_RUN = 25  # of Hypothesis: the clock is read in between


@dataclass(frozen=True, eq=False)
class LawResult:
    """What came of one law. points: how many points of claimed balls were attacked (draws, for sampling laws)."""

    law: Law
    status: Status
    examples: int
    claims: int
    points: int
    seconds: float
    broken: Counterexample | None
    crashes: int
    crash: str


@dataclass(frozen=True, eq=False)
class SuiteReport:
    """All laws of one certifier."""

    certifier: Certifier
    results: tuple[LawResult, ...]

    @property
    def exit_code(self) -> int:
        """0: every soundness law held; 1: one broke; 2: the certifier only raised under one of them."""
        if self.broken:
            return 1
        return 2 if any(r.status == "could not run" and r.law.kind == "soundness" for r in self.results) else 0

    @property
    def broken(self) -> list[LawResult]:
        """The soundness laws that broke."""
        return [r for r in self.results if r.status == "broken"]

    @property
    def points(self) -> int:
        """Attacked points in all."""
        return sum(r.points for r in self.results)


class _BrokenError(Exception):
    """Tells Hypothesis that the example breaks the law."""


@dataclass(eq=False)
class _Progress:
    """What one law's run has seen so far (the only mutable state here)."""

    law: Law
    certifier: Certifier
    seed: int
    examples: int = 0
    claims: int = 0
    points: int = 0
    crashes: int = 0
    crash: str = ""
    broken: Counterexample | None = None
    stop_at: float = 0.0
    malformed: ProtocolError | None = None

    def try_example(self, example: Any) -> None:
        """One trial; keeps the smallest counterexample and raises _BrokenError on one; keeps a malformed answer."""
        if time.monotonic() > self.stop_at or self.malformed is not None:
            return
        self.examples += 1
        try:
            trial = self.law.check(self.certifier, example, self.seed + self.examples)
        except ProtocolError as error:
            self.malformed = error
            return
        except NotImplementedError:
            return
        except Exception as error:  # noqa: BLE001  foreign code: any exception is "no answer", and is counted
            self.crashes += 1
            self.crash = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return
        self.claims += trial.claims
        self.points += trial.points
        if trial.broken is not None:
            if self.broken is None or trial.broken.size <= self.broken.size:
                self.broken = trial.broken
            raise _BrokenError


def run_law(
    law: Law, certifier: Certifier, seconds: float, seed: int, shrink_seconds: float, most_examples: int | None = None
) -> LawResult:
    """Try one law for at most `seconds`, in rounds; on a counterexample shrink for at most `shrink_seconds`.

    Raises ProtocolError where an answer has the wrong form.
    """
    start = time.monotonic()
    progress = _Progress(law, certifier, seed)
    strategy = law.strategy(certifier)
    round_number = 0
    while progress.broken is None and (round_number == 0 or time.monotonic() < start + seconds):
        if most_examples is not None and progress.examples >= most_examples:
            break
        progress.stop_at = start + max(seconds, 0.5)
        before = progress.examples
        _one_round(progress, strategy, seed + 7919 * round_number, shrink_seconds)
        round_number += 1
        if progress.examples == before:
            break
    return _result(progress, time.monotonic() - start)


def _one_round(progress: _Progress, strategy: Any, seed: int, shrink_seconds: float) -> None:
    phases = (Phase.generate, Phase.shrink) if shrink_seconds > 0 else (Phase.generate,)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES_PER_RUN, deadline=None, database=None, phases=phases,
        suppress_health_check=EVERY_HEALTH_CHECK, report_multiple_bugs=False,
        verbosity=Verbosity.quiet, print_blob=False,
    )  # fmt: skip
    @hypothesis.given(strategy)
    def trial(example: Any) -> None:
        was_broken = progress.broken is not None
        try:
            progress.try_example(example)
        except _BrokenError:
            if not was_broken:
                progress.stop_at = time.monotonic() + shrink_seconds
            raise

    try:
        trial()
    except Exception as error:
        # Hypothesis ends a round with _BrokenError, or with Flaky when the shrinking clock ran out.
        if progress.broken is None:
            raise RuntimeError(f"law {progress.law.name} failed to run: {error}") from error
    if progress.malformed is not None:
        raise progress.malformed


def _result(progress: _Progress, seconds: float) -> LawResult:
    p = progress
    if p.broken is not None:
        status: Status = "broken" if p.law.kind == "soundness" else "warning"
    elif p.crashes and p.crashes == p.examples:
        status = "could not run"
    else:
        status = "held" if p.claims else "no claims"
    return LawResult(p.law, status, p.examples, p.claims, p.points, seconds, p.broken, p.crashes, p.crash)


def run(
    certifier: Certifier,
    budget: float = 300.0,
    seed: int = 0,
    only: Sequence[str] = (),
    quality: bool = True,
    stop_at_first: bool = False,
    progress: Callable[[LawResult], None] | None = None,
) -> SuiteReport:
    """Try every law of the certifier's protocol within `budget` seconds in all.

    A tenth of the budget goes to quality laws; what a law leaves over goes to those after it. only: names of the
    laws to run. stop_at_first: return at the first broken soundness law, without shrinking. progress: called with
    each result. Raises ProtocolError where an answer has the wrong form, UsageError for an unknown law name.
    """
    laws = [law for law in laws_of(certifier.protocol, only) if certifier.takes(law.needs) or not law.needs]
    sound = [law for law in laws if law.kind == "soundness"]
    soft = [law for law in laws if law.kind == "quality"] if quality else []
    end = time.monotonic() + budget
    reserve = 0.1 * budget if soft and sound else 0.0
    results: list[LawResult] = []
    for k, law in enumerate([*sound, *soft]):
        seconds_left = end - time.monotonic() - (reserve if k < len(sound) else 0.0)
        share = max(seconds_left, 0.0) / (len(sound) - k if k < len(sound) else len(sound) + len(soft) - k)
        shrink = 0.0 if stop_at_first else min(15.0, 0.05 * budget)
        result = run_law(law, certifier, share, seed + 101 * k, shrink)
        results.append(result)
        if progress is not None:
            progress(result)
        if stop_at_first and result.status == "broken":
            break
    return SuiteReport(certifier, tuple(results))
