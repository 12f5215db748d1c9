"""`pad` and `slice`: cells of an image, and beyond it.

Precondition and postcondition: `affine`. Charged: nothing here; cells keep their values, or have the one beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.rounding import Array
from proofs_check.kernel.windows import Sliding, need_stride


class Cropping(Affine):
    """Cells start, start + step, ... before stop, of each axis of the input; `value` where that lies beyond it.

    As windows of one cell, their padding is negative where cells are cut away.
    """

    def __init__(
        self, node: Any, shapes: Sequence[Shape], start: Shape, stop: Shape, step: Shape, value: float
    ) -> None:
        super().__init__(node, shapes)
        start, stop, step = (
            axes + (missing,) * (3 - len(axes)) for axes, missing in ((start, 0), (stop, 1), (step, 1))
        )
        self.pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(start, stop, shapes[0], strict=True)]
        ends = zip(start, stop, step, self.pads, strict=True)
        self.kept = tuple(slice(a + pad[0], b + pad[0], s) for a, b, s, pad in ends)
        self.sliding = Sliding((1, 1), (step[1], step[2]), (-start[1], -start[2], 0, 0))
        if value != 0:
            self._biased(np.pad(np.zeros(shapes[0]), self.pads, constant_values=value)[self.kept])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.pad(values[0], self.pads)[self.kept]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        before, after = self.pads[0]
        channels = np.zeros((*forms.values.shape[:3], before + self.shapes[0][0] + after))
        channels[..., self.kept[0]] = forms.values
        kept = channels[..., before : before + self.shapes[0][0]]
        return (self.sliding.spread(forms, lambda _i, _j: kept, self.shapes[0]),)


class Pad(Cropping):
    """Cells -before, ... of each axis, up to length + after."""

    def __init__(self, node: c.Pad, shapes: Sequence[Shape]) -> None:
        start, ends = tuple(-b for b in node.before), zip(shapes[0], node.after, strict=False)
        super().__init__(node, shapes, start, tuple(n + a for n, a in ends), (1,) * len(start), node.value)

    @staticmethod
    def shape(node: c.Pad, inputs: Sequence[Shape], place: str) -> Shape:
        (shape,) = inputs
        wellformed(len(node.before) == len(node.after) == len(shape), place, "one pad per axis and side")
        wellformed(min(node.before + node.after) >= 0, place, "pads must be >= 0")
        return tuple(map(sum, zip(node.before, shape, node.after, strict=True)))


class Slice(Cropping):
    """No cell lies beyond the input."""

    moves = True

    def __init__(self, node: c.Slice, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes, node.start, node.stop, node.step, 0.0)

    @staticmethod
    def shape(node: c.Slice, inputs: Sequence[Shape], place: str) -> Shape:
        (shape,) = inputs
        wellformed(len(node.start) == len(node.stop) == len(node.step) == len(shape), place, "one entry per axis")
        ok = all(0 <= a < b <= n and s >= 1 for a, b, s, n in zip(node.start, node.stop, node.step, shape, strict=True))
        wellformed(ok, place, f"slice {node.start}:{node.stop}:{node.step} does not fit {shape}")
        for s, n in zip(node.step, shape, strict=True):
            need_stride(s, n, place)
        return tuple(len(range(a, b, s)) for a, b, s in zip(node.start, node.stop, node.step, strict=True))
