"""AutoAttack's ensemble (Croce & Hein 2020) on a classifier, through the optional package pyautoattack."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import ClassifierObjective
from certmix.attacks.pgd import Candidates
from certmix.errors import UsageError

ENSEMBLE = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETED_CLASSES = 9


def auto_attack(
    model: nn.Module,
    ball: Ball,
    labels: Tensor,
    members: Sequence[str] = ENSEMBLE,
    iterations: int = 100,
    queries: int = 5000,
    seed: int = 0,
) -> Candidates:
    """AutoAttack on `model` (logits), its points projected exactly into ball and box and judged anew.

    All inputs must share one radius. iterations: of each gradient attack; queries: of Square. The package knows
    only images in [0, 1]; points outside another domain are projected. Raises UsageError without the package.
    """
    try:
        package = importlib.import_module("pyautoattack")
    except ImportError:
        raise UsageError("AutoAttack needs the package pyautoattack: pip install 'certmix[attacks]'") from None
    if len(ball) == 0:
        return Candidates(ball.center, torch.zeros(0, dtype=torch.bool))
    radius = float(ball.radius[0])
    if not bool((ball.radius == radius).all()):
        raise UsageError("AutoAttack takes one radius for all inputs")
    attack = package.AutoAttack(
        model, attacks=list(members), device=ball.center.device, eps=radius, norm=ball.norm, seed=seed, version="custom"
    )
    for part in (attack.apgd, attack.apgd_targeted, attack.fab):
        part.n_iter = iterations
    attack.square.n_queries = queries
    with torch.no_grad():
        classes = model(ball.center[:1]).shape[1]
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(TARGETED_CLASSES, classes - 1)
    points = attack.run_standard_evaluation(ball.center, labels, batch_size=max(1, len(ball)))
    points = ball.project((points[0] if isinstance(points, tuple) else points).detach())
    return Candidates(points, ClassifierObjective(model, "margin").broken(points, labels))
