"""One pool of adversarial points for all mixes of a pair: an upper limit of every mix's robust accuracy.

Points that fool g, points that fool h, and points that fool the mix at a few (alpha, T), found once; every mix is then
evaluated on all of them. An attack on one mix alone may find more: the limit is no certificate and not the best attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, Objective
from certmix.mixing.mixed import MixedClassifier, log_mixture
from proofs_check.certificate import Norm

BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class Logits:
    """Of one set of N points: standard, robust (N, K), float32."""

    standard: Tensor
    robust: Tensor

    def correct(self, labels: Tensor, alpha: float, temperature: float) -> Tensor:
        """(N,) bool: the mix's first largest output is the label."""
        standard = torch.log_softmax(self.standard.double(), dim=1)
        robust = torch.log_softmax(temperature * self.robust.double(), dim=1)
        return log_mixture(standard, robust, alpha).argmax(dim=1) == labels


@dataclass(frozen=True, eq=False)
class AttackPool:
    """points: (N, …) each, exactly in the ball and the domain, with the logits of both models there."""

    points: tuple[Tensor, ...]
    logits: tuple[Logits, ...]

    def survived(self, labels: Tensor, alpha: float, temperature: float) -> Tensor:
        """(N,) bool: no point of the pool makes the mix miss the label."""
        result = torch.ones_like(labels, dtype=torch.bool)
        for logits in self.logits:
            result &= logits.correct(labels, alpha, temperature)
        return result


def logits_of(standard: nn.Module, robust: nn.Module, inputs: Tensor) -> Logits:
    """Both models on `inputs`, without gradients."""
    with torch.no_grad():
        parts = [(standard(x), robust(x)) for x in inputs.split(BATCH_SIZE)]
    return Logits(torch.cat([g for g, _ in parts]), torch.cat([h for _, h in parts]))


def make_pool(
    standard: nn.Module,
    robust: nn.Module,
    mixes: Sequence[tuple[float, float]],
    inputs: Tensor,
    labels: Tensor,
    norm: Norm,
    radius: float,
    domain: tuple[float, float] | None,
    steps: int,
    seed: int,
) -> AttackPool:
    """Adaptive PGD of `steps` steps per point, away from `labels` (N,). mixes: pairs (alpha, T) attacked themselves.

    The transfer attacks on g and h spend all their steps: the strongest point transfers, not the first.
    """
    objectives: list[tuple[Objective, bool]] = [
        (ClassifierObjective(standard, "margin"), True),
        (ClassifierObjective(robust, "margin"), True),
    ]
    for alpha, temperature in mixes:
        mix = MixedClassifier(standard, robust, alpha, temperature)
        objectives += [(ClassifierObjective(mix, "margin"), False), (FloorObjective(mix), False)]
    points: list[Tensor] = []
    for k, (objective, keep_going) in enumerate(objectives):
        schedule = Schedule(steps=steps, random_start=k >= 2, keep_going=keep_going, seed=seed + k)
        parts = [
            pgd(objective, make_ball(x, torch.full((len(x),), radius, dtype=torch.float64), norm, domain), y, schedule)
            for x, y in zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
        ]
        points.append(torch.cat([p.points for p in parts]))
    return AttackPool(tuple(points), tuple(logits_of(standard, robust, p) for p in points))
