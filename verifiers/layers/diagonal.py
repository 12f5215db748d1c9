"""`batch_norm`, `shift`, `scale` and `divide`: a factor and an offset for every element."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Affine, with_weights
from verifiers.layers.layer import Interval, NodeT
from verifiers.linear_forms.forms import FormToInput, LinearForms, Summand, dot


@dataclass(frozen=True, eq=False)
class Diagonal(Affine[NodeT]):
    """x * factor + shift, elementwise."""

    @functools.cached_property
    def gain_and_shift(self) -> tuple[Tensor, Tensor]:
        """(factor, shift), each broadcastable against the value; in the weights' dtype."""
        dtype = next(iter(self.weights.values())).dtype
        factor, shift = self.in_float64({name: weight.double() for name, weight in self.weights.items()})
        return factor.to(dtype), shift.to(dtype)

    @abc.abstractmethod
    def in_float64(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`gain_and_shift` from float64 weights."""

    def gain(self) -> Tensor | None:
        return self.gain_and_shift[0]

    def at(self, *points: Tensor) -> Tensor:
        factor, shift = self.gain_and_shift
        return points[0] * factor + shift

    def interval(self, *inputs: Interval) -> Interval:
        ends = self.at(inputs[0][0]), self.at(inputs[0][1])
        return torch.minimum(*ends), torch.maximum(*ends)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        factor = self._gathered(forms, self.gain_and_shift[0])
        return (forms.with_grouped(forms.grouped(factor) * factor),)

    def offset(self, forms: LinearForms) -> Tensor | None:
        shift = self._gathered(forms, self.gain_and_shift[1])
        return dot(forms.grouped(shift), shift)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.affine(low.diagonal(at, self.shape, *self.gain_and_shift), only, self.shape)

    def _gathered(self, forms: LinearForms, parameter: Tensor) -> Tensor:
        """A parameter of every element, laid out as the forms are."""
        everyone = FormToInput(torch.zeros(len(forms.coefficients), dtype=torch.long, device=parameter.device), None)
        return forms.gather(parameter.expand(self.shape)[None], everyone)


@dataclass(frozen=True, eq=False)
class BatchNorm(Diagonal[c.BatchNorm]):
    """scale (x - mean) / sqrt(variance + epsilon) + shift, per channel."""

    def value(self, *inputs: Tensor) -> Tensor:
        mean, variance, scale, shift = (self.weights[name] for name in ("mean", "variance", "scale", "shift"))
        return F.batch_norm(inputs[0], mean, variance, scale, shift, False, 0.0, self.node.epsilon)

    def linear(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.zeros_like, "shift", "mean"))

    def absolute(self) -> Self:
        linear = self.linear()
        return dataclasses.replace(linear, weights=with_weights(linear.weights, torch.abs, "scale"))

    def bias_size(self) -> Tensor | float:
        part = {name: weight.abs() for name, weight in self.weights.items()}
        size = part["scale"] * part["mean"] / (part["variance"] + self.node.epsilon).sqrt() + part["shift"]
        return size.view((-1,) + (1,) * (len(self.shape) - 1))

    def in_float64(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        factor = weights["scale"] / (weights["variance"] + self.node.epsilon).sqrt()
        per_channel = (-1,) + (1,) * (len(self.shape) - 1)
        return factor.view(per_channel), (weights["shift"] - weights["mean"] * factor).view(per_channel)


@dataclass(frozen=True, eq=False)
class Shift(Diagonal[c.Shift]):
    """x + constant."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + self.weights["constant"]

    def in_float64(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.ones_like(weights["constant"]), weights["constant"]

    def linear(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.zeros_like, "constant"))

    def absolute(self) -> Self:
        return self.linear()

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0]


@dataclass(frozen=True, eq=False)
class Scale(Diagonal[c.Scale]):
    """x * constant."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.weights["constant"]

    def in_float64(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return weights["constant"], torch.zeros_like(weights["constant"])

    def linear(self) -> Self:
        return self

    def absolute(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.abs, "constant"))


@dataclass(frozen=True, eq=False)
class Divide(Diagonal[c.Divide]):
    """x / constant."""

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] / self.weights["constant"]

    def in_float64(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return 1.0 / weights["constant"], torch.zeros_like(weights["constant"])

    def linear(self) -> Self:
        return self

    def absolute(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.abs, "constant"))
