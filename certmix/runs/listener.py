"""What a run tells while it is made: values, for whoever renders them. Nothing in this room prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certmix.provers.problem import Pursued
from certmix.runs.cross_check import CrossCheck


@dataclass(frozen=True)
class Before:
    """Before anything is proven. accuracies: of each model on the inputs, in percent; smoothed: h will be, and is not
    yet. doubts: what looks like a mistake, a sentence each; notes: what is as it should be, and worth knowing."""

    inputs: int
    accuracies: dict[str, float]
    smoothed: bool
    doubts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class After:
    """A run as a session leaves it. missing: of its inputs, those that other shards are to prove; with 0 it is
    finished. proven: of the `session` inputs that this session took up. attackable, open: of those without a
    certificate; None where nothing was attacked. cost: the largest relative part of a proposed largest radius that the
    judge did not accept; None where there is none. compared: the engines, where both were asked for."""

    path: Path
    inputs: int
    missing: int
    certified: int
    resumed: bool
    session: int
    proven: int
    attackable: int | None
    open: int | None
    cost: float | None
    compared: CrossCheck | None = None


@dataclass(frozen=True)
class SoFar:
    """What became of the inputs that this session decided: certified, attackable (an attack is confirmed, and there is
    no certificate), and the others."""

    certified: int = 0
    attackable: int = 0
    open: int = 0

    def after(self, certified: int, attackable: int, decided: int) -> SoFar:
        """With the `decided` inputs of one more batch."""
        still_open = decided - certified - attackable
        return SoFar(self.certified + certified, self.attackable + attackable, self.open + still_open)


class Listener:
    """Hears of a run, and says nothing: what renders overrides what it renders."""

    def before(self, found: Before) -> None:
        """Once, at the start."""

    def progress(self, done: int, total: int, so_far: SoFar | None = None) -> None:
        """Inputs decided; called at the start and after each batch. so_far: None where nothing is certified."""

    def pursued(self, how: Pursued) -> None:
        """Now and then while one input is branched on, in this process."""

    def refuted(self, index: int, advice: str, saved: Path) -> None:
        """An attack refuted a certificate; saved: input and counterexample."""

    def after(self, found: After) -> None:
        """Once, when all is written."""

    def stopped(self) -> None:
        """No more is told, however the run ended."""
