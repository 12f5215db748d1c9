"""Table 1: the gap between the two largest probabilities, for correct and wrong predictions, clean and attacked."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.worst import transfer
from certmix.experiments.output import Column, Line, plot, write
from certmix.experiments.pair import Pair
from certmix.formatting import lower, nearest

NAME = "confidence"


@dataclass(frozen=True)
class Gap:
    """mean, median: of the gap over `count` inputs; None where there are none."""

    model: str
    inputs: str
    prediction: str
    count: int
    mean: float | None
    median: float | None


def gaps(model: nn.Module, points: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(N,) gap between the two largest probabilities of softmax(temperature · logits), and (N,) the class."""
    with torch.no_grad():
        top = torch.softmax(temperature * model(points), 1).topk(2, dim=1)
    return top.values[:, 0] - top.values[:, 1], top.indices[:, 0]


def measure(pair: Pair, temperature: float = 1.0) -> list[Gap]:
    """Table 1. Attacked: the paper's PGD (cross-entropy, fixed steps, whole budget) on the model itself."""
    table: list[Gap] = []
    for name, model, t in (("standard", pair.standard, 1.0), ("robust", pair.robust, temperature)):
        attacked = pair.gather(functools.partial(_attacked, model, pair))
        for kind, points in (("clean", pair.inputs), ("attacked", attacked)):
            parts = [gaps(model, p, t) for p in points.split(pair.batch_size)]
            gap, predicted = (torch.cat(column) for column in zip(*parts, strict=True))
            right = predicted == pair.labels
            table += [_gap(name, kind, "correct", gap[right]), _gap(name, kind, "wrong", gap[~right])]
    return table


def _attacked(model: nn.Module, pair: Pair, ball: Ball, labels: Tensor) -> Tensor:
    return transfer(model, ball, labels, pair.budget)


def _gap(model: str, kind: str, prediction: str, values: Tensor) -> Gap:
    if len(values) == 0:
        return Gap(model, kind, prediction, 0, None, None)
    exact = values.double()
    return Gap(model, kind, prediction, len(values), float(exact.mean()), float(exact.quantile(0.5)))


def run(pair: Pair, temperature: float, out: Path) -> None:
    """Measure, print and draw; writes `out`/confidence.json and .png."""
    table = measure(pair, temperature)
    columns = ("model", "inputs", "prediction", "count", "mean", "median")
    title = f"gap between the two largest probabilities, {pair.norm} {lower(pair.radius)}"
    places = tuple(float(k) for k in range(4))
    lines = [
        Line(
            f"{model}: {inputs}, {statistic}",
            (places[0], places[1]) if inputs == "clean" else (places[2], places[3]),
            tuple(getattr(g, statistic) or 0.0 for g in table if (g.model, g.inputs) == (model, inputs)),
            "o-" if statistic == "mean" else "x--",
        )
        for model in ("standard", "robust")
        for inputs in ("clean", "attacked")
        for statistic in ("mean", "median")
    ]
    axis = "clean correct (0), clean wrong (1), attacked correct (2), attacked wrong (3)"
    plot(out / f"{NAME}.png", lines, axis, "gap", title)
    settings = {**pair.settings(), "temperature": temperature}
    rows = [[getattr(g, c) for c in columns] for g in table]
    write(out, NAME, settings, title, [Column(c, lambda gap: nearest(gap, 3)) for c in columns], rows)
