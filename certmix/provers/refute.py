"""The quick attack inside every certified ball: it may refute a certificate, never prove one."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from certmix.attacks.confirm import Confirmed, confirm
from certmix.attacks.quick import attack_mix
from certmix.formatting import lower
from certmix.provers.problem import ProverProblem
from certmix.records.outcomes import Certified, Falsified, Outcome


def refute(problem: ProverProblem, outcomes: list[Outcome]) -> list[Outcome]:
    """`outcomes`, where every Certified one has been attacked inside its own ball.

    A candidate confirmed by rigorous evaluation of the stored weights turns its outcome into Falsified: either
    the judge or the confirmation is wrong, and the run must stop. One that only the float32 modules see stays
    Certified and is noted on it. Smoothed classifiers are not attacked: their h is not the network itself.
    """
    s = problem.settings
    attacked = [k for k, o in enumerate(outcomes) if isinstance(o, Certified) and s.method != "smoothing"]
    if s.attack_steps == 0 or not attacked:
        return outcomes
    certified = [o for o in outcomes if isinstance(o, Certified)]
    attack = attack_mix(
        problem.mix,
        problem.inputs[attacked],
        torch.tensor([o.predicted for o in certified]),
        s.norm,
        torch.tensor([o.radius for o in certified], dtype=torch.float64),
        s.domain,
        steps=s.attack_steps,
        seed=s.seed,
    )
    result = list(outcomes)
    for k, batch_index in enumerate(attacked):
        if bool(attack.found[k]):
            result[batch_index] = _judged(problem, certified[k], attack.points[k].numpy())
    return result


def _judged(problem: ProverProblem, outcome: Certified, candidate: np.ndarray) -> Outcome:
    s = problem.settings
    answer = confirm(
        candidate,
        outcome.input,
        outcome.radius,
        s.norm,
        s.domain,
        problem.standard.network or problem.standard.module,
        problem.network,
        s.alpha,
        s.temperature,
        outcome.predicted,
        problem.adaptive,
    )
    if not isinstance(answer, Confirmed):
        return dataclasses.replace(outcome, float32_only=candidate)
    advice = (
        f"class {answer.rival} beats the certified class {outcome.predicted} by at least "
        f"{lower(answer.margin_down, 3)} within radius {outcome.radius!r}"
    )
    return Falsified(
        outcome.predicted, outcome.radius, s.norm, s.alpha, s.method, outcome.class_of, candidate, True, advice
    )
