"""Networks built around a counterexample that sampling and gradients do not find (SoundnessBench's idea, analytic).

Three constructions, each with the hidden point in `Problem.suspects`: a spike, a plateau seen only by exact
arithmetic (weights up to 2^60 that cancel), and exact ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from certmix.testing.problem import Problem, constant_network
from certmix.testing.protocol import Certifier
from certmix.testing.strategies import Source, standard_network
from proofs_check import certificate as c
from verifiers.network.module import build


def spike_network(
    center: NDArray[np.float32], width: float, height: float, base: NDArray[np.float32], rival: int
) -> c.PlainNetwork:
    """Logits `base`, except on the l1 ball of radius `width` around `center`, where `rival` rises by `height`.

    relu(width - sum_j |x_j - c_j|) in two ReLU layers; outside the little ball every gradient is zero.
    """
    size, classes = len(center), len(base)
    difference_weight = np.concatenate([np.eye(size), -np.eye(size)]).astype(np.float32)
    sum_weight = -np.ones((1, 2 * size), np.float32)
    height_weight = np.zeros((classes, 1), np.float32)
    height_weight[rival] = height / width
    return build(
        [
            c.Input((size,)),
            c.Linear((0,), difference_weight, np.concatenate([-center, center]).astype(np.float32)),
            c.Relu((1,)),
            c.Linear((2,), sum_weight, np.array([width], np.float32)),
            c.Relu((3,)),
            c.Linear((4,), height_weight, base),
        ]
    )


def blind_network(size: int, base: NDArray[np.float32], rival: int, power: int) -> c.PlainNetwork:
    """The rival's logit is base + 64 relu(x_0 - 1/2) + 2^power relu(s) - 2^power relu(s), s = 1 + sum x.

    The two last terms cancel exactly, but summed in this order the large one swallows the small one, which alone
    decides the class. In real arithmetic the rival wins where x_0 > 1/2 + base_0 / 64.
    """
    classes, big = len(base), np.float32(2.0**power)
    first = np.zeros((3, size), np.float32)
    first[0, 0] = 1.0
    first[1:] = 1.0
    last = np.zeros((classes, 3), np.float32)
    last[rival] = [64.0, big, -big]
    return build(
        [
            c.Input((size,)),
            c.Linear((0,), first, np.array([-0.5, 1.0, 1.0], np.float32)),
            c.Relu((1,)),
            c.Linear((2,), last, base),
        ]
    )


def blind_jump_network(size: int, base: NDArray[np.float32], rival: int, power: int) -> c.PlainNetwork:
    """The rival's logit is base + 2^power (relu(s + 2^-power) - relu(s)), s = 1 + sum x: a lead that floats lose.

    Multiplied by 8, so that the rival wins everywhere in real arithmetic while rounding shows `base` alone.
    """
    first = np.ones((2, size), np.float32)
    last = np.zeros((len(base), 2), np.float32)
    last[rival] = [8 * 2.0**power, -8 * 2.0**power]
    tiny = np.array([[2.0**-power], [0.0]], np.float32)
    return build(
        [
            c.Input((size,)),
            c.Linear((0,), first, np.array([1.0, 1.0], np.float32)),
            c.Shift((1,), tiny.reshape(2)),
            c.Relu((2,)),
            c.Linear((3,), last, base),
        ]
    )


@st.composite
def spikes(draw: st.DrawFn, certifier: Certifier) -> Problem:
    """A confident classifier with one hidden spike close to the input."""
    source = Source(draw)
    size, classes = source.whole(2, 4), source.whole(2, 3)
    base = np.zeros(classes, np.float32)
    base[0] = draw(st.sampled_from([4.0, 2.0, 8.0]))
    rival = source.whole(1, classes - 1)
    x = source.numbers((1, size)) * np.float32(0.125)
    signs = np.where(source.numbers((size,)) < 0, -1, 1).astype(np.float32)
    offset = np.float32(draw(st.sampled_from([0.25, 0.125, 0.5])))
    hidden = x[0] + signs * offset
    robust = spike_network(hidden, 2.0**-6, 32.0, base, rival)
    return _problem(source, certifier, robust, x, rival, 2.0 * float(offset) * size, hidden[None])


@st.composite
def blind_spots(draw: st.DrawFn, certifier: Certifier) -> Problem:
    """Classifiers whose class floating point gets wrong: cancelling weights up to 2^60."""
    source = Source(draw)
    size, classes = source.whole(1, 3), source.whole(2, 3)
    base = np.zeros(classes, np.float32)
    base[0] = 4.0
    rival = source.whole(1, classes - 1)
    power = draw(st.sampled_from([60, 24, 30, 40, 52]))
    x = np.zeros((1, size), np.float32)
    hidden = x[0].copy()
    hidden[0] = 0.75
    if draw(st.booleans()):
        robust = blind_network(size, base, rival, power)
    else:
        robust = blind_jump_network(size, base, rival, power)
        hidden[0] = -2.0 * size
    return _problem(source, certifier, robust, x, rival, 4.0 * size, hidden[None])


@st.composite
def ties(draw: st.DrawFn, certifier: Certifier) -> Problem:
    """Two classes with equal logits everywhere, or logits one float32 step apart, or equal at the input only."""
    source = Source(draw)
    size, classes = source.whole(1, 3), source.whole(2, 3)
    weight, bias = source.numbers((classes, size)), source.numbers((classes,))
    weight[1], bias[1] = weight[0], bias[0] + np.float32(1)
    bias[0] = bias[1]
    kind = draw(st.sampled_from(["equal", "step", "here"]))
    x = np.zeros((source.whole(1, 2), size), np.float32)
    if kind == "step":
        bias[0] = np.nextafter(bias[1], np.float32(np.inf))
        weight[0, 0] -= np.float32(1)
    elif kind == "here":
        weight[0, 0] += np.float32(1)
    robust = build([c.Input((size,)), c.Linear((0,), weight, bias)])
    return _problem(source, certifier, robust, x, 1, 1.0, np.full((1, size), 2.0**-20), alphas=(1.0, 0.5, 0.75))


def _problem(
    source: Source,
    certifier: Certifier,
    robust: c.PlainNetwork,
    x: NDArray[np.float32],
    rival: int,
    radius: float,
    suspects: NDArray[Any],
    alphas: tuple[float, ...] = (1.0, 0.75),
) -> Problem:
    standard, alpha = robust, 1.0
    if certifier.protocol == "mix":
        alpha = source.draw(st.sampled_from(alphas))
        logits = np.zeros(robust.classes, np.float32)
        logits[source.draw(st.sampled_from([rival, 0]))] = 64.0
        worst = constant_network(robust.input_shape, logits)
        standard = worst if source.draw(st.booleans()) else standard_network(source, "switching", robust)
    norm = source.draw(st.sampled_from(certifier.norms))
    return Problem(standard, robust, x, alpha, 1.0, norm, radius, None, suspects.astype(np.float64))
