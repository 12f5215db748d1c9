"""Every alpha and temperature from the bounds that one run kept: certified, clean and attacked shares."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.attacks import Confirmed, confirm
from certmix.attacks.pool import AttackPool, Logits, logits_of, make_pool
from certmix.formatting import exact
from certmix.runs.finished import FinishedRun
from certmix.theorems.margin import certifies, required_margin

LEMMA = ("network_margin", "branched_margin", "engine_margin")  # rules that prove the margin of Lemma 3.2
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """Shares in percent of all inputs at one (alpha, T, radius). certified: a certificate follows from the stored
    bounds; certified_correct: and its class is the label. attacked: an upper limit of robust accuracy; None: not run.
    """

    alpha: float
    temperature: float
    radius: float
    clean: float
    certified: float
    certified_correct: float
    attacked: float | None

    def in_words(self) -> str:
        return f"alpha {exact(self.alpha)}, temperature {exact(self.temperature)}"


# ---------------------------------------------------------------- certified: curves, and the audit's own certificates


@dataclass(frozen=True, eq=False)
class Margins:
    """margin: (N,) the best lower bound of min_i h_y - h_i known on the ball, -1 if none. predicted: (N,) its y."""

    margin: NDArray[np.float64]
    predicted: NDArray[np.int64]

    def certified(self, alpha: float) -> Bools:
        """(N,): Lemma 3.2 follows at alpha."""
        return certifies(torch.from_numpy(self.margin), alpha).numpy()


def margins_at(found: FinishedRun, temperature: float, radii: tuple[float, ...]) -> list[Margins]:
    """Per radius. A bound on a ball holds in every smaller one, and a certificate at alpha says that the margin
    exceeds (1 - alpha)/alpha (docs/maths.md 7). Ensures: falls with the radius; no audited certificate is lost."""
    archive, n = found.archive, len(found.data)
    margins = archive.margins(temperature)
    certificates = [r for r in found.certified if r["evidence"]["rule"] in LEMMA and r["temperature"] == temperature]
    result: list[Margins] = []
    for radius in radii:
        margins_there = Margins(np.full(n, -1.0), np.zeros(n, dtype=np.int64))
        for k in np.flatnonzero(archive.radius >= radius):
            _raise(margins_there, int(archive.index[k]), float(margins[k]), int(archive.predicted[k]))
        for r in certificates:
            if r["radius"] >= radius:
                _raise(margins_there, r["index"], just_enough(r["alpha"]), r["predicted"])
        result.append(margins_there)
    return result


def _raise(known: Margins, index: int, margin: float, predicted: int) -> None:
    if margin > known.margin[index]:
        known.margin[index], known.predicted[index] = margin, predicted


def just_enough(alpha: float) -> float:
    """A margin that certifies at alpha and, but for rounding, at none below. Requires: alpha > 1/2."""
    margin = required_margin(alpha)
    while not bool(certifies(torch.tensor([margin], dtype=torch.float64), alpha)):
        margin = math.nextafter(margin, 2.0)
    return margin


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Swept:
    """All points, and what the pool refuted (nothing, or something is wrong)."""

    points: tuple[Point, ...]
    refuted: tuple[str, ...]


def sweep(
    found: FinishedRun,
    alphas: tuple[float, ...],
    temperatures: tuple[float, ...],
    radii: tuple[float, ...],
    attack_steps: int,
) -> Swept:
    """Every (alpha, T, radius)."""
    found.data.require_labels("a sweep compares accuracies")
    inputs, labels = torch.from_numpy(found.data.inputs), torch.from_numpy(found.data.labels)
    clean = logits_of(found.standard.module, found.robust.module, inputs)
    pools = [_pool(found, inputs, labels, alphas, temperatures, r, attack_steps) for r in radii]
    points: list[Point] = []
    refuted: list[str] = []
    for temperature in temperatures:
        for radius, margins, pool in zip(radii, margins_at(found, temperature, radii), pools, strict=True):
            for alpha in alphas:
                points.append(_point(clean, labels, margins, pool, alpha, temperature, radius))
                refuted += _refuted(found, margins, pool, alpha, temperature, radius)
    return Swept(tuple(points), tuple(refuted))


def _pool(
    found: FinishedRun,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    alphas: tuple[float, ...],
    temperatures: tuple[float, ...],
    radius: float,
    steps: int,
) -> AttackPool | None:
    if not steps:
        return None
    s, n = found.settings, len(alphas)
    few = (alphas[k] for k in (n // 6, n // 2, n - 1 - n // 6))
    corners = sorted(set(itertools.product(few, (temperatures[0], temperatures[-1]))))
    return make_pool(
        found.standard.module, found.robust.module, corners, inputs, labels, s.norm, radius, s.domain, steps, s.seed
    )


def _point(
    clean: Logits,
    labels: torch.Tensor,
    margins: Margins,
    pool: AttackPool | None,
    alpha: float,
    temperature: float,
    radius: float,
) -> Point:
    right = clean.correct(labels, alpha, temperature)
    certified = margins.certified(alpha)
    attacked = None if pool is None else _percent((right & pool.survived(labels, alpha, temperature)).numpy())
    correct = certified & (margins.predicted == labels.numpy())
    return Point(alpha, temperature, radius, _percent(right.numpy()), _percent(certified), _percent(correct), attacked)


def _percent(hits: Bools) -> float:
    return 100.0 * float(np.mean(hits))


def _refuted(
    found: FinishedRun, margins: Margins, pool: AttackPool | None, alpha: float, temperature: float, radius: float
) -> list[str]:
    """Points of the pool at which a mix, rigorously evaluated, leaves the class its bounds certify."""
    if pool is None or found.robust.network is None:
        return []
    certified, y, s = margins.certified(alpha), torch.from_numpy(margins.predicted), found.settings
    result: list[str] = []
    for points, logits in zip(pool.points, pool.logits, strict=True):
        leaves_class = ~logits.correct(y, alpha, temperature).numpy()
        for k in np.flatnonzero(certified & leaves_class).tolist():
            answer = confirm(
                points[k].numpy(), found.data.inputs[k], radius, s.norm, s.domain,
                found.standard.network or found.standard.module, found.robust.network, alpha, temperature, int(y[k]),
            )  # fmt: skip
            if isinstance(answer, Confirmed):
                where = f"alpha {alpha!r}, temperature {temperature!r}, radius {radius!r}"
                result.append(f"input {k}, {where}: class {answer.rival} beats the certified class {int(y[k])}")
    return result
