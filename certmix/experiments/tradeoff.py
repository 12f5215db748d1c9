"""Figures 1 and 4: clean against attacked accuracy as gamma runs, for every R_i, over probabilities and logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, Loss
from certmix.attacks.pgd import Schedule, pgd
from certmix.attacks.worst import transfer
from certmix.errors import UsageError
from certmix.experiments.output import Column, Line, plot, shares, write
from certmix.experiments.pair import Pair, percent
from certmix.formatting import lower, percent_nearest, percent_up
from certmix.mixing.general import OUTPUTS, SCALINGS, GeneralMixedClassifier, Output, Scaling
from certmix.mixing.mixed import MixedClassifier

NAME = "tradeoff"
GAMMAS = (0.0, 0.1, 0.3, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, math.inf)
FLOOR_ALPHAS = (0.5, 0.6, 0.75, 0.9)
LOSSES_RUN: tuple[Loss, ...] = ("cross_entropy", "margin")


@dataclass(frozen=True)
class TradeoffPoint:
    """Percent of all inputs. attacked: survivors of PGD along the end-to-end gradient, for every loss tried. worst:
    survivors of these and of points made without that gradient, which a scaling R_i can mask: PGD on g and on h,
    and the floor attack on Eq. 4 at a few alphas."""

    scaling: Scaling
    output: Output
    gamma: float
    clean: float
    attacked: float
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
    return points


def _transfer(model: nn.Module, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    return transfer(model, ball, labels, pair.budget)


def _floor(objective: FloorObjective, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    schedule = Schedule(pair.budget.steps, random_start=False, keep_going=True, seed=pair.budget.seed)
    return pgd(objective, ball, labels, schedule).points


def _point(pair: Pair, foreign: Sequence[Tensor], scaling: Scaling, output: Output, gamma: float) -> TradeoffPoint:
    mix = GeneralMixedClassifier(pair.standard, pair.robust, gamma, scaling, output, pair.norm)
    clean = pair.correct(mix)
    survived = clean.clone()
    for loss in LOSSES_RUN:
        survived &= ~pair.gather(lambda ball, labels, loss=loss: _attack(mix, loss, ball, labels, pair))
    worst = survived.clone()
    for points in foreign:
        worst &= pair.predictions(mix, points) == pair.labels
    return TradeoffPoint(scaling, output, gamma, percent(clean), percent(survived), percent(worst))


def _attack(mix: GeneralMixedClassifier, loss: Loss, ball: Ball, labels: Tensor, pair: Pair) -> Tensor:
    step = "fixed" if loss == "cross_entropy" else "adaptive"
    schedule = Schedule(pair.budget.steps, pair.budget.restarts, step, seed=pair.budget.seed)
    return pgd(ClassifierObjective(mix, loss), ball, labels, schedule).found


def run(pair: Pair, gammas: Sequence[float], out: Path) -> None:
    """Measure, print and draw; writes `out`/tradeoff.json and .png. Raises UsageError."""
    bad = [gamma for gamma in gammas if not gamma >= 0]
    if bad:
        raise UsageError(f"gammas must be in [0, inf], got {bad[0]}")
    points = measure(pair, gammas)
    title = f"trade-off, {pair.norm} {lower(pair.radius)}, {len(pair.inputs)} inputs"
    curves = [(s, o) for o in OUTPUTS for s in SCALINGS]
    lines = [
        Line(
            f"{s}, {o}",
            tuple(p.clean for p in points if (p.scaling, p.output) == (s, o)),
            tuple(p.worst for p in points if (p.scaling, p.output) == (s, o)),
            "o-" if o == "probabilities" else "x--",
        )
        for s, o in curves
    ]
    plot(out / f"{NAME}.png", lines, "clean accuracy (%)", "worst-case accuracy (%)", title)
    rows = [[f"{p.scaling}, {p.output}", str(p.gamma), p.clean, p.attacked, p.worst] for p in points]
    attacked = (shares(name, percent_up) for name in ("attacked", "worst"))  # upper limits of robust accuracy
    columns = (Column("mix"), Column("gamma"), shares("clean", percent_nearest), *attacked)
    write(out, NAME, pair.settings(), title, columns, rows)
