"""Quality laws: what a sound certifier may break but a good one keeps. Broken ones are warnings."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from certmix.testing.claims import ask
from certmix.testing.laws.law import Counterexample, Law, Trial
from certmix.testing.problem import Problem, prepend
from certmix.testing.protocol import Certifier, radii
from certmix.testing.strategies import Wishes, problems
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build

CLASS = frozenset({"mix", "robust"})
LARGEST_COMPARED_RADIUS = 2.0**16
RELATIVE_TOLERANCE = 1e-3  # warnings only: differences below this share of the radius are not worth one
FLAT = Wishes(kinds=("linear", "mlp"), batch=3, alphas=("one", "plain"), classes=3)


def _answers(certifier: Certifier, problem: Problem) -> list[float]:
    return ask(certifier, problem).radius.tolist()


def _differ(first: float, second: float) -> bool:
    """Whether two radii differ by more than RELATIVE_TOLERANCE; searches end somewhere: none is compared beyond
    LARGEST_COMPARED_RADIUS."""
    if first == second or min(first, second) >= LARGEST_COMPARED_RADIUS:
        return False
    return not abs(first - second) <= RELATIVE_TOLERANCE * max(first, second)


def check_deterministic(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """The same question twice, and each input alone."""
    first, again = _answers(certifier, problem), _answers(certifier, problem)
    alone = [
        _answers(certifier, dataclasses.replace(problem, inputs=problem.inputs[[k]]))[0] for k in range(len(first))
    ]
    for k, (a, b, s) in enumerate(zip(first, again, alone, strict=True)):
        if _differ(a, b):
            return f"input {k}: radius {a!r} at the first call, {b!r} at the second"
        if _differ(a, s):
            return f"input {k}: radius {a!r} in a batch of {len(first)}, {s!r} alone"
    return None


def check_alpha(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """A larger alpha asks for a smaller margin (Lemma 3.2)."""
    larger = min(1.0, problem.alpha + 0.5 * (1 - problem.alpha) + 1e-3)
    low, high = _answers(certifier, problem), _answers(certifier, dataclasses.replace(problem, alpha=larger))
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        if b < a * (1 - RELATIVE_TOLERANCE):
            return f"input {k}: radius {a!r} at alpha {problem.alpha!r}, only {b!r} at {larger!r}"
    return None


def check_radius(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """What is certified at a radius is certified at half of it."""

    def certified(radius: float) -> np.ndarray:
        demanding = dataclasses.replace(certifier, demands=certifier.demands | {"radius"})
        return np.asarray(_answers(demanding, dataclasses.replace(problem, radius=radius))) > 0

    large, small = certified(problem.radius), certified(problem.radius / 2)
    if (large & ~small).any():
        return f"certified at radius {problem.radius}, not at {problem.radius / 2}"
    return None


def permute(network: c.PlainNetwork, order: np.ndarray) -> c.PlainNetwork:
    """The network with its classes reordered."""
    last = network.nodes[-1]
    assert isinstance(last, c.Linear)
    return build([*network.nodes[:-1], dataclasses.replace(last, weight=last.weight[order], bias=last.bias[order])])


def check_permutation(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """Names of classes do not matter."""
    order = np.random.default_rng(seed).permutation(problem.robust.classes)
    renamed = dataclasses.replace(
        problem, robust=permute(problem.robust, order), standard=permute(problem.standard, order)
    )
    return _compare(certifier, problem, renamed, 1.0, f"classes reordered to {order.tolist()}")


def check_translation(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """h(x - t) at x + t has the radius of h at x; t is 1 and the inputs are cut to 12 bits, so that nothing rounds."""
    rounded = np.round(problem.inputs * 4096) / np.float32(4096)
    here = dataclasses.replace(problem, inputs=rounded.astype(np.float32), domain=None)
    node = c.Shift((0,), np.full((1,) * (problem.inputs.ndim - 1), -1, np.float32))
    moved = dataclasses.replace(
        here,
        inputs=(here.inputs + 1).astype(np.float32),
        robust=prepend(here.robust, (node,)),
        standard=prepend(here.standard, (node,)),
    )
    return _compare(certifier, here, moved, 1.0, "input moved by 1")


def check_scaling(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """h(x / 4) at 4 x has four times the radius (where the radius is the certifier's to find)."""
    if "radius" in certifier.demands:
        return None
    node = c.Scale((0,), np.full((1,) * (problem.inputs.ndim - 1), 0.25, np.float32))
    here = dataclasses.replace(problem, domain=None)
    grown = dataclasses.replace(
        here,
        inputs=here.inputs * np.float32(4),
        robust=prepend(here.robust, (node,)),
        standard=prepend(here.standard, (node,)),
    )
    return _compare(certifier, here, grown, 4.0, "input scaled by 4")


def _compare(certifier: Certifier, first: Problem, second: Problem, factor: float, what: str) -> str | None:
    for k, (a, b) in enumerate(zip(_answers(certifier, first), _answers(certifier, second), strict=True)):
        if _differ(a * factor, b):
            return f"{what}: input {k} has radius {a!r} before and {b!r} after, expected {a * factor!r}"
    return None


def check_abstention(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """No theorem applies where both classifiers tie: the answer is None there, never a number."""
    tied = build([c.Input((1,)), c.Linear((0,), np.ones((2, 1), np.float32), np.zeros(2, np.float32))])
    x = torch.zeros(1, 1)
    keywords: dict[str, Any] = {"norm": problem.norm} if certifier.takes("norm") else {}
    if "radius" in certifier.demands:
        keywords["radius"] = problem.radius
    if certifier.protocol == "robust":
        answer = certifier.function(PlainModule(tied), x, **keywords)
    else:
        answer = certifier.function(PlainModule(tied), PlainModule(tied), x, 0.5 + problem.alpha / 4, **keywords)
    radius = radii(answer, 1)[0]
    if radius is None:
        return None
    return f"a tie at the input must be answered by None, got {radius!r}" + (" (not a number)" * math.isnan(radius))


def check_easy(certifier: Certifier, problem: Problem, seed: int) -> str | None:
    """z = (2x + 1, -2x - 1) at x = 1, alpha 0.9: some radius is certain."""
    easy = build([c.Input((1,)), c.Linear((0,), np.array([[2], [-2]], np.float32), np.array([1, -1], np.float32))])
    asked = dataclasses.replace(
        problem, robust=easy, standard=easy, inputs=np.ones((1, 1), np.float32), alpha=0.9, temperature=1.0,
        domain=None, radius=2.0**-4,
    )  # fmt: skip
    return None if _answers(certifier, asked)[0] > 0 else "nothing is certified on the easiest problem"


def _law(
    name: str, source: str, meaning: str, check: Callable[[Certifier, Problem, int], str | None],
    protocols: frozenset[str] = CLASS, wishes: Wishes = FLAT,
) -> Law:  # fmt: skip
    def trial(certifier: Certifier, problem: Problem, seed: int) -> Trial:
        evidence = check(certifier, problem, seed)
        return Trial(1, 0, None if evidence is None else Counterexample(name, evidence, problem))

    return Law(name, "quality", protocols, source, meaning, functools.partial(problems, wishes=wishes), trial)


LAWS: tuple[Law, ...] = (
    _law("answers_repeat_and_ignore_the_batch", "determinism", "same question, same answer", check_deterministic),
    _law(
        "larger_alpha_is_never_harder",
        "Lemma 3.2",
        "monotone in alpha",
        check_alpha,
        frozenset({"mix"}),
        dataclasses.replace(FLAT, alphas=("plain",)),
    ),
    _law("class_names_do_not_matter", "symmetry", "invariant to class permutation", check_permutation),
    _law("translation_does_not_matter", "symmetry", "h(x - t) at x + t has the same radius", check_translation),
    _law("scaling_scales_the_radius", "symmetry", "h(x / s) at s x has s times the radius", check_scaling),
    _law("abstains_at_a_tie", "Lemma 3.2", "None, not 0 or NaN, where nothing applies", check_abstention),
    _law("easy_problems_are_certified", "completeness", "a linear classifier far from its boundary", check_easy),
)


def contains(looser: Certifier) -> Law:
    """The law that a certifier's radii are never below those of a looser certifier of the same protocol."""

    def check(certifier: Certifier, problem: Problem, seed: int) -> str | None:
        tight, loose = _answers(certifier, problem), _answers(looser, problem)
        for k, (a, b) in enumerate(zip(tight, loose, strict=True)):
            if b > a * (1 + RELATIVE_TOLERANCE):
                return f"input {k}: radius {a!r}, but {b!r} by the looser {looser.name}"
        return None

    return _law("tighter_contains_looser", "docs/maths.md 3, 4 and 5", "never below the looser method", check)


RADIUS_LAW = dataclasses.replace(
    _law("larger_radius_is_never_easier", "Definition 3.1", "monotone in the radius", check_radius), needs="radius"
)
