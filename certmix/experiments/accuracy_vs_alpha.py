"""Figure 2: accuracy of the mix as alpha runs — clean, under STD, ROB and MIX attacks, and the worst of all."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from certmix.attacks.ball import Ball
from certmix.attacks.pgd import Candidates
from certmix.attacks.worst import members_here, mix_attack, transfer, worst
from certmix.experiments.output import Column, Line, Panel, on_balls, plot, shares, write
from certmix.experiments.pair import Pair, percent
from certmix.formatting import exact, percent_nearest, percent_up
from certmix.mixing.mixed import MixedClassifier
from certmix.mixing.parameters import check_alpha

NAME = "accuracy-vs-alpha"
LEGEND = {"clean": "clean", "std": "STD attack", "rob": "ROB attack", "mix": "MIX attack", "worst": "worst case"}
STYLES = {"clean": "o-", "std": "^--", "rob": "v--", "mix": "s-", "worst": "D-"}
ALPHAS = (0.0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Accuracies:
    """Percent of all inputs. std, rob: PGD on g, on h, transferred. mix: cross-entropy PGD on the mix (the paper's
    adaptive attack). worst: survivors of every attack, the mix-aware ones included."""

    alpha: float
    clean: float
    std: float
    rob: float
    mix: float
    worst: float


def measure(pair: Pair, alphas: Sequence[float], temperature: float) -> list[Accuracies]:
    """The curves of Figure 2. The transferred points do not depend on alpha: they are computed once."""
    of_g = pair.gather(lambda ball, labels: transfer(pair.standard, ball, labels, pair.budget))
    of_h = pair.gather(lambda ball, labels: transfer(pair.robust, ball, labels, pair.budget))
    return [_at(pair, MixedClassifier(pair.standard, pair.robust, a, temperature), of_g, of_h) for a in alphas]


def _at(pair: Pair, mix: MixedClassifier, of_g: Tensor, of_h: Tensor) -> Accuracies:
    clean = pair.correct(mix)
    std, rob = (clean & (pair.predictions(mix, points) == pair.labels) for points in (of_g, of_h))
    mixed = pair.surviving(clean, functools.partial(_mix_attack, pair, mix))
    survivors = pair.surviving(std & rob & mixed, functools.partial(_rest, pair, mix))
    return Accuracies(mix.alpha, percent(clean), percent(std), percent(rob), percent(mixed), percent(survivors))


def _mix_attack(pair: Pair, mix: MixedClassifier, ball: Ball, labels: Tensor) -> Candidates:
    return mix_attack(mix, ball, labels, pair.budget)


def _rest(pair: Pair, mix: MixedClassifier, ball: Ball, labels: Tensor) -> Candidates:
    """All of the worst case but the paper's three."""
    members = [name for name in members_here() if name not in ("std", "rob", "mix")]
    return worst(mix, ball, labels, pair.budget, members)


def run(pair: Pair, given: Sequence[float], temperature: float, out: Path) -> None:
    """Measure, print and draw; writes `out`/accuracy-vs-alpha.json and .png. Raises UsageError."""
    alphas = [check_alpha(a) for a in given]
    accuracies = measure(pair, alphas, temperature)
    attacked = ("std", "rob", "mix", "worst")  # upper limits of robust accuracy
    columns = (
        Column("alpha", exact),
        shares("clean", percent_nearest),
        *(shares(name, percent_up) for name in attacked),
    )
    rows = [[getattr(row, c.name) for c in columns] for row in accuracies]
    settings = {**pair.settings(), "temperature": temperature}
    write(out, NAME, settings, draw(accuracies, settings, out / f"{NAME}.png"), columns, rows)


def draw(accuracies: Sequence[Accuracies], settings: Mapping[str, Any], path: Path) -> str:
    """The figure, of accuracies measured with these settings of a pair; returns its title."""
    alphas = tuple(r.alpha for r in accuracies)
    lines = [Line(LEGEND[n], alphas, tuple(getattr(r, n) for r in accuracies), STYLES[n]) for n in LEGEND]
    title = f"accuracy of the mix, {on_balls(settings)}"
    plot(path, [Panel("accuracy (%)", tuple(lines))], "α", title, columns=3)
    return title
