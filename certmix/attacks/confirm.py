"""Is a float32 counterexample real? Containment in exact rationals, the mix's classes in Arb enclosures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from flint import arb, ctx
from numpy.typing import NDArray
from torch import nn

from certmix.attacks.adaptive_weight import moved, weight_at
from certmix.attacks.arb_network import logits_in_arb
from certmix.attacks.running_error import Approximate, logits_with_error
from certmix.mixing.adaptive import AdaptiveMix
from proofs_check.certificate import Norm, PlainNetwork
from verifiers.norms import NORMS

PRECISION_BITS = 256

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Confirmed:
    """In real arithmetic on the stored weights, the mix's probability of `rival` exceeds that of the predicted class.

    margin_down: a lower bound, > 0, of the difference.
    """

    rival: int
    margin_down: float


@dataclass(frozen=True)
class Float32Only:
    """Not confirmed: only the float32 models say so. `reason` is what stood in the way."""

    reason: str


def contained(
    candidate: Float32Array, x: Float32Array, radius: float, norm: Norm, domain: tuple[float, float] | None
) -> bool:
    """Whether candidate lies in ball and box, in rational arithmetic. float32 arrays of one shape, finite."""
    if candidate.shape != x.shape or not (np.isfinite(candidate).all() and np.isfinite(x).all()):
        return False
    points = [Fraction(float(v)) for v in candidate.ravel()]
    offsets = [abs(p - Fraction(float(v))) for p, v in zip(points, x.ravel(), strict=True)]
    inside = NORMS[norm].within(offsets, Fraction(radius))
    if domain is None or not inside:
        return inside
    low, high = Fraction(domain[0]), Fraction(domain[1])
    return all(low <= p <= high for p in points)


def confirm(
    candidate: Float32Array,
    x: Float32Array,
    radius: float,
    norm: Norm,
    domain: tuple[float, float] | None,
    standard: PlainNetwork | nn.Module | None,
    robust: PlainNetwork,
    alpha: float,
    temperature: float,
    predicted: int,
    adaptive: AdaptiveMix | None = None,
) -> Confirmed | Float32Only:
    """Decide whether `candidate` refutes "the mix predicts `predicted` on the whole ball around x".

    Ensures: Confirmed only if the candidate lies in ball and box exactly and some rival i has
    (1−α) softmax(g)_i + α softmax(T h)_i > the same at `predicted`, strictly, in real arithmetic. A g that is not
    a plain network has exactly the float32 logits that it gives: a claim about every g covers the one that is constant
    with these. None counts as anything in [0, 1] (Lemma 3.2), which suffices where h alone loses by enough.
    adaptive: the mix, where its α depends on the input or h's logits are transformed; alpha is then a lower bound of α.
    """
    if not contained(candidate, x, radius, norm, domain):
        return Float32Only(f"the candidate is not in the {norm} ball of radius {radius} intersected with {domain}")
    return evaluate(candidate, standard, robust, alpha, temperature, predicted, adaptive)


def evaluate(
    point: Float32Array,
    standard: PlainNetwork | nn.Module | None,
    robust: PlainNetwork,
    alpha: float,
    temperature: float,
    predicted: int,
    adaptive: AdaptiveMix | None = None,
) -> Confirmed | Float32Only:
    """`confirm` at `point` itself, wherever it lies."""
    needed = standard if alpha < 1 else None
    given = _given(needed, point) if isinstance(needed, nn.Module) else None
    for logits in (_in_float64, _in_arb):  # the second is slow
        weight = arb(alpha) if adaptive is None else weight_at(adaptive, point, logits)
        of_robust = moved(logits(robust, point), None if adaptive is None else adaptive.transform)
        of_standard = logits(needed, point) if isinstance(needed, PlainNetwork) else given
        decided = _decide(of_standard, of_robust, weight, temperature, predicted)
        if decided is not None:
            return decided
    if alpha < 1 and not isinstance(needed, PlainNetwork) and given is None:
        return Float32Only("the standard model is not at hand: it may make up for all that h loses")
    return Float32Only("evaluated rigorously, no class exceeds the predicted one")


def _given(standard: nn.Module, point: Float32Array) -> list[arb] | None:
    """The logits of a module as it gives them; None where they are not finite."""
    with torch.no_grad():
        logits = standard(torch.from_numpy(point)[None])[0].double().cpu().numpy()
    return [arb(float(z)) for z in logits] if np.isfinite(logits).all() else None


def _in_float64(network: PlainNetwork, point: Float32Array) -> list[arb]:
    return _balls(logits_with_error(network, point))


def _in_arb(network: PlainNetwork, point: Float32Array) -> list[arb]:
    return logits_in_arb(network, point, PRECISION_BITS)


def _balls(logits: Approximate) -> list[arb]:
    """Arb enclosures of the logits; an error that is not finite encloses everything."""
    return [
        arb(float(v), float(e)) if np.isfinite(v) and np.isfinite(e) else arb(0, float("inf"))
        for v, e in zip(logits.value, logits.error, strict=True)
    ]


def _decide(
    standard: list[arb] | None, robust: list[arb], weight: arb, temperature: float, predicted: int
) -> Confirmed | None:
    """The rival with the largest proven lead over `predicted`, if any has one. standard None: any g."""
    before = ctx.prec
    ctx.prec = PRECISION_BITS
    try:
        of_robust = _softmax([arb(temperature) * z for z in robust])
        of_given_standard = None if standard is None else _softmax(standard)
        leads: list[tuple[float, int]] = []
        for i in range(len(of_robust)):
            if i == predicted:
                continue
            # |g_i − g_y| ≤ 1 whatever g
            of_standard = arb(-1) if of_given_standard is None else of_given_standard[i] - of_given_standard[predicted]
            lead = (1 - weight) * of_standard + weight * (of_robust[i] - of_robust[predicted])
            if lead > 0:
                leads.append((_below(lead), i))
        return Confirmed(rival=max(leads)[1], margin_down=max(leads)[0]) if leads else None
    finally:
        ctx.prec = before


def _below(lead: arb) -> float:
    """A double at most `lead` (> 0): its lower end, one step down; 0 only under underflow."""
    return max(0.0, float(np.nextafter(float(lead.lower()), -np.inf)))


def _softmax(logits: list[arb]) -> list[arb]:
    """softmax_i = 1 / Σ_j exp(z_j − z_i): each term meets z_i once, and exp(0) = 1 is exact."""
    return [
        1 / sum((arb(1) if j == i else (z_j - z_i).exp() for j, z_j in enumerate(logits)), arb(0))
        for i, z_i in enumerate(logits)
    ]
