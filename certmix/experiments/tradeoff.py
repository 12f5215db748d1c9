"""Figures 1 and 4: clean against attacked accuracy as gamma runs, for every R_i, over probabilities and logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, Loss
from certmix.attacks.pgd import Candidates, Schedule, pgd
from certmix.attacks.worst import ensemble_attack, members_here, transfer
from certmix.errors import UsageError
from certmix.experiments.output import COLORS, Column, Line, Mark, Panel, on_balls, plot, shares, write
from certmix.experiments.pair import Pair, percent
from certmix.formatting import percent_nearest, percent_up
from certmix.mixing.general import OUTPUTS, SCALINGS, GeneralMixedClassifier, Output, Scaling
from certmix.mixing.mixed import MixedClassifier
from certmix.models.runtime import differentiable

NAME = "tradeoff"
GAMMAS = (0.0, 0.1, 0.3, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, math.inf)
FLOOR_ALPHAS = (0.5, 0.6, 0.75, 0.9)
RATIOS: dict[Scaling, str] = {
    "one": r"$R_i=1$",
    "gradient": r"$R_i=\|\nabla g_i\|_{p*}$",
    "largest_gradient": r"$R_i=\|\nabla\,\mathrm{max}_j\,g_j\|_{p*}$",
    "gradient_ratio": r"$R_i=\|\nabla g_i\|_{p*}/\|\nabla h_i\|_{p*}$",
}


@dataclass(frozen=True)
class TradeoffPoint:
    """Percent of all inputs. pgd: survivors of the paper's attack, cross-entropy PGD along the end-to-end gradient.
    worst: survivors of that, of PGD on the margin, and of points made without that gradient, which a scaling R_i can
    mask: PGD on g and on h, the floor attack and, where it is installed, AutoAttack on Eq. 4 at a few alphas."""

    scaling: Scaling
    output: Output
    gamma: float
    clean: float
    pgd: float
    worst: float


def measure(
    pair: Pair, gammas: Sequence[float], scalings: Sequence[Scaling] = SCALINGS, outputs: Sequence[Output] = OUTPUTS
) -> list[TradeoffPoint]:
    """One point for every variant and gamma."""
    foreign = foreign_points(pair)
    return [_point(pair, foreign, s, o, gamma) for o in outputs for s in scalings for gamma in gammas]


def foreign_points(pair: Pair) -> list[Tensor]:
    """Attacked points (N, …) that depend on neither gamma nor R_i."""
    points = [pair.gather(functools.partial(_transfer, m, pair)) for m in (pair.standard, pair.robust)]
    for alpha in FLOOR_ALPHAS:
        objective = FloorObjective(MixedClassifier(pair.standard, pair.robust, alpha))
        points.append(pair.gather(functools.partial(_floor, objective, pair)))
        if "auto_attack" in members_here():
            points.append(pair.gather(functools.partial(_auto_attack, objective.mix, pair)))
    return points


def _transfer(model: nn.Module, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    return transfer(model, ball, labels, pair.budget)


def _auto_attack(mix: MixedClassifier, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    return ensemble_attack(mix, ball, labels, pair.budget).points


def _floor(objective: FloorObjective, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    schedule = Schedule(pair.budget.steps, random_start=False, keep_going=True, seed=pair.budget.seed)
    return pgd(objective, ball, labels, schedule).points


def _point(pair: Pair, foreign: Sequence[Tensor], scaling: Scaling, output: Output, gamma: float) -> TradeoffPoint:
    mix = GeneralMixedClassifier(pair.standard, pair.robust, gamma, scaling, output, pair.norm)
    clean = pair.correct(mix)
    survived = pair.surviving(clean, functools.partial(_attack, pair, mix, "cross_entropy"))
    worst = pair.surviving(survived, functools.partial(_attack, pair, mix, "margin"))
    for points in foreign:
        worst &= pair.predictions(mix, points) == pair.labels
    return TradeoffPoint(scaling, output, gamma, percent(clean), percent(survived), percent(worst))


def _attack(pair: Pair, mix: nn.Module, loss: Loss, ball: Ball, labels: Tensor) -> Candidates:
    step = "fixed" if loss == "cross_entropy" else "adaptive"
    schedule = Schedule(pair.budget.steps, pair.budget.restarts, step, seed=pair.budget.seed)
    return pgd(ClassifierObjective(mix, loss), ball, labels, schedule)


def run(pair: Pair, gammas: Sequence[float], out: Path) -> None:
    """Measure, print and draw; writes `out`/tradeoff.json and .png. Raises UsageError."""
    if not differentiable(pair.standard):
        raise UsageError(
            f"{pair.sources['standard']} has no plain network, and R_i are norms of g's gradients: "
            "give it as a file of torch"
        )
    bad = [gamma for gamma in gammas if not gamma >= 0]
    if bad:
        raise UsageError(f"gammas must be in [0, inf], got {bad[0]}")
    points = measure(pair, gammas)
    settings = pair.settings()
    title = draw(points, settings, out / f"{NAME}.png")
    rows = [[f"{p.scaling}, {p.output}", str(p.gamma), p.clean, p.pgd, p.worst] for p in points]
    attacked = (shares(name, percent_up) for name in ("pgd", "worst"))  # upper limits of robust accuracy
    columns = (Column("mix"), Column("gamma"), shares("clean", percent_nearest), *attacked)
    write(out, NAME, settings, title, columns, rows)


def draw(points: Sequence[TradeoffPoint], settings: Mapping[str, Any], path: Path) -> str:
    """The figure, of points measured with these settings of a pair; returns its title."""
    title = f"trade-off, {on_balls(settings)}"
    panels = [panel(points, f"PGD-{settings['steps']} accuracy (%)", "pgd"), panel(points, "worst case (%)", "worst")]
    plot(path, panels, "clean accuracy (%)", title)
    return title


def panel(points: Sequence[TradeoffPoint], y_label: str, attacked: Literal["pgd", "worst"]) -> Panel:
    """Every variant's curve over gamma; g and h, where all of Eq. 4's curve begins and ends, as marked points."""
    lines = [
        Line(
            f"{RATIOS[s]}, {o}",
            tuple(p.clean for p in points if (p.scaling, p.output) == (s, o)),
            tuple(getattr(p, attacked) for p in points if (p.scaling, p.output) == (s, o)),
            "o-" if o == "probabilities" else "x--",
            color=COLORS[SCALINGS.index(s) + len(SCALINGS) * OUTPUTS.index(o)],
        )
        for o in OUTPUTS
        for s in SCALINGS
    ]
    eq4 = [p for p in points if (p.scaling, p.output) == ("one", "probabilities")]
    marks = [
        Mark(name, p.clean, getattr(p, attacked), shape)
        for name, gamma, shape in (("g", 0.0, "*"), ("h", math.inf, "P"))
        for p in eq4
        if p.gamma == gamma
    ]
    return Panel(y_label, tuple(lines), tuple(marks))
