"""The attacks of the paper (STD, ROB, MIX), the mix-aware ones, and their worst case.

An input counts as robust only if it survives all. The names are those of Figure 2 of the paper; beyond them
`margin` and `dlr` climb other losses of the mix, `floor` follows Lemma 3.2, `auto_attack` is AutoAttack's ensemble,
where its package is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certmix.attacks import auto_attack as autoattack
from certmix.attacks.ball import Ball
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, Loss
from certmix.attacks.pgd import Candidates, Schedule, pgd
from certmix.errors import UsageError
from certmix.mixing.mixed import MixedClassifier


@dataclass(frozen=True)
class Budget:
    """steps: gradients per restart. restarts: random restarts of the untargeted attacks on the mix.
    rivals: how many classes, strongest first in h's clean order, the targeted attacks aim at."""

    steps: int = 20
    restarts: int = 1
    rivals: int = 3
    seed: int = 0


Attack = Callable[[MixedClassifier, Ball, Tensor, Budget], Candidates]


def transfer(model: nn.Module, ball: Ball, labels: Tensor, budget: Budget) -> Tensor:
    """(N, …) the last iterates of the paper's PGD on `model` alone: cross-entropy, fixed steps, whole budget."""
    schedule = Schedule(budget.steps, 1, "fixed", keep_going=True, seed=budget.seed)
    return pgd(ClassifierObjective(model, "cross_entropy"), ball, labels, schedule).points


def std_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """STD: PGD on g, transferred."""
    return _judged(mix, transfer(mix.standard, ball, labels, budget), labels)


def rob_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """ROB: PGD on h, transferred."""
    return _judged(mix, transfer(mix.robust, ball, labels, budget), labels)


def mix_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """MIX: the paper's adaptive attack, cross-entropy PGD along the end-to-end gradient of Eq. 4."""
    schedule = Schedule(budget.steps, budget.restarts, "fixed", seed=budget.seed)
    return pgd(ClassifierObjective(mix, "cross_entropy"), ball, labels, schedule)


def margin_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """Adaptive PGD on the margin of the mix's log-probabilities (the loss of Carlini & Wagner)."""
    return _adaptive_on_mix("margin", mix, ball, labels, budget)


def dlr_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """Adaptive PGD on the difference-of-logits ratio of the mix."""
    return _adaptive_on_mix("dlr", mix, ball, labels, budget)


def floor_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """Adaptive PGD on Lemma 3.2's floor: g turned against the class, h's margin to its runner-up driven down."""
    schedule = Schedule(budget.steps, budget.restarts, random_start=False, seed=budget.seed)
    return pgd(FloorObjective(mix), ball, labels, schedule)


def odds_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """PGD with decaying steps on the log-odds of both models, towards any class."""
    schedule = Schedule(budget.steps, budget.restarts, "decay", random_start=False, seed=budget.seed)
    return pgd(FloorObjective(mix, "all"), ball, labels, schedule)


def targeted_floor_attack(mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """`floor` once for each of the strongest rivals of the class."""
    targets = strongest_rivals(mix.robust, ball.center, labels, budget.rivals)
    return pgd(FloorObjective(mix), ball, labels, Schedule(budget.steps, seed=budget.seed), targets)


def ensemble_attack(mix: nn.Module, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    """AutoAttack on the mix at this budget: `steps` iterations, Square's queries in the published proportion to them,
    `rivals` classes; at steps = 100, rivals = 9 the standard version. Raises UsageError without pyautoattack."""
    queries = budget.steps * autoattack.QUERIES // autoattack.ITERATIONS
    return autoattack.auto_attack(
        mix, ball, labels, iterations=budget.steps, queries=queries, targets=budget.rivals, seed=budget.seed
    )


ATTACKS: dict[str, Attack] = {
    "std": std_attack,
    "rob": rob_attack,
    "mix": mix_attack,
    "margin": margin_attack,
    "dlr": dlr_attack,
    "floor": floor_attack,
    "odds": odds_attack,
    "floor_targeted": targeted_floor_attack,
    "auto_attack": ensemble_attack,
}

# cheap and strong first: later members only see the survivors
WORST = ("std", "floor", "odds", "margin", "mix", "rob", "dlr", "floor_targeted")


def members_here() -> tuple[str, ...]:
    """The members of the worst case on this machine: all of WORST, and AutoAttack where it is installed."""
    return (*WORST, "auto_attack") if autoattack.installed() else WORST


def worst(
    mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget, members: Sequence[str] | None = None
) -> Candidates:
    """Run every attack in `members` on what survived so far. found: (N,) lost to at least one. None: `members_here`.

    Inputs whose class is lost at the centre already are found, at the centre. Raises UsageError for unknown names.
    """
    members = members_here() if members is None else members
    unknown = sorted(set(members) - set(ATTACKS))
    if unknown:
        raise UsageError(f"unknown attack {unknown[0]!r}, choose from {', '.join(ATTACKS)}")
    points = ball.center.clone()
    success = _judged(mix, points, labels).found
    for name in members:
        remaining = (~success).nonzero().squeeze(1)
        if len(remaining) == 0:
            break
        result = ATTACKS[name](mix, ball.pick(remaining), labels[remaining], budget)
        points[remaining[result.found]] = result.points[result.found]
        success[remaining] = result.found
    return Candidates(points, success)


def strongest_rivals(model: nn.Module, inputs: Tensor, labels: Tensor, count: int) -> Tensor:
    """(N, count) classes other than the label by `model`'s logits at the input, largest first."""
    with torch.no_grad():
        others = model(inputs).scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, others.shape[1] - 1), dim=1).indices


def _adaptive_on_mix(loss: Loss, mix: MixedClassifier, ball: Ball, labels: Tensor, budget: Budget) -> Candidates:
    schedule = Schedule(budget.steps, budget.restarts, random_start=False, seed=budget.seed)
    return pgd(ClassifierObjective(mix, loss), ball, labels, schedule)


def _judged(mix: MixedClassifier, points: Tensor, labels: Tensor) -> Candidates:
    with torch.no_grad():
        return Candidates(points, mix(points).argmax(1) != labels)
