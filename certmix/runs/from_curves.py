"""One point of a sweep as a run of certificates: stored bounds propose, the judge disposes, nothing is bounded anew."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certmix.errors import UsageError
from certmix.provers.limits import with_attacks
from certmix.provers.margin.oracle import FLOAT32_LACK, MarginBound, MarginOracle
from certmix.provers.margin.prover import MarginProver
from certmix.provers.problem import ProverProblem
from certmix.provers.refute import refute
from certmix.provers.session import Session
from certmix.records.bound_archive import BoundArchive
from certmix.records.outcomes import Outcome
from certmix.runs.audit import Audit
from certmix.runs.finished import FinishedRun
from certmix.runs.listener import Listener
from certmix.runs.store import Store
from certmix.settings import Settings
from certmix.theorems.margin import certifies, required_margin
from verifiers.engine import LogitBounds


@dataclass(frozen=True, eq=False)
class StoredMargins:
    """An archive of bounds, and their margins (M,) at one temperature."""

    archive: BoundArchive
    margins: np.ndarray

    def best(self, index: int, radius: float, predicted: int) -> int | None:
        """Position of the largest margin among those on balls that hold this one; None: none is known."""
        positions = self._of_input(index, predicted)
        positions = positions[self.archive.radius[positions] >= radius]
        return int(positions[np.argmax(self.margins[positions])]) if len(positions) else None

    def largest(self, index: int, alpha: float, predicted: int) -> float:
        """The largest radius certified at alpha; 0 if there is none."""
        positions = self._of_input(index, predicted)
        certified = certifies(torch.from_numpy(self.margins[positions]), alpha).numpy()
        return float(self.archive.radius[positions[certified]].max(initial=0.0))

    def _of_input(self, index: int, predicted: int) -> np.ndarray:
        positions = self.archive.of_input(index)
        return positions[self.archive.predicted[positions] == predicted]


class StoredOracle(MarginOracle):
    """Answers from an archive of bounds alone."""

    def __init__(self, problem: ProverProblem, predicted: Tensor, stored: StoredMargins) -> None:
        super().__init__(problem, predicted)
        self.stored = stored

    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        s = self.problem.settings
        h = self.bound_robust(inputs, radii, witness)
        best = [self._best(k, radius) for k, radius in zip(inputs.tolist(), radii.tolist(), strict=True)]
        margins = torch.tensor([-1.0 if k is None else self.stored.margins[k] for k in best], dtype=torch.float64)
        slack = margins - required_margin(s.alpha)
        alone = torch.ones_like(slack, dtype=torch.bool)
        return MarginBound(slack, slack > (-FLOAT32_LACK if s.evidence == "network" else 0.0), h, None, alone)

    def bound_robust(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        archive, classes = self.stored.archive, self.problem.network.classes
        lower, upper = (torch.full((len(inputs), classes), v, dtype=torch.float64) for v in (-torch.inf, torch.inf))
        witnesses: list[bytes | None] = []
        for n, (batch_index, radius) in enumerate(zip(inputs.tolist(), radii.tolist(), strict=True)):
            best = self._best(batch_index, radius)
            if best is not None:
                lower[n], upper[n] = torch.from_numpy(archive.lower[best]), torch.from_numpy(archive.upper[best])
            index = self.problem.indices[batch_index]
            witnesses.append(archive.nearest_witness(index, radius) if witness else None)
        return LogitBounds(lower, upper, tuple(witnesses))

    def known_radii(self, inputs: Tensor) -> Tensor:
        alpha = self.problem.settings.alpha
        radii = [self.stored.largest(self.problem.indices[k], alpha, int(self.predicted[k])) for k in inputs.tolist()]
        return torch.tensor(radii, dtype=torch.float64)

    def _best(self, batch_index: int, radius: float) -> int | None:
        return self.stored.best(self.problem.indices[batch_index], radius, int(self.predicted[batch_index]))


@dataclass(frozen=True, eq=False)
class StoredProver:
    """A prover (certmix.provers.certify.Prover) for the inputs of one run."""

    stored: StoredMargins

    def __call__(self, problem: ProverProblem, session: Session) -> list[Outcome]:
        def make_oracle(problem: ProverProblem, predicted: Tensor) -> MarginOracle:
            return StoredOracle(problem, predicted, self.stored)

        return with_attacks(problem, refute(problem, MarginProver(problem, session.judge, make_oracle).prove()))


def certify_point(
    found: FinishedRun,
    alpha: float,
    temperature: float,
    radii: tuple[float, ...] | None,
    out: Path,
    listener: Listener | None = None,
) -> int:
    """Write the run at (alpha, T) to `out`; the exit code of the audit. radii: one fixed radius, or None: the run's.
    listener: is told how it goes.

    Raises UsageError: alpha <= 1/2 (curves know h alone), several radii, a folder that is not new.
    """
    if alpha <= 0.5:
        raise UsageError(f"curves bound the robust model alone, which certifies alpha > 1/2 only, got {alpha}")
    if radii is not None and len(radii) != 1:
        raise UsageError(f"--certify takes one radius, got {len(radii)}")
    radius = found.settings.radius if radii is None else radii[0]
    settings = point_settings(found.settings, alpha, temperature, radius)
    stored = StoredMargins(found.archive, found.archive.margins(temperature))
    audit = Audit(
        found.standard, found.robust, found.data, settings, Store(out), StoredProver(stored),
        listener=listener or Listener(),
    )  # fmt: skip
    return audit.run()


def point_settings(settings: Settings, alpha: float, temperature: float, radius: float | None) -> Settings:
    """The audit's settings at another point."""
    return dataclasses.replace(
        settings, alpha=alpha, temperature=temperature, radius=radius, use_standard=False, curves=False
    )
