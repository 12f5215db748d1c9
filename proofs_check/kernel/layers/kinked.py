"""`abs`, `elu` and `hard_swish`: curves with a formula for every piece, all of them convex.

Precondition, postcondition and charge: `curve`; nothing for what `abs` does in float32, where it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flint import arb

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.arithmetic import Arithmetic
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.rounding import Array


class Abs(Curve):
    """-x, then x."""

    borders, bends, kinked, limits = (arb(0),), (1, 1), True, (-1.0, 1.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return (-x, x)[piece]

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 0 * x + (-1, 1)[piece]

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        return errors[0]


class Elu(Curve):
    """alpha (exp(x) - 1), then x."""

    borders, bends, kinked, limits = (arb(0),), (1, 1), True, (0.0, 1.0)

    def __init__(self, node: c.Elu, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.alpha = node.alpha

    @staticmethod
    def shape(node: c.Elu, inputs: Sequence[Shape], place: str) -> Shape:
        wellformed(0 <= node.alpha <= 1e6, place, f"alpha must lie in [0, 1e6], got {node.alpha}")
        return inputs[0]

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x if piece else self.alpha * (f.exp(x) - 1)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 0 * x + 1 if piece else self.alpha * f.exp(x)


class HardSwish(Curve):
    """0, then x (x + 3) / 6, then x."""

    borders, bends, kinked, limits = (arb(-3), arb(3)), (1, 1, 1), True, (0.0, 1.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return (0 * x, x * (x + 3) / 6, x)[piece]

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return (0 * x, (2 * x + 3) / 6, 0 * x + 1)[piece]


KINDS: dict[type[c.Node], type[Curve]] = {c.Abs: Abs, c.HardSwish: HardSwish, c.Elu: Elu}
