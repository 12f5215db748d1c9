"""What formulas of curves are made of: with Arb balls they prove, with arrays of floats they propose.

Precondition: none. Postcondition of EXACT: a ball that holds the function of every real in the given one, in Arb.
Charged: by Arb, to the radius; nothing for FLOATS, whose numbers only propose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb


@dataclass(frozen=True)
class Arithmetic:
    """Of one type of number."""

    exp: Callable[[Any], Any]
    erfc: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    logistic: Callable[[Any], Any]
    softplus: Callable[[Any], Any]
    pi: Any


EXACT = Arithmetic(arb.exp, arb.erfc, arb.tanh, lambda x: 1 / (1 + (-x).exp()), lambda x: x.exp().log1p(), arb.pi())
FLOATS = Arithmetic(
    np.exp,
    np.vectorize(math.erfc, otypes=[np.float64]),
    np.tanh,
    lambda y: 0.5 + 0.5 * np.tanh(0.5 * y),
    lambda y: np.logaddexp(0.0, y),
    math.pi,
)
