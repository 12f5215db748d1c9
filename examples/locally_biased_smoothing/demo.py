"""Locally biased smoothing (Anderson & Sojoudi 2022), the binary ancestor of the mix, on two kinds of digits.

    python examples/locally_biased_smoothing/demo.py [--radius 0.1] [--steps 20]

g: a small network that tells 3 from 8; h: the label of the nearest training image. For every gamma the demo prints
the accuracy of g(x) + gamma h(x) ‖∇g(x)‖₁ on clean images and under l-inf PGD along its end-to-end gradient, the
oracle held constant (it is piecewise constant). Data: ../digits/tune.npz to train on, ../digits/audit.npz to test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.data.dataset import load_data
from certmix.mixing.general import LocallyBiasedSmoothing, OneNearestNeighbour

DIGITS = Path(__file__).parents[1] / "digits"
NEGATIVE, POSITIVE = 3, 8
GAMMAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Score(nn.Module):
    """(N, 1, 8, 8) -> (N,): positive for the positive class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Softplus(beta=10), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


class Logits(nn.Module):
    """The logits (−s/2, s/2) of a score s: its sign is the class."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        s = self.score(x)
        return torch.stack([-s / 2, s / 2], 1)


def two_digits(name: str) -> tuple[Tensor, Tensor]:
    """Images of the two digits and their directions in {−1, 1}."""
    data = load_data(DIGITS / name)
    labels = torch.from_numpy(data.labels)
    kept = (labels == NEGATIVE) | (labels == POSITIVE)
    return torch.from_numpy(data.inputs)[kept], torch.where(labels[kept] == POSITIVE, 1.0, -1.0)


def train(images: Tensor, directions: Tensor) -> Score:
    torch.manual_seed(0)
    score = Score()
    optimizer = torch.optim.Adam(score.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.softplus(-directions * score(images)).mean().backward()
        optimizer.step()
    return score.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--radius", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    images, directions = two_digits("tune.npz")
    tests, truths = two_digits("audit.npz")
    score, oracle = train(images, directions), OneNearestNeighbour(images, directions)
    labels = (truths > 0).long()
    ball = make_ball(tests, options.radius, "Linf", (0.0, 1.0))
    print(f"{len(images)} images to train on, {len(tests)} to test; PGD-{options.steps}, l-inf {options.radius}")
    print(f"nearest neighbour alone: clean {100 * float((oracle(tests) == truths).float().mean()):.1f} %")
    for gamma in GAMMAS:
        model = Logits(LocallyBiasedSmoothing(score, oracle, gamma))
        clean = model(tests).argmax(1) == labels
        schedule = Schedule(options.steps, step="decay", random_start=False)
        lost = pgd(ClassifierObjective(model, "cross_entropy"), ball, labels, schedule).found
        print(f"gamma {gamma:5g}: clean {100 * float(clean.float().mean()):5.1f} %  "
              f"attacked {100 * float((clean & ~lost).float().mean()):5.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
