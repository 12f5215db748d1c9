"""Elementwise kinds as functions on Arb balls. Attacks' evaluators take a kind from here unless they do it faster.

Written apart from engines and judge on purpose (docs/decisions 7). To add an elementwise kind: one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flint import arb

from proofs_check import certificate as c

Function = Callable[[arb], arb]

FUNCTIONS: dict[type[c.Node], Callable[[Any], Function]] = {
    c.Relu: lambda node: lambda t: t.max(arb(0)),
    c.LeakyRelu: lambda node: lambda t: t.max(arb(node.slope) * t),  # 0 <= slope <= 1
    c.Sigmoid: lambda node: lambda t: 1 / (1 + (-t).exp()),
    c.Tanh: lambda node: lambda t: t.tanh(),
    c.Softplus: lambda node: lambda t: t.exp().log1p(),
    c.Exp: lambda node: lambda t: t.exp(),
    c.Square: lambda node: lambda t: t**2,
    c.Cube: lambda node: lambda t: t**3,
    c.Erf: lambda node: lambda t: t.erf(),
    c.Abs: lambda node: lambda t: abs(t),
    c.HardSwish: lambda node: lambda t: t * (t + 3).max(arb(0)).min(arb(6)) / 6,
    c.Elu: lambda node: lambda t: t.max(arb(0)) + arb(node.alpha) * t.min(arb(0)).expm1(),
    c.Gelu: lambda node: lambda t: t * (1 + (t / arb(node.divisor)).erf()) / 2,
    c.InversePower: lambda node: lambda t: t ** -arb(node.exponent),
    c.SquareRoot: lambda node: lambda t: t.sqrt(),
    c.Swish: lambda node: lambda t: t / (1 + (-(arb(node.linear) * t + arb(node.cubic) * t**3)).exp()),
}


def function(node: c.Node) -> Function | None:
    """Of an elementwise node; None of another."""
    found = FUNCTIONS.get(type(node))
    return None if found is None else found(node)
