"""Lines below and above the nodes of a network: docs/maths.md 9, and MaxMin written with one ReLU."""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

v, low, high, slope, leak, chord, a, b = reals("v low high slope leak chord a b")
relu = z3.If(v > 0, v, 0)
leaky = z3.If(v > 0, v, leak * v)
positive = z3.If(a - b > 0, a - b, 0)

THEOREMS = (
    Theorem(
        "line below a ReLU",
        "max(v, 0) >= slope v for every slope in [0, 1].",
        {"slope >= 0": slope >= 0, "slope <= 1": slope <= 1},
        relu >= slope * v,
        layers=("Relu",),
    ),
    Theorem(
        "line above a ReLU",
        "On [low, high] around 0 the chord is above max(v, 0).",
        {
            "v >= low": v >= low,
            "v <= high": v <= high,
            "low < 0": low < 0,
            "high > 0": high > 0,
            "chord": chord * (high - low) == high,
        },
        relu <= chord * (v - low),
        layers=("Relu",),
    ),
    Theorem(
        "line below a leaky ReLU",
        "The leaky ReLU is at least slope v for every slope between its own and 1.",
        {"slope >= leak": slope >= leak, "slope <= 1": slope <= 1},
        leaky >= slope * v,
        layers=("LeakyRelu",),
    ),
    Theorem(
        "MaxMin with one ReLU",
        "(b + r, a - r) with r = max(a - b, 0) is (max, min), and has the length of (a, b).",
        {},
        z3.And((b + positive) ** 2 + (a - positive) ** 2 == a * a + b * b, b + positive >= a, a - positive <= b),
        beside=True,
    ),
)
