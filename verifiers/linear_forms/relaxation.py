"""Linear relaxations of nonlinear nodes, above and below, on each neuron's interval: what they make of linear forms."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from verifiers.linear_forms.blocks import Pair, space_to_depth
from verifiers.linear_forms.forms import (
    BlockForms,
    DenseForms,
    FormToInput,
    LinearForms,
    PatchForms,
    channels_last,
    dot,
)

MAX_UNSTABLE_SHARE = 0.3  # of a layer's neurons; picking them out is faster than treating all alike


class Relaxation(abc.ABC):
    """Lines above and below one node on N inputs."""

    @abc.abstractmethod
    def backward(self, forms: LinearForms, form_to_input: FormToInput) -> tuple[LinearForms, Tensor]:
        """Forms on the node's input and constants (R,), whose sum bounds the forms on its value from above: positive
        coefficients take the upper line, negative ones the lower."""

    @abc.abstractmethod
    def pick(self, index: Tensor | slice) -> Self:
        """The inputs `index`."""


@dataclass(frozen=True, eq=False)
class SparseRelaxation:
    """ReLUs of one input, channels last: slope (n,) of every lower line, through 0; the upper lines are the same but at
    the neurons `unstable` (m,), where they are steeper by `excess` (m,) and have an `intercept` (m,)."""

    slope: Tensor
    unstable: Tensor
    excess: Tensor
    intercept: Tensor

    def backward(self, forms: DenseForms | BlockForms) -> tuple[LinearForms, Tensor]:
        """As `Relaxation.backward`."""
        coefficients = channels_last(forms.coefficients).flatten(1)
        positive = coefficients.index_select(1, self.unstable).clamp(min=0)
        below = coefficients.mul_(self.slope) if forms.writable else coefficients * self.slope
        pulled = below.index_add_(1, self.unstable, positive * self.excess)
        return forms.with_grouped(pulled), positive @ self.intercept


@dataclass(frozen=True, eq=False)
class LinearRelaxation(Relaxation):
    """upper_slope x + upper_intercept above, lower_slope x + lower_intercept (None: 0) below; (N, *shape) each.

    memo: of `sparse`.
    """

    upper_slope: Tensor
    upper_intercept: Tensor
    lower_slope: Tensor
    lower_intercept: Tensor | None = None
    memo: dict[Pair, SparseRelaxation | None] = field(init=False, default_factory=lambda: {})

    def backward(self, forms: LinearForms, form_to_input: FormToInput) -> tuple[LinearForms, Tensor]:
        if not isinstance(forms, PatchForms) and (sparse := self.sparse(forms.block)) is not None:
            return sparse.backward(forms)
        excess, below, intercept = (
            forms.gather(v, form_to_input)
            for v in (self.upper_slope - self.lower_slope, self.lower_slope, self.upper_intercept)
        )
        coefficients = forms.grouped(below)
        positive = coefficients.clamp(min=0)
        pulled = torch.addcmul(coefficients * below, positive, excess)
        constant = dot(positive, intercept)
        if self.lower_intercept is not None:
            constant = constant + dot(coefficients - positive, forms.gather(self.lower_intercept, form_to_input))
        return forms.with_grouped(pulled), constant

    def sparse(self, block: Pair) -> SparseRelaxation | None:
        """Of one input's ReLUs, in space-to-depth blocks: by those that are not exactly linear, if these are few."""
        if len(self.upper_slope) > 1 or self.lower_intercept is not None:
            return None
        if block not in self.memo:
            split = (v if block == (1, 1) else space_to_depth(v, block) for v in self._lines_of_relu())
            above, slope, intercept = (channels_last(v).flatten() for v in split)
            unstable = ((above != slope) | (intercept != 0)).nonzero().flatten()
            sparse = SparseRelaxation(slope, unstable, (above - slope)[unstable], intercept[unstable])
            self.memo[block] = sparse if len(unstable) < MAX_UNSTABLE_SHARE * len(slope) else None
        return self.memo[block]

    def _lines_of_relu(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.upper_slope, self.lower_slope, self.upper_intercept

    def pick(self, index: Tensor | slice) -> LinearRelaxation:
        below = None if self.lower_intercept is None else self.lower_intercept[index]
        return LinearRelaxation(self.upper_slope[index], self.upper_intercept[index], self.lower_slope[index], below)
