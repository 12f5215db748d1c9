"""`add`: the sum of two values, a residual connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
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

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        if at[0] == at[1]:  # x + x
            two = torch.full((1,) * len(self.shape), 2.0, dtype=torch.float64)
            return builder.affine(low.diagonal(at[:1], self.shape, two, 0 * two), False, self.shape)
        return builder.push(low.Sum(at), self.shape)
