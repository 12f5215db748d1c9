"""`add`: the sum of two values, a residual connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers.affine import Monotone
from verifiers.linear_forms.forms import LinearForms, Summand


@dataclass(frozen=True, eq=False)
class Add(Monotone[c.Add]):
    """a + b."""

    mixes: ClassVar[bool] = True
    adds: ClassVar[bool] = True

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + inputs[1]

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        return forms.shared(), forms.shared()

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return sum(before)
