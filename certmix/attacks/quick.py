"""The attack every audit runs inside its certified balls: a cheap attempt to refute them."""

from __future__ import annotations

from torch import Tensor, nn

from certmix.attacks.ball import make_ball
from certmix.attacks.objectives import ClassifierObjective, FloorObjective
from certmix.attacks.pgd import Candidates, Schedule, pgd
from certmix.mixing.mixed import MixedClassifier
from proofs_check.certificate import Norm


def quick_attack(
    standard: nn.Module,
    robust: nn.Module,
    alpha: float,
    temperature: float,
    inputs: Tensor,
    predicted: Tensor,
    norm: Norm,
    radius: Tensor,
    domain: tuple[float, float] | None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
) -> Candidates:
    """Adaptive PGD: cross-entropy of the mix, then, for what survives, Lemma 3.2's floor.

    Each of the two spends `steps` gradients per restart.

    inputs: (N, …) float32 in the domain; predicted (N,): the class to leave; radius (N,) float64, raw units.
    Ensures: points (N, …) float32 lie exactly in ball and box; `found` says where the mix, as the modules compute
    it in float32, prefers another class. A found point refutes a certificate only after `confirm`.
    """
    mix = MixedClassifier(standard, robust, alpha, temperature)
    return attack_mix(mix, inputs, predicted, norm, radius, domain, steps, restarts, seed)


def attack_mix(
    mix: MixedClassifier,
    inputs: Tensor,
    predicted: Tensor,
    norm: Norm,
    radius: Tensor,
    domain: tuple[float, float] | None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
) -> Candidates:
    """`quick_attack` on any mix."""
    ball = make_ball(inputs, radius, norm, domain)
    schedule = Schedule(steps, restarts, random_start=False, seed=seed)
    entropy_candidates = pgd(ClassifierObjective(mix, "cross_entropy"), ball, predicted, schedule)
    remaining = (~entropy_candidates.found).nonzero().squeeze(1)
    if len(remaining) == 0:
        return entropy_candidates
    floor_candidates = pgd(FloorObjective(mix), ball.pick(remaining), predicted[remaining], schedule)
    points, success = entropy_candidates.points.clone(), entropy_candidates.found.clone()
    points[remaining[floor_candidates.found]] = floor_candidates.points[floor_candidates.found]
    success[remaining] = floor_candidates.found
    return Candidates(points, success)
