"""Soundness laws of the pointwise protocols: no point of a claimed open ball refutes the claim, in exact arithmetic."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from certmix.testing import attack, exact, planted, solvers
from certmix.testing.claims import Claims, ask
from certmix.testing.laws.law import Counterexample, Law, Trial
from certmix.testing.problem import Problem
from certmix.testing.protocol import Certifier
from certmix.testing.strategies import EXTREMES, ORDINARY, Wishes, problems

Finder = Callable[[Claims, int], attack.AttackProposal]


POINTWISE = frozenset({"mix", "robust", "logits", "probabilities", "lipschitz"})
CLASS = frozenset({"mix", "robust"})
MOST_CONFIRMATIONS = 12
MOST_REPEATS = 64  # of a random finder on one answer
RANDOM: tuple[Finder, ...] = (attack.by_sampling, attack.by_gradient)
FLAT = ("linear", "mlp", "residual", "normalised")


def refuted(claims: Claims, row: int, point: NDArray[Any], law: str) -> Counterexample | None:
    """Exact judgement of one proposed point: strictly inside the ball, inside the domain, and refuting the claim."""
    problem, radius = claims.problem, float(claims.radius[row])
    if not exact.inside(problem.inputs[row], point, radius, problem.norm):
        return None
    if problem.domain is not None and any(not problem.domain[0] <= v <= problem.domain[1] for v in point.reshape(-1)):
        return None
    try:
        evidence = claims.refutation(row, point)
    except exact.NotExactError:
        return None
    return None if evidence is None else Counterexample(law, evidence, problem, row, point, radius, exact=True)


def pointwise_check(law: str, finders: tuple[Finder, ...], certifier: Certifier, problem: Problem, seed: int) -> Trial:
    """Ask, let every finder propose points, confirm the most suspicious ones exactly; stop at the first refutation.

    Random finders go on with new draws for as long as the certifier took to answer: a slow one is attacked harder.
    """
    start = time.monotonic()
    claims = ask(certifier, problem)
    asked = time.monotonic()
    inputs = attack.claimed_rows(claims)
    tried = 0
    if len(inputs) == 0:
        return Trial(0, 0, None)
    for repeat, finder in itertools.product(range(MOST_REPEATS), finders):
        if repeat and (finder not in RANDOM or time.monotonic() - asked > asked - start):
            continue
        proposal = finder(claims, seed + 1009 * repeat)
        tried += proposal.tried
        for row, point in proposal.points[:MOST_CONFIRMATIONS]:
            broken = refuted(claims, row, point, law)
            if broken is not None:
                return Trial(len(inputs), tried, broken)
    return Trial(len(inputs), tried, None)


def _law(
    name: str, protocols: frozenset[str], source: str, meaning: str, wishes: Wishes, finders: tuple[Finder, ...]
) -> Law:
    return Law(
        name, "soundness", protocols, source, meaning,
        lambda certifier: problems(certifier, wishes), functools.partial(pointwise_check, name, finders),
    )  # fmt: skip


def _planted_law(name: str, source: str, meaning: str, strategy: Callable[..., Any], protocols: frozenset[str]) -> Law:
    check = functools.partial(pointwise_check, name, (attack.at_suspects, attack.by_sampling))
    return Law(name, "soundness", protocols, source, meaning, strategy, check)


_LINEAR = Wishes(kinds=("linear",), batch=3, classes=3)
_NORMALISED = Wishes(kinds=("normalised", "linear"), batch=2, classes=3)
_SMALL = Wishes(kinds=FLAT, batch=2, classes=3)

LAWS: tuple[Law, ...] = (
    _law(
        "no_counterexample_by_sampling", POINTWISE, "Definition 3.1, Lemma 3.2",
        "random points, corners and axes of the ball, on every layer kind", Wishes(), (attack.by_sampling,),
    ),
    _law(
        "no_counterexample_by_attack", POINTWISE, "Lemma 3.2 with the worst g",
        "projected gradient descent on the claim itself, on every layer kind",
        Wishes(standards=("worst", "switching")), (attack.by_gradient,),
    ),
    _law(
        "no_counterexample_in_curves_and_gates", POINTWISE, "docs/maths.md 9a: bounds of curves and of products",
        "networks of squares, cubes, |x| and hard swish, and of products of two values",
        Wishes(kinds=("curved", "gated"), batch=3, classes=3), (attack.by_sampling, attack.by_gradient),
    ),
    _law(
        "no_counterexample_at_corners", POINTWISE, "Definition 3.1",
        "every corner and axis of the ball", _SMALL, (attack.at_corners,),
    ),
    _law(
        "no_counterexample_by_closed_form", POINTWISE, "linear networks: Hoelder's inequality is attained",
        "the exactly worst point of each class pair on affine networks, in fractions, strictly inside the ball",
        _LINEAR, (solvers.by_closed_form,),
    ),
    _law(
        "no_counterexample_by_program", POINTWISE, "Tjeng et al. 2019, mixed-integer verification",
        "the exact minimiser of each logit difference on small ReLU networks (Linf, L1)",
        Wishes(kinds=("mlp", "residual", "normalised"), batch=1, classes=3, standards=("worst",)),
        (solvers.by_program,),
    ),
    _law(
        "normalisation_is_part_of_the_network", POINTWISE, "docs/maths.md 9: radii are in the units of the raw input",
        "networks that begin by shifting and dividing, or hold a batch norm", _NORMALISED,
        (solvers.by_closed_form, attack.by_gradient),
    ),
    _law(
        "first_layers_respect_the_norm", POINTWISE, "Hoelder's inequality: the dual norm, for every p",
        "a convolution over the whole image, whose exact bounds are the dual norm of its weights",
        Wishes(kinds=("wide_conv", "linear"), batch=3, classes=3), (solvers.by_closed_form, attack.by_gradient),
    ),
    _law(
        "no_counterexample_near_critical_alpha", frozenset({"mix"}), "Lemma 3.2: alpha > 1/(1 + margin)",
        "alpha at 1/(1 + margin), at 1/2 and below it, at 1, with saturated and with flat classifiers",
        Wishes(
            kinds=("linear", "mlp"), regimes=(*EXTREMES, ORDINARY), batch=3, classes=3,
            alphas=("critical", "half", "one"), standards=("switching", "worst"),
        ),
        (solvers.by_closed_form, attack.by_gradient, attack.by_sampling),
    ),
    _law(
        "no_counterexample_in_extreme_ranges", POINTWISE, "docs/maths.md 3: softmax relaxations fail in extreme ranges",
        "tiny and huge weights, dead and saturated units, inputs at the edges of float32",
        Wishes(kinds=("linear", "mlp", "conv"), regimes=EXTREMES, batch=4, edges=True),
        (solvers.by_closed_form, attack.by_gradient, attack.by_sampling),
    ),
    _law(
        "no_counterexample_far_from_the_origin", POINTWISE, "float32 steps are wider than the ball there",
        "networks and inputs moved by 2^20 and 2^22, where float32 inputs are 1/8 and 1/2 apart",
        Wishes(kinds=("linear", "mlp"), batch=3, classes=3, far=True), (solvers.by_closed_form, attack.by_gradient),
    ),
    _planted_law(
        "hidden_spikes_are_not_certified_away", "Bai et al., SoundnessBench (constructed, not trained)",
        "a confident classifier with one narrow spike inside the ball", planted.spikes, POINTWISE,
    ),
    _planted_law(
        "cancelling_weights_are_not_certified_away", "claims are about real arithmetic (docs/maths.md 9)",
        "classes that floating-point evaluation gets wrong: weights up to 2^60 that cancel", planted.blind_spots,
        POINTWISE,
    ),
    _planted_law(
        "ties_are_not_certified", "Lemma 3.2: the strict form", "equal classes, classes one float32 step apart",
        planted.ties, CLASS,
    ),
)  # fmt: skip


def laws_of(protocol: str) -> tuple[Law, ...]:
    """The pointwise soundness laws a protocol has to keep."""
    return tuple(law for law in LAWS if protocol in law.protocols)
