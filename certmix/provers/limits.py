"""How far the truth can reach where no certificate does: attacks on every input, each success confirmed.

Three limits are never mixed up: what is certified, what Lemma 3.2 could certify at most (attacks.objectives, floor),
and what an attack on the mix itself was seen to reach. This is the last: an upper limit of every certified radius.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from certmix.attacks.ball import size_up
from certmix.attacks.confirm import Confirmed, confirm
from certmix.attacks.quick import attack_mix
from certmix.attacks.radius import attack_radius
from certmix.mixing.mixed import MixedClassifier
from certmix.provers.problem import ProverProblem
from certmix.records.outcomes import Abstained, Attack, Certified, Outcome
from certmix.settings import diameter

ATTACK_RADIUS_TOLERANCE = 0.02  # relative


def with_attacks(problem: ProverProblem, outcomes: list[Outcome]) -> list[Outcome]:
    """`outcomes`, each with a confirmed point that changes the mix's class at the input, where one was found.

    A radius was asked for: inputs without a certificate are attacked within it. None was: every input is, for the
    smallest radius at which an attack succeeds. Nothing is attacked where settings.attack_steps is 0, where the domain
    is unbounded and no radius was asked for, or in a smoothing run, whose h is not the network itself.
    """
    s = problem.settings
    if s.attack_steps == 0 or s.method == "smoothing":
        return outcomes
    tried = [
        k
        for k, o in enumerate(outcomes)
        if isinstance(o, Abstained) or (isinstance(o, Certified) and s.radius is None and s.domain is not None)
    ]
    if not tried or (s.radius is None and s.domain is None):
        return outcomes
    inputs = problem.inputs[tried]
    mix = problem.mix
    with torch.no_grad():
        predicted = mix(inputs).argmax(dim=1)
    success, points = _attacked(problem, mix, inputs, predicted, [outcomes[k] for k in tried])
    sizes = size_up(points, inputs, s.norm)
    result = list(outcomes)
    for n, k in enumerate(tried):
        if bool(success[n]):
            attack = confirmed(problem, k, int(predicted[n]), float(sizes[n]), points[n])
            result[k] = _with_attack(outcomes[k], attack)
    return result


def _attacked(
    problem: ProverProblem, mix: MixedClassifier, inputs: Tensor, predicted: Tensor, outcomes: list[Outcome]
) -> tuple[Tensor, Tensor]:
    """(M,) whether the float32 mix leaves `predicted` at (M, *shape) points of the ball asked for, or a smaller one."""
    s = problem.settings
    if s.radius is not None:
        radius = torch.full((len(inputs),), s.radius, dtype=torch.float64)
        attack = attack_mix(mix, inputs, predicted, s.norm, radius, s.domain, steps=s.attack_steps, seed=s.seed)
        return attack.found, attack.points
    if s.domain is None:
        raise TypeError("excluded by with_attacks")
    certified_radii = [o.radius if isinstance(o, Certified) else 0.0 for o in outcomes]
    nearest = attack_radius(
        mix, inputs, predicted, s.norm, s.domain, diameter(s.norm, s.domain, inputs[0].numel()),
        ATTACK_RADIUS_TOLERANCE, s.attack_steps, s.seed, torch.tensor(certified_radii, dtype=torch.float64),
    )  # fmt: skip
    return nearest.found, nearest.points


def confirmed(problem: ProverProblem, batch_index: int, predicted: int, size: float, point: Tensor) -> Attack | None:
    """The attack, if rigorous evaluation agrees. size: at least the offset's; never more than the radius asked for."""
    s = problem.settings
    radius = size if s.radius is None else min(size, s.radius)
    candidate = point.numpy()
    answer = confirm(
        candidate, problem.input(batch_index), radius, s.norm, s.domain,
        problem.standard.network or problem.standard.module, problem.network, s.alpha, s.temperature, predicted,
        problem.adaptive,
    )  # fmt: skip
    return Attack(radius, predicted, answer.rival, candidate) if isinstance(answer, Confirmed) else None


def _with_attack(outcome: Outcome, attack: Attack | None) -> Outcome:
    if attack is None or not isinstance(outcome, Certified | Abstained):
        return outcome
    return dataclasses.replace(outcome, attack=attack)
