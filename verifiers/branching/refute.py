"""Points at which the answer to a question is no: where bounds were attained, moved on to where it is worse."""

from __future__ import annotations

import torch
from torch import Tensor

from verifiers.branching.parts import Majorant, MajorantOf, Root

STEPS = 8  # of Frank and Wolfe's method, each to a point between the one before and an extreme one of the ball
CANDIDATES = 16  # the worst of a batch of parts
CLEARLY = 1e-7  # of the majorant's units, by which the goal is missed


def counterexample(
    root: Root, majorant_of: MajorantOf, questions: Tensor, points: Tensor, excess: Tensor
) -> Tensor | None:
    """A point (D,) of the ball at which some question is answered no. points: (B, D) where bounds were attained, about.
    excess: (B,) of these bounds."""
    if not root.net.exact:
        return None
    worst = excess.topk(min(CANDIDATES, len(excess))).indices
    points, questions = root.net.inside(points[worst]), questions[worst]
    for step in range(STEPS + 1):
        read, logits = root.net.values(points)
        truth = _at(root, majorant_of, logits @ root.rows.T, questions)
        lack = truth.over_box - truth.goal
        if bool((lack > CLEARLY).any()):
            return points[int(lack.argmax())]
        if step < STEPS:
            forms, lines = truth.coefficients @ root.rows, root.net.lines(read, read)
            extreme = root.net.inside(root.net.backward(forms, lines, torch.zeros_like(read)).point)
            points = points + (extreme - points) * 2 / (step + 3)
    return None


def _at(root: Root, majorant_of: MajorantOf, d: Tensor, questions: Tensor) -> Majorant:
    """The questions at points: on a box of one point the majorant is the truth."""
    return majorant_of(d, d, torch.full_like(questions, root.predicted), questions)
