"""AutoAttack's ensemble (Croce & Hein 2020) on a classifier, through the optional package pyautoattack."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import ClassifierObjective
from certmix.attacks.pgd import Candidates
from certmix.errors import UsageError

ENSEMBLE = ("apgd-ce", "apgd-t", "fab-t", "square")
ITERATIONS = 100  # of each gradient attack, as published
QUERIES = 5000  # of Square
TARGETED_CLASSES = 9
CLASSES_OF_TARGETED_DLR = 4  # at least: it divides by the gap to the third and fourth largest logit
IMAGE_AXES = 3  # Square paints squares: it takes (C, H, W) only


def installed() -> bool:
    """Whether the package is here."""
    return importlib.util.find_spec("pyautoattack") is not None


def auto_attack(
    model: nn.Module,
    ball: Ball,
    labels: Tensor,
    members: Sequence[str] = ENSEMBLE,
    iterations: int = ITERATIONS,
    queries: int = QUERIES,
    targets: int = TARGETED_CLASSES,
    seed: int = 0,
) -> Candidates:
    """AutoAttack on `model` (logits), its points projected exactly into ball and box and judged anew.

    iterations: of each gradient attack; queries: of Square; targets: classes that targeted attacks try. Left out are
    `apgd-t` where there are fewer than four classes, and `square` where inputs are no images. The package knows only
    the domain [0, 1]; points outside another one are projected. Raises UsageError without the package.
    """
    if not installed():
        raise UsageError("AutoAttack needs the package pyautoattack: pip install 'certmix[attacks]'")
    with torch.no_grad():
        classes = model(ball.center[:1]).shape[1]
    left_out = {"apgd-t"} if classes < CLASSES_OF_TARGETED_DLR else set[str]()
    left_out |= {"square"} if ball.center.ndim != 1 + IMAGE_AXES else set()
    used = [name for name in members if name not in left_out]
    points, found = ball.center.clone(), torch.zeros(len(ball), dtype=torch.bool, device=ball.center.device)
    for radius in ball.radius[ball.radius > 0].unique():
        index = (ball.radius == radius).nonzero().squeeze(1)
        part = ball.pick(index)
        attack = importlib.import_module("pyautoattack").AutoAttack(
            model,
            attacks=used,
            device=ball.center.device,
            eps=float(radius),
            norm=ball.norm,
            seed=seed,
            version="custom",
        )
        for one in (attack.apgd, attack.apgd_targeted, attack.fab):
            one.n_iter = iterations
        attack.square.n_queries = queries
        for one in (attack.apgd_targeted, attack.fab):
            one.n_target_classes = min(targets, classes - 1)
        with _undisturbed():
            adversarial, _ = attack.run_standard_evaluation(part.center, labels[index], batch_size=len(part))
        points[index] = part.project(adversarial.detach())
        found[index] = ClassifierObjective(model, "margin").broken(points[index], labels[index])
    return Candidates(points, found)


@contextlib.contextmanager
def _undisturbed() -> Generator[None]:
    """The package counts calls with sys.settrace and then ends whatever trace was on: a debugger's, coverage's; and it
    warns, once per batch, of defences that are not what they seem: what it finds is judged anew."""
    trace, logger = sys.gettrace(), logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        sys.settrace(trace)
        logger.disabled = disabled
