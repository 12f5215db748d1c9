"""Search without gradients: changes of random squares of an image, or of random coordinates, kept where they help.

After Andriushchenko et al. 2020 (Square Attack), with one schedule of sizes for every norm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import Objective, margins

LARGEST_SHARE = 0.5  # of the coordinates, changed at first
HALVINGS = 5  # of the share, over all steps


def random_search(
    objective: Objective, ball: Ball, labels: Tensor, begin: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    """Points (N, …) in ball and box whose margin against `labels` (N,) is at least that at `begin` (N, …).

    One step is one evaluation of all inputs that are not lost yet. Equal arguments give equal results.
    """
    points = begin.clone()
    with torch.no_grad():
        best = margins(objective.logits(points), labels) if len(points) else torch.zeros(0)
        for step in range(steps):
            left = (best <= 0).nonzero().squeeze(1)
            if len(left) == 0:
                break
            part = ball.pick(left)
            share = LARGEST_SHARE / 2 ** (step * HALVINGS // steps)
            change = _change(points[left], share, generator)
            trial = part.step(points[left], change, 2 * part.radius if ball.lp.is_box else part.radius)
            reached = margins(objective.logits(trial), labels[left])
            better = reached > best[left]
            points[left[better]], best[left[better]] = trial[better], reached[better]
    return points


def _change(points: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Random signs on a random share of each input's coordinates, zero elsewhere: of an image (C, H, W) one sign per
    channel on a square of its pixels, the same square for every input of the batch."""
    n, shape = len(points), points.shape[1:]
    if len(shape) < 3:
        signs = torch.randint(2, points.shape, generator=generator) * 2.0 - 1
        return (signs * (torch.rand(points.shape, generator=generator) < share)).to(points)
    height, width = shape[-2:]
    side = max(1, min(height, width, round(math.sqrt(share * height * width))))
    top, left = (int(torch.randint(room - side + 1, (1,), generator=generator)) for room in (height, width))
    change = torch.zeros(points.shape)
    signs = torch.randint(2, (n, *shape[:-2], 1, 1), generator=generator) * 2.0 - 1
    change[..., top : top + side, left : left + side] = signs
    return change.to(points)
