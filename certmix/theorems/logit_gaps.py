"""Which gaps between logits are enough for the margin that Lemma 3.2 requires, and which it needs (docs/maths.md 3c).

Source: docs/maths.md 3c. Rounded to the side named, for other programs: no certificate rests on these.
"""

from __future__ import annotations

import math

from flint import arb, ctx

PRECISION = 200  # bits: doubles that are the nearest but for hard cases


def enough_up(alpha: float, temperature: float, classes: int) -> float:
    """If z_y - z_i exceeds this for every rival i, the margin exceeds (1 - alpha) / alpha.

    Requires: 1/2 < alpha <= 1, temperature > 0, classes >= 2. Ensures: at least ln((alpha + (K - 1) (1 - alpha)) /
    (2 alpha - 1)) / T.
    """
    with ctx.workprec(PRECISION):
        a = arb(alpha)
        return _up(((a + (classes - 1) * (1 - a)) / (2 * a - 1)).log() / arb(temperature))


def needed_down(alpha: float, temperature: float) -> float:
    """If the margin exceeds (1 - alpha) / alpha, z_y - z_i exceeds this for every rival i.

    Requires: 1/2 < alpha <= 1, temperature > 0. Ensures: at most -ln(2 alpha - 1) / T.
    """
    with ctx.workprec(PRECISION):
        return 0.0 - _up((2 * arb(alpha) - 1).log() / arb(temperature))


def _up(value: arb) -> float:
    """The least double that is known not to be below."""
    near = float(value.upper())
    return near if arb(near) >= value else math.nextafter(near, math.inf)
