"""`product`: two factors, one behind the other along the channels, multiplied element by element.

Relaxation: for any p and q, x y = q x + p y - p q + (x - p)(y - q), and on a box the last product is largest and least
at corners. The judge draws its lines through the same points (proofs_check/kernel/layers/product.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.layer import Interval
from verifiers.layers.nonlinear import Nonlinear
from verifiers.linear_forms.forms import DenseForms, FormToInput, LinearForms, dot
from verifiers.linear_forms.relaxation import Relaxation


@dataclass(frozen=True, eq=False)
class Product(Nonlinear[c.Product]):
    """x y of the halves x and y of the input; a tap for each."""

    def value(self, *inputs: Tensor) -> Tensor:
        x, y = inputs[0].chunk(2, dim=1)
        return x * y

    def interval(self, *inputs: Interval) -> Interval:
        products = _corners(*_factors(*inputs[0]))
        return products.amin(0), products.amax(0)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> ProductRelaxation:
        x, y = _factors(lower, upper)
        (above, top), (below, bottom) = _line(1, x, y), _line(-1, x, y)
        return ProductRelaxation(above, top, below, -bottom)

    def forms_below(self, forms: LinearForms) -> LinearForms:
        return DenseForms(forms.coefficients.new_zeros(len(forms.coefficients), *self.shapes[0]))

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        """Of each factor the other one."""
        if not bool(torch.isfinite(lower + upper).all()):
            self.refuse("range of derivatives on the whole space", "bound them on a ball")
        least, most = (self.at_taps(v).flip(2) for v in (lower, upper))
        return least, most

    @property
    def taps(self) -> int:
        return 2

    def rounding(self, x: Tensor) -> Tensor:
        return 2.0**-52 * self.value(x).abs() + 2.0**-900

    def at_taps(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 2, self.shape[0], -1).movedim(1, 2)

    def from_taps(self, x: Tensor) -> Tensor:
        return x.movedim(2, 1).reshape(len(x), *self.shapes[0])

    def over_taps(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), self.shape[0], 1, -1)

    def sum_of_taps(self, x: Tensor) -> Tensor:
        return x.sum(dim=2).reshape(len(x), *self.shape)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        self.refuse("steps for auto_LiRPA", "take the native engine (--engine crown)")

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        self.refuse("Lipschitz constant on the whole space", "bound derivatives on a ball")


@dataclass(frozen=True, eq=False)
class ProductRelaxation(Relaxation):
    """Planes above and below; slopes (N, *shape of the input), those of the first factor first; intercepts
    (N, *shape)."""

    upper_slope: Tensor
    upper_intercept: Tensor
    lower_slope: Tensor
    lower_intercept: Tensor

    def backward(self, forms: LinearForms, form_to_input: FormToInput) -> tuple[LinearForms, Tensor]:
        dense = forms.to_dense()
        above, below = (dense.gather(v, form_to_input) for v in (self.upper_intercept, self.lower_intercept))
        coefficients = dense.grouped(above)
        positive = coefficients.clamp(min=0)
        negative = coefficients - positive
        constant = dot(positive, above) + dot(negative, below)
        above, below = (dense.gather(v, form_to_input) for v in (self.upper_slope, self.lower_slope))
        pulled = torch.cat([positive, positive], -1) * above + torch.cat([negative, negative], -1) * below
        return _images(pulled, dense), constant

    def pick(self, index: Tensor | slice) -> ProductRelaxation:
        parts = (self.upper_slope, self.upper_intercept, self.lower_slope, self.lower_intercept)
        return ProductRelaxation(*(part[index] for part in parts))


def _images(grouped: Tensor, like: DenseForms) -> DenseForms:
    """Forms of twice as many channels, from coefficients as `LinearForms.grouped` lays them out."""
    flat = grouped.flatten(0, 1)
    return DenseForms(flat.permute(0, 3, 1, 2) if like.coefficients.dim() == 4 else flat, owned=True)


def _factors(lower: Tensor, upper: Tensor) -> tuple[Interval, Interval]:
    """Lower and upper bounds of each."""
    (low_x, low_y), (high_x, high_y) = lower.chunk(2, dim=1), upper.chunk(2, dim=1)
    return (low_x, high_x), (low_y, high_y)


def _corners(x: Interval, y: Interval) -> Tensor:
    """(4, N, *shape): products of ends."""
    return torch.stack([a * b for a in x for b in y])


def _line(sign: int, x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """Slopes (q, p), one behind the other, and t: sign x y <= sign (q x + p y) + t on the box. Of three planes alike in
    the middle, two at corners and one between them, the one that reaches least far."""
    middles, halves = [(low + high) / 2 for low, high in (x, y)], [(high - low) / 2 for low, high in (x, y)]
    turned = y[::-1] if sign > 0 else y
    points = [(x[0], turned[0]), (x[1], turned[1]), (middles[0], middles[1])]
    reaches = [
        sign * (q * middles[0] + p * middles[1])
        + q.abs() * halves[0]
        + p.abs() * halves[1]
        + _intercept(sign, x, y, p, q)
        for p, q in points
    ]
    best = torch.stack(reaches).argmin(0, keepdim=True)
    p, q = (torch.stack([point[k] for point in points]).gather(0, best)[0] for k in (0, 1))
    return torch.cat([q, p], dim=1), _intercept(sign, x, y, p, q)


def _intercept(sign: int, x: Interval, y: Interval, p: Tensor, q: Tensor) -> Tensor:
    """The largest sign ((x - p)(y - q) - p q) on the box."""
    gaps = [(low - at, high - at) for (low, high), at in ((x, p), (y, q))]
    return (sign * _corners(*gaps)).amax(0) - sign * p * q
