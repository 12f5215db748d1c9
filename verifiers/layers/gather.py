"""`flatten` and `gather`: elements change place; a gather may also drop some and repeat others."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Monotone
from verifiers.layers.layer import LayerError, NodeT
from verifiers.linear_forms.forms import DenseForms, LinearForms, Summand
from verifiers.norms import NORMS

MAX_DENSE_ENTRIES = 2**24  # of a matrix that repeats elements, for engines without a step that does


@dataclass(frozen=True, eq=False)
class Moving(Monotone[NodeT]):
    """Everything in C order."""

    def on_input(self, coefficients: Tensor) -> tuple[Summand, ...]:
        """Coefficients (R, n) of the input's elements, as forms."""
        image = coefficients.reshape(-1, *self.shapes[0])
        return (DenseForms(image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image),)


@dataclass(frozen=True, eq=False)
class Flatten(Moving[c.Flatten]):
    """All elements, as a vector."""

    def value(self, *inputs: Tensor) -> Tensor:
        return low.flat(inputs[0])

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        return self.on_input(forms.coefficients)

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0]

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return at[0] if len(self.shapes[0]) == 1 else builder.push(low.Flat(at), self.shape)


@dataclass(frozen=True, eq=False)
class Gather(Moving[c.Gather]):
    """x[index]. copies: at most that many of one element."""

    @property
    def index(self) -> Tensor:
        return self.weights["index"].flatten()

    @functools.cached_property
    def copies(self) -> int:
        return int(torch.bincount(self.index).max())

    @functools.cached_property
    def inverse(self) -> Tensor | None:
        """Where every element of the input went; None where some went nowhere or to several places."""
        permuted = self.copies == 1 and len(self.index) == math.prod(self.shapes[0])
        return torch.argsort(self.index) if permuted else None

    @property
    def permutes(self) -> bool:
        return self.inverse is not None

    def value(self, *inputs: Tensor) -> Tensor:
        return low.flat(inputs[0]).index_select(1, self.index).unflatten(1, self.shape)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        flat = forms.to_dense().coefficients.flatten(1)
        if self.inverse is not None:
            return self.on_input(flat.index_select(1, self.inverse))
        below = flat.new_zeros(len(flat), math.prod(self.shapes[0]))
        return self.on_input(below.index_add(1, self.index, flat))

    @property
    def terms(self) -> int:
        return self.copies

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0] * NORMS[norm].of_ones(self.copies)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        """What repeats elements is a matrix: auto_LiRPA's own step for it loses copies."""
        size = math.prod(self.shapes[0])
        k = at[0] if len(self.shapes[0]) == 1 else builder.push(low.Flat(at), (size,))
        if self.copies == 1:
            return builder.push(low.Pick((k,), self.index.long(), self.shape), self.shape)
        if size * len(self.index) > MAX_DENSE_ENTRIES:
            raise LayerError(f"no bounds for a gather that repeats some of {size} elements, {len(self.index)} in all")
        matrix = torch.zeros(len(self.index), size, dtype=torch.float64)
        matrix[torch.arange(len(self.index)), self.index.long()] = 1.0
        dense = builder.push(low.Dense((k,), matrix, matrix.new_zeros(len(matrix))), (len(matrix),))
        if len(self.shape) == 1:
            return dense
        return builder.push(low.Pick((dense,), torch.arange(len(matrix)), self.shape), self.shape)
