"""`pad` and `slice`: elements of the input, and constants around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Monotone
from verifiers.linear_forms.forms import DenseForms, LinearForms, Summand


@dataclass(frozen=True, eq=False)
class Pad(Monotone[c.Pad]):
    """x surrounded with `node.value`."""

    def value(self, *inputs: Tensor) -> Tensor:
        sides = [n for pair in reversed(list(zip(self.node.before, self.node.after, strict=True))) for n in pair]
        return F.pad(inputs[0], sides, value=self.node.value)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        return (DenseForms(self._inside(forms.to_dense().coefficients)),)

    def offset(self, forms: LinearForms) -> Tensor | None:
        coefficients = forms.to_dense().coefficients
        inside = self._inside(coefficients)
        return self.node.value * (coefficients.flatten(1).sum(1) - inside.flatten(1).sum(1))

    def linear(self) -> Self:
        return dataclasses.replace(self, node=dataclasses.replace(self.node, value=0.0))

    def absolute(self) -> Self:
        return self.linear()

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0]

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        before, after, fill = self.shapes[0], self.shape, self.node.value
        start = tuple(-n for n in self.node.before)
        k = builder.push(low.selection(at, before, after, start, (1,) * len(before)), after)
        if fill == 0:
            return k
        shift = torch.full(after, fill, dtype=torch.float64)
        self._inside(shift[None]).zero_()
        kind = low.Diagonal if len(after) == 1 else low.Pointwise
        return builder.push(kind((k,), torch.ones_like(shift), shift), after)

    def _inside(self, padded: Tensor) -> Tensor:
        inner = (slice(b, b + n) for b, n in zip(self.node.before, self.shapes[0], strict=True))
        return padded[(slice(None), *inner)]


@dataclass(frozen=True, eq=False)
class Slice(Monotone[c.Slice]):
    """x[start:stop:step] per axis."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0][self._ranges]

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        coefficients = forms.to_dense().coefficients
        spread = coefficients.new_zeros(len(coefficients), *self.shapes[0])
        spread[self._ranges] = coefficients
        return (DenseForms(spread),)

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0]

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        step = low.selection(at, self.shapes[0], self.shape, self.node.start, self.node.step)
        return builder.push(step, self.shape)

    @property
    def _ranges(self) -> tuple[slice, ...]:
        ranges = zip(self.node.start, self.node.stop, self.node.step, strict=True)
        return (slice(None), *(slice(a, b, s) for a, b, s in ranges))
