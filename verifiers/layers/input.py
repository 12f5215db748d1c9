"""`input`: the network's input, which is given and not computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Affine
from verifiers.layers.layer import Interval
from verifiers.linear_forms.forms import LinearForms, Summand

WAY_OUT = "it is what the others are computed from"


@dataclass(frozen=True, eq=False)
class Input(Affine[c.Input]):
    """Node 0."""

    def value(self, *inputs: Tensor) -> Tensor:
        self.refuse("value", WAY_OUT)

    def interval(self, *inputs: Interval) -> Interval:
        self.refuse("interval", WAY_OUT)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        self.refuse("adjoint", WAY_OUT)

    def linear(self) -> Self:
        return self

    def absolute(self) -> Self:
        return self

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return 1.0

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Source(), self.shape)
