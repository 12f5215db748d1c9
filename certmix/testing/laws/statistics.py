"""Soundness of Monte-Carlo methods: how often a certificate is false, against the failure probability it admits.

A certificate is false where its radius exceeds the one that half-space bases attain at the true class
probabilities (docs/maths.md 5a). The law breaks when so many false ones would turn up with probability < SIGNIFICANCE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from certmix.testing.laws.law import Counterexample, Law, Trial
from certmix.testing.protocol import Certifier, selections
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build

SIGNIFICANCE = 1e-10
REPEATS = 3000


@dataclass(frozen=True)
class VoteCase:
    """True class probabilities of the base at the input, sample sizes, and the certificate's parameters."""

    probabilities: tuple[float, ...]
    selection: int
    votes: int
    alpha: float
    noise_std: float
    failure_probability: float


@dataclass(frozen=True, eq=False)
class BaseCase:
    """A linear two-class base whose boundary lies `gap` standard deviations from the inputs."""

    base: c.PlainNetwork
    x: NDArray[np.float32]
    probabilities: tuple[float, float]
    alpha: float
    noise_std: float
    failure_probability: float


def true_radius(probabilities: tuple[float, ...], y: int, alpha: float, noise_std: float) -> float:
    """The l2 radius at which the worst base with these class probabilities, and the worst g, change class y.

    (5a), attained by opposite half-spaces; 0 where the required margin is not met at the input itself.
    """
    quantile, cumulative = scipy.stats.norm.ppf, scipy.stats.norm.cdf
    if alpha < 0.5:
        return 0.0
    required = (1 - alpha) / alpha
    a = quantile(probabilities[y])
    b = quantile(max(p for i, p in enumerate(probabilities) if i != y))

    def excess(r: float) -> float:
        return float(cumulative(a - r) - cumulative(b + r) - required)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > 100:
            return float("inf")
    return noise_std * float(scipy.optimize.brentq(excess, 0.0, high, xtol=1e-12))  # type: ignore[arg-type]


@st.composite
def vote_cases(draw: st.DrawFn, certifier: Certifier) -> VoteCase:
    """Ties, close calls and sure things; two rivals, one rival, many."""
    top = draw(st.sampled_from([0.5, 0.6, 0.9, 0.99, 0.75, 1 - 2.0**-16, 0.55]))
    classes = draw(st.sampled_from([2, 3, 10]))
    probabilities = (top, 1 - top, *[0.0] * (classes - 2))
    if draw(st.integers(0, 3)) == 3:
        probabilities = (top, *[(1 - top) / (classes - 1)] * (classes - 1))
    alpha = draw(st.sampled_from([1.0, 0.75, 0.9, 0.55, 0.5]))
    beta = draw(st.sampled_from([0.05, 0.2, 0.01]))
    votes, selection = draw(st.sampled_from([1000, 100, 10000])), draw(st.sampled_from([100, 20, 1000]))
    return VoteCase(probabilities, selection, votes, alpha, draw(st.sampled_from([1.0, 0.25, 3.0])), beta)


def check_votes(certifier: Certifier, case: VoteCase, seed: int) -> Trial:
    """Answers to REPEATS independent pairs of vote tables."""
    rng = np.random.default_rng(seed)
    selection = rng.multinomial(case.selection, case.probabilities, REPEATS).astype(float)
    counts = rng.multinomial(case.votes, case.probabilities, REPEATS).astype(float)
    answer = certifier.function(selection, counts, case.alpha, **_keywords(certifier, case))
    return _judge(selections(answer, REPEATS), case, case.probabilities, "false_certificates_of_votes_are_rare")


@st.composite
def base_cases(draw: st.DrawFn, certifier: Certifier) -> BaseCase:
    """Linear bases at, near and far from the boundary."""
    size = draw(st.integers(1, 3))
    noise_std = draw(st.sampled_from([1.0, 0.25, 0.5]))
    gap = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
    direction = np.eye(size, dtype=np.float32)[0]
    weight = np.stack([direction, -direction]).astype(np.float32)
    base = build([c.Input((size,)), c.Linear((0,), weight, np.zeros(2, np.float32))])
    x = np.tile(direction * np.float32(gap * noise_std), (REPEATS // 3, 1)).astype(np.float32)
    p = float(scipy.stats.norm.cdf(gap))
    alpha = draw(st.sampled_from([1.0, 0.75, 0.9, 0.55]))
    return BaseCase(base, x, (p, 1 - p), alpha, noise_std, draw(st.sampled_from([0.2, 0.05])))


def check_base(certifier: Certifier, case: BaseCase, seed: int) -> Trial:
    """Answers to many copies of one input of a linear base, each with draws of its own."""
    torch.manual_seed(seed)
    module, x = PlainModule(case.base), torch.from_numpy(case.x.copy())
    answer = certifier.function(module, x, case.alpha, **_keywords(certifier, case))
    return _judge(selections(answer, len(x)), case, case.probabilities, "false_certificates_of_sampling_are_rare")


def _keywords(certifier: Certifier, case: VoteCase | BaseCase) -> dict[str, Any]:
    values = {"noise_std": case.noise_std, "failure_probability": case.failure_probability}
    return {name: value for name, value in values.items() if certifier.takes(name)}


def _judge(
    answers: list[tuple[int, float] | None], case: VoteCase | BaseCase, probabilities: tuple[float, ...], law: str
) -> Trial:
    truth = [true_radius(probabilities, y, case.alpha, case.noise_std) for y in range(len(probabilities))]
    claims = [entry for entry in answers if entry is not None and entry[1] > 0]
    false = sum(1 for y, radius in claims if not 0 <= y < len(truth) or radius > truth[y] + 1e-9)
    chance = float(scipy.stats.binom.sf(false - 1, len(answers), case.failure_probability)) if false else 1.0
    broken = None
    if chance < SIGNIFICANCE:
        evidence = (
            f"{false} of {len(answers)} certificates are false, where a failure probability of "
            f"{case.failure_probability} allows about {case.failure_probability * len(answers):.0f} "
            f"(chance {chance:.1e})"
        )
        broken = Counterexample(law, evidence, case)
    return Trial(len(claims), len(answers), broken)


LAWS: tuple[Law, ...] = (
    Law(
        "false_certificates_of_votes_are_rare", "soundness", frozenset({"counts"}), "Theorem 3.7, docs/maths.md 5a",
        f"the share of false certificates over {REPEATS} independent vote tables stays within the failure probability",
        vote_cases, check_votes,
    ),
    Law(
        "false_certificates_of_sampling_are_rare", "soundness", frozenset({"smoothed"}),
        "Theorem 3.7, docs/maths.md 5a",
        "the same for a certifier that draws its own votes of a linear base, whose smoothing is known in closed form",
        base_cases, check_base,
    ),
)  # fmt: skip
