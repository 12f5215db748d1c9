"""Table 1: the gap between the two largest probabilities, for correct and wrong predictions, clean and attacked."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.worst import transfer
from certmix.experiments.output import Column, canvas, on_balls, save, show, write_json
from certmix.experiments.pair import Pair
from certmix.formatting import nearest

NAME = "confidence"
NAMES = {"standard": "g", "robust": "h"}


MEAN: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "black", "markeredgecolor": "black"}
SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles of the figure's boxes


@dataclass(frozen=True)
class Gap:
    """mean, median: of the gap over `count` inputs, None where there are none. quantiles: at `SHOWN`, or ()."""

    model: str
    inputs: str
    prediction: str
    count: int
    mean: float | None
    median: float | None
    quantiles: tuple[float, ...] = ()


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
    quantiles = tuple(float(exact.quantile(q)) for q in SHOWN)
    return Gap(model, kind, prediction, len(values), float(exact.mean()), quantiles[2], quantiles)


def run(pair: Pair, temperature: float, out: Path) -> None:
    """Measure, print and draw; writes `out`/confidence.json and .png."""
    table = measure(pair, temperature)
    settings = {**pair.settings(), "temperature": temperature, "quantiles_at": SHOWN}
    _show(table, settings)
    draw(table, settings, out / f"{NAME}.png")
    columns = ("model", "inputs", "prediction", "count", "mean", "median", "quantiles")
    rows = [[getattr(g, c) for c in columns] for g in table]
    write_json(out, NAME, settings, columns, rows)


def _title(settings: Mapping[str, Any]) -> str:
    return f"gap between the two largest probabilities, {on_balls(settings)}"


def _show(table: Sequence[Gap], settings: Mapping[str, Any]) -> None:
    """The paper's Table 1: clean and attacked, each 2 × 2, means with medians in brackets."""
    columns = [Column("model"), Column("correct"), Column("incorrect")]
    for kind, heading in (("clean", "clean instances"), ("attacked", f"PGD-{settings['steps']} instances")):
        rows = [
            [name, *(_in_words(g) for g in table if (g.model, g.inputs) == (model, kind))]
            for model, name in NAMES.items()
        ]
        show(f"{_title(settings)}\n{heading}: mean (median; inputs)", columns, rows)


def _in_words(gap: Gap) -> str:
    if gap.mean is None or gap.median is None:
        return "— (0 inputs)"
    return f"{nearest(gap.mean, 3)} ({nearest(gap.median, 3)}; {gap.count})"


def draw(table: Sequence[Gap], settings: Mapping[str, Any], path: Path) -> None:
    """Per group a box from quartile to quartile with the median, whiskers to 5 and 95 %, a diamond at the mean."""
    figure, both = canvas(2, 3.2)
    for axes, (kind, heading) in zip(both, (("clean", "clean"), ("attacked", f"PGD-{settings['steps']}")), strict=True):
        groups = [g for g in table if g.inputs == kind]
        boxes = [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), g.quantiles, strict=True), mean=g.mean)
            for g in groups
            if g.mean is not None
        ]
        places = [k for k, g in enumerate(groups) if g.mean is not None]
        if boxes:
            axes.bxp(boxes, positions=places, widths=0.5, showfliers=False, showmeans=True, meanprops=MEAN)
        words = [
            f"{NAMES[g.model]}\n{'incorrect' if g.prediction == 'wrong' else g.prediction}\n({g.count})" for g in groups
        ]
        axes.set_xticks(range(len(groups)), words, fontsize=8)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(f"{heading} instances", fontsize=9)
    both[0].set_ylabel("gap")
    figure.supxlabel("box: quartiles and median; whiskers: 5 and 95 %; diamond: mean", fontsize=8)
    save(figure, path, _title(settings))
