"""One point of a sweep as a run of certificates: stored bounds propose, the judge disposes, nothing is bounded anew."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certmix.commands.audit import Audit
from certmix.errors import UsageError
from certmix.provers.judging import Bench
from certmix.provers.margin.bounder import ROUNDING, Bounder, Finding
from certmix.provers.margin.prover import MarginProver
from certmix.provers.problem import Problem
from certmix.provers.refute import refute
from certmix.records.curves import Curves
from certmix.records.outcomes import Outcome
from certmix.runs.finished import FinishedRun
from certmix.runs.store import Store
from certmix.settings import Settings
from certmix.theorems.margin import certifies, required_margin
from verifiers.engine import LogitBounds


@dataclass(frozen=True, eq=False)
class Stored:
    """Curves, and their margins at one temperature."""

    curves: Curves
    margins: np.ndarray

    def best(self, index: int, radius: float, predicted: int) -> int | None:
        """The observation with the largest margin among those on balls that hold this one; None: none is known."""
        rows = self.rows(index, predicted)
        rows = rows[self.curves.radius[rows] >= radius]
        return int(rows[np.argmax(self.margins[rows])]) if len(rows) else None

    def largest(self, index: int, alpha: float, predicted: int) -> float:
        """The largest radius certified at alpha; 0 if there is none."""
        rows = self.rows(index, predicted)
        good = certifies(torch.from_numpy(self.margins[rows]), alpha).numpy()
        return float(self.curves.radius[rows[good]].max(initial=0.0))

    def rows(self, index: int, predicted: int) -> np.ndarray:
        rows = self.curves.rows(index)
        return rows[self.curves.predicted[rows] == predicted]


class StoredBounder(Bounder):
    """Answers from curves alone."""

    def __init__(self, problem: Problem, predicted: Tensor, stored: Stored) -> None:
        super().__init__(problem, predicted)
        self.stored = stored

    def find(self, rows: Tensor, radii: Tensor, witness: bool) -> Finding:
        s = self.problem.settings
        bounds = self.observe(rows, radii, witness)
        found = [self._best(row, r) for row, r in zip(rows.tolist(), radii.tolist(), strict=True)]
        margins = torch.tensor([-1.0 if k is None else self.stored.margins[k] for k in found], dtype=torch.float64)
        slack = margins - required_margin(s.alpha)
        return Finding(slack, slack > (-ROUNDING if s.evidence == "network" else 0.0), bounds, None)

    def observe(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        curves, k = self.stored.curves, self.problem.network.classes
        lower, upper = (torch.full((len(rows), k), v, dtype=torch.float64) for v in (-torch.inf, torch.inf))
        hints: list[bytes | None] = []
        for n, (row, radius) in enumerate(zip(rows.tolist(), radii.tolist(), strict=True)):
            best = self._best(row, radius)
            if best is not None:
                lower[n], upper[n] = torch.from_numpy(curves.lower[best]), torch.from_numpy(curves.upper[best])
            hints.append(curves.hints(self.problem.indices[row], radius) if witness else None)
        return LogitBounds(lower, upper, tuple(hints))

    def known_radii(self, rows: Tensor) -> Tensor:
        alpha = self.problem.settings.alpha
        radii = [self.stored.largest(self.problem.indices[r], alpha, int(self.predicted[r])) for r in rows.tolist()]
        return torch.tensor(radii, dtype=torch.float64)

    def _best(self, row: int, radius: float) -> int | None:
        return self.stored.best(self.problem.indices[row], radius, int(self.predicted[row]))


@dataclass(frozen=True, eq=False)
class StoredProver:
    """A prover (certmix.provers.certify.Prover) for the inputs of one run."""

    stored: Stored

    def __call__(self, problem: Problem, judge: Bench) -> list[Outcome]:
        def bounder(own: Problem, predicted: Tensor) -> Bounder:
            return StoredBounder(own, predicted, self.stored)

        return refute(problem, MarginProver(problem, judge, bounder).prove())


def certify_point(
    found: FinishedRun, alpha: float, temperature: float, radii: tuple[float, ...] | None, out: Path
) -> int:
    """Write the run at (alpha, T) to `out`; the exit code of the audit. radii: one fixed radius, or None: the run's.

    Raises UsageError: alpha <= 1/2 (curves know h alone), several radii, a folder that is not new.
    """
    if alpha <= 0.5:
        raise UsageError(f"curves bound the robust model alone, which certifies alpha > 1/2 only, got {alpha}")
    if radii is not None and len(radii) != 1:
        raise UsageError(f"--certify takes one radius, got {len(radii)}")
    radius = found.settings.radius if radii is None else radii[0]
    settings = point_settings(found.settings, alpha, temperature, radius)
    stored = Stored(found.curves, found.curves.margins(temperature))
    audit = Audit(found.standard, found.robust, found.data, settings, Store(out), StoredProver(stored))
    return audit.run()


def point_settings(settings: Settings, alpha: float, temperature: float, radius: float | None) -> Settings:
    """The audit's settings at another point."""
    return dataclasses.replace(
        settings, alpha=alpha, temperature=temperature, radius=radius, use_standard=False, curves=False
    )
