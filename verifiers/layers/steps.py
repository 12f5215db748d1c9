"""The few kinds of steps that engines of interval arithmetic and others' libraries need: one class for each, one method
for each question of an engine. Rounding is not accounted for."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from verifiers.norms import Lp
from verifiers.perturbation import BoxedBalls

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """A step's interval; `scale`, `point` where the value is scale * (x - center) + point for the raw input x."""

    lower: Tensor
    upper: Tensor
    scale: Tensor | None = None
    point: Tensor | None = None

    @property
    def middle(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def half(self) -> Tensor:
        return (self.upper - self.lower) / 2


@dataclass(frozen=True, eq=False)
class Step(abc.ABC):
    """inputs: the steps that it reads."""

    nonlinear: ClassVar[bool] = False

    inputs: tuple[int, ...]

    @property
    def bound_name(self) -> str | None:
        """The name of auto_LiRPA's class for it, of a nonlinear step."""
        return None

    def after(self, first: Step) -> Step | None:
        """This step and `first`, its input, as one step of the same size; None: there is none."""
        del first

    def scaled(self, scale: Tensor, shift: Tensor) -> Step | None:
        """scale * value + shift, per channel, as one step of the same size; None: there is none."""
        del scale, shift

    def channels(self) -> tuple[Tensor, Tensor] | None:
        """(scale, shift), where the value is scale * input + shift per channel."""
        return None

    def weights(self) -> dict[str, Tensor]:
        """What `value` needs, by name."""
        return {}

    @abc.abstractmethod
    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        """The function itself, of (N, *shape) each. weights: in the arguments' arithmetic."""

    @abc.abstractmethod
    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        """Bounds from bounds of the inputs, on balls around the raw inputs."""

    def folded(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rows (N, R, m) of the value as rows (N, R, n) of the input and constants (N, R); None: it has no such."""
        del rows


@dataclass(frozen=True, eq=False)
class Source(Step):
    """The raw input; always step 0."""

    inputs: tuple[int, ...] = ()

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        raise TypeError("the source is given")

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        del args
        return Value(balls.lower, balls.upper, torch.ones_like(balls.center[0]), balls.center)


@dataclass(frozen=True, eq=False)
class Linear(Step):
    """A linear map with weight and bias."""

    weight: Tensor
    bias: Tensor

    @abc.abstractmethod
    def mapped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map with other weights."""

    @abc.abstractmethod
    def largest(self, scale: Tensor) -> Tensor:
        """(1, *out) the largest coefficient, in size, of each output on an input that is first multiplied by scale."""

    def weights(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}

    def scaled(self, scale: Tensor, shift: Tensor) -> Step:
        rows = scale.reshape(-1, *(1 for _ in self.weight.shape[1:]))
        return replace(self, weight=self.weight * rows, bias=self.bias * scale.flatten() + shift.flatten())

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        return self.mapped(args[0], weights["weight"], weights["bias"])

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        (v,) = args
        middle = self.mapped(v.middle, self.weight, self.bias)
        half = self.mapped(v.half, self.weight.abs(), None)
        lower, upper = middle - half, middle + half
        if v.scale is None or v.point is None or balls.lp.is_box:
            return Value(lower, upper)
        center = self.mapped(v.point, self.weight, self.bias)
        spread = self.dual_norms(v.scale, balls.lp)
        spread = spread * balls.radius.reshape(-1, *(1 for _ in spread.shape[1:]))
        # an element of the value lies in both intervals
        return Value(torch.maximum(lower, center - spread), torch.minimum(upper, center + spread))

    def dual_norms(self, scale: Tensor, norm: Lp) -> Tensor:
        """(1, *out) the dual norm of each output's coefficients on the raw input, borders
        included. scale: of the input's shape, the factor between the raw input and this step's.
        """
        q = norm.dual_order
        if q == math.inf:
            return self.largest(scale)
        return self.mapped(scale.abs()[None].pow(q), self.weight.abs().pow(q), None).clamp(min=0).pow(1 / q)


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """weight (m, n) @ v + bias (m,), on vectors."""

    def mapped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def largest(self, scale: Tensor) -> Tensor:
        return (self.weight * scale).abs().amax(1)[None]

    def folded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows @ self.weight, rows @ self.bias

    def after(self, first: Step) -> Step | None:
        if (channels := first.channels()) is None:
            return None
        scale, shift = channels
        return replace(self, inputs=first.inputs, weight=self.weight * scale, bias=self.bias + self.weight @ shift)


@dataclass(frozen=True, eq=False)
class Conv(Linear):
    """Cross-correlation, one group, no dilation, `padding` = (rows, columns) of zeros on both sides."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def mapped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def largest(self, scale: Tensor) -> Tensor:
        """Among the taps that lie in the image."""
        taps = F.unfold(scale.abs()[None], self.weight.shape[2:], 1, self.padding, self.stride)[0]
        spread = torch.stack([(row.flatten()[:, None].abs() * taps).amax(0) for row in self.weight])
        counts = [
            (scale.shape[axis + 1] + 2 * self.padding[axis] - self.weight.shape[axis + 2]) // self.stride[axis] + 1
            for axis in (0, 1)
        ]
        return spread.reshape(1, len(spread), *counts)

    def after(self, first: Step) -> Step | None:
        """Padded zeros would have to be zeros of the scaled image."""
        if (channels := first.channels()) is None or self.padding != (0, 0):
            return None
        scale, shift = channels
        bias = self.bias + (self.weight * shift).sum((1, 2, 3))
        return replace(self, inputs=first.inputs, weight=self.weight * scale, bias=bias)


@dataclass(frozen=True, eq=False)
class Scaling(Step):
    """scale * v + shift."""

    scale: Tensor
    shift: Tensor

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        del balls
        (v,) = args
        a, b = v.lower * self.scale + self.shift, v.upper * self.scale + self.shift
        lower, upper = torch.minimum(a, b), torch.maximum(a, b)
        if v.scale is None or v.point is None:
            return Value(lower, upper)
        return Value(lower, upper, v.scale * self.scale, v.point * self.scale + self.shift)


@dataclass(frozen=True, eq=False)
class Diagonal(Scaling):
    """Scale and shift (channels, 1, 1) on images, (features,) on vectors."""

    def weights(self) -> dict[str, Tensor]:
        matrix = torch.diag(self.scale.flatten())
        return {"weight": matrix.reshape(*matrix.shape, *self.scale.shape[1:]), "bias": self.shift.flatten()}

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        one_by_one = F.conv2d if args[0].ndim == 4 else F.linear
        return one_by_one(args[0], weights["weight"], weights["bias"])

    def after(self, first: Step) -> Step | None:
        return first.scaled(self.scale, self.shift)

    def scaled(self, scale: Tensor, shift: Tensor) -> Step:
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def channels(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.shift


@dataclass(frozen=True, eq=False)
class Pointwise(Scaling):
    """Scale and shift of v's shape: on images where they differ between the cells of a channel."""

    def weights(self) -> dict[str, Tensor]:
        return {"scale": self.scale[None], "shift": self.shift[None]}

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        return args[0] * weights["scale"] + weights["shift"]


@dataclass(frozen=True, eq=False)
class Monotone(Step):
    """Nondecreasing in every element."""

    nonlinear: ClassVar[bool] = True

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        del balls
        return Value(self.value([args[0].lower], {}), self.value([args[0].upper], {}))


@dataclass(frozen=True, eq=False)
class Activation(Monotone):
    """A function of each element. bound_as: the name of auto_LiRPA's class for it."""

    function: Callable[[Tensor], Tensor]
    bound_as: str

    @property
    def bound_name(self) -> str:
        return self.bound_as

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        del weights
        return self.function(args[0])


@dataclass(frozen=True, eq=False)
class MaxPool(Monotone):
    """Maximum over windows; padded cells (rows, columns on both sides) do not take part."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def bound_name(self) -> str:
        return "BoundMaxPool"

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        del weights
        return F.max_pool2d(args[0], self.kernel, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class Sum(Step):
    """v_a + v_b."""

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        del weights
        return args[0] + args[1]

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        del balls
        return Value(args[0].lower + args[1].lower, args[0].upper + args[1].upper)


@dataclass(frozen=True, eq=False)
class Moving(Step):
    """Moves cells."""

    def interval(self, args: Sequence[Value], balls: BoxedBalls) -> Value:
        del balls
        (v,) = args
        lower, upper = self.value([v.lower], {}), self.value([v.upper], {})
        if v.scale is None or v.point is None:
            return Value(lower, upper)
        return Value(lower, upper, self.value([v.scale[None]], {})[0], self.value([v.point], {}))


@dataclass(frozen=True, eq=False)
class Flat(Moving):
    """To a vector, in C order."""

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        del weights
        return flat(args[0])


@dataclass(frozen=True, eq=False)
class Pick(Moving):
    """v[index], no element twice, of a vector v; the value has this shape."""

    index: Tensor
    shape: Shape

    def value(self, args: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        del weights
        picked = args[0].index_select(1, self.index)
        return picked if len(self.shape) == 1 else picked.reshape(-1, *self.shape)


Affine = Dense | Conv | Diagonal | Pointwise


def flat(x: Tensor) -> Tensor:
    """(N, …) as vectors (N, n), of any number of axes."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]
