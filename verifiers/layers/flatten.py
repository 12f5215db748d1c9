"""`flatten`: an image as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Monotone
from verifiers.linear_forms.forms import DenseForms, LinearForms, Summand


@dataclass(frozen=True, eq=False)
class Flatten(Monotone[c.Flatten]):
    """In C order."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        image = forms.coefficients.reshape(-1, *self.shapes[0])
        return (DenseForms(image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image),)

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0]

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return at[0] if len(self.shapes[0]) == 1 else builder.push(low.Flat(at), self.shape)
