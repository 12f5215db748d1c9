"""What engines ask of every layer kind.

One class per kind, one method per question: engines ask the layer and never which kind it is. Every question is
abstract, so a kind that lacks an answer cannot be made; what it cannot answer it refuses, with the reason and the way
out. `affine` and `nonlinear` answer for their kinds what all of them answer alike.

The judge's own classes of the same names (proofs_check/kernel/layers) answer it with rounding; here nothing is charged.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.engine import EngineError
from verifiers.layers import lowering as low
from verifiers.linear_forms.forms import LinearForms, Shape, Summand
from verifiers.linear_forms.relaxation import Relaxation

Interval = tuple[Tensor, Tensor]
Weights = Mapping[str, Tensor]
NodeT = TypeVar("NodeT", bound=c.Node)


class LayerError(EngineError):
    """A layer kind was asked what it has no answer to."""


@dataclass(frozen=True, eq=False)
class Layer(abc.ABC, Generic[NodeT]):
    """One node. shapes: of its inputs' values; shape: of its own; without batch axis. weights: the node's arrays by
    field, in one dtype on one device; what engines compute from them is computed in float64 and rounded once.

    affine: the value is an affine function of the inputs. mixes: a neuron may depend on several of them.
    adds: the value is the sum of the inputs. piecewise_linear: so it is in them. slope_range: (least, most) of the
    slopes that lines below it may have where the sign of its input is unknown; None: it takes no slopes. partial: it is
    defined for some inputs only, and its bounds say nothing of others: somebody has to prove that there are none.
    """

    node: NodeT
    shapes: tuple[Shape, ...]
    shape: Shape
    weights: Weights

    affine: ClassVar[bool]
    mixes: ClassVar[bool] = False
    adds: ClassVar[bool] = False
    piecewise_linear: ClassVar[bool] = True
    partial: ClassVar[bool] = False

    def refuse(self, question: str, way_out: str) -> NoReturn:
        """Raise the LayerError that says which kind, which question, and the way out."""
        raise LayerError(f"{type(self).__name__} layers have no {question}: {way_out}")

    # ------------------------------------------------------------ values

    @abc.abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """(N, *shape) from (N, *shapes[i]) each; differentiable."""

    @abc.abstractmethod
    def interval(self, *inputs: Interval) -> Interval:
        """Bounds of the value from bounds of the inputs'."""

    @property
    def permutes(self) -> bool:
        """The value's elements are those of the one input, each once."""
        return False

    def at(self, *points: Tensor) -> Tensor:
        """`value` up to rounding, with the weights that bounds are computed from."""
        return self.value(*points)

    @abc.abstractmethod
    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        """A Lipschitz constant of the value as a function of the network's input, from those of the node's inputs; up
        to 2^-48 of rounding."""

    @abc.abstractmethod
    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        """Push this layer's steps on the values of the steps `at`; the number of the step that holds the value. only:
        nobody else reads the first of them. Requires: weights in float64. Raises EngineError where there are none."""

    # ------------------------------------------------------------ affine layers

    @abc.abstractmethod
    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        """Forms on the value as forms on each input; what a form adds to them is its `offset`."""

    @abc.abstractmethod
    def offset(self, forms: LinearForms) -> Tensor | None:
        """(R,): forms on the value where all inputs are zero. None: they are zero."""

    @abc.abstractmethod
    def gain(self) -> Tensor | None:
        """By what every element is multiplied, broadcastable against the value; None: neurons are more than that."""

    @abc.abstractmethod
    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        """The neurons `index` (R,) as forms on the one input and constants (R,), where that takes no multiplication."""

    # ------------------------------------------------------------ nonlinear layers

    @property
    @abc.abstractmethod
    def slope_range(self) -> tuple[float, float] | None: ...

    @abc.abstractmethod
    def default_slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        """(N, *shapes[0]): slopes of the lines below where nothing better is known (FORMAT.md 11)."""

    @abc.abstractmethod
    def neurons(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Which neurons of the input tighter bounds are of use to, (N, *shapes[0])."""

    @abc.abstractmethod
    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> Relaxation:
        """Lines above and below on [lower, upper], (N, *shapes[0]) each. slopes: of the same shape, where it takes
        them."""

    @abc.abstractmethod
    def forms_below(self, forms: LinearForms) -> LinearForms:
        """Forms laid out as a relaxation lays out those it hands to the input; their numbers mean nothing."""

    @abc.abstractmethod
    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        """(least, most) of every partial derivative on [lower, upper], Clarke's where there is a kink: (N, *shapes[0])
        of an elementwise kind, (N, C, taps, windows) of a pooling one. Rounded outward."""


AnyLayer = Layer[Any]


def arrays(node: c.Node) -> dict[str, c.Float32Array | c.Int32Array]:
    """The node's arrays by field."""
    return {name: value for name, value in vars(node).items() if isinstance(value, np.ndarray)}


def tensors(node: c.Node, dtype: torch.dtype, device: torch.device | None = None) -> dict[str, Tensor]:
    """Copies of the node's arrays by field, numbers in this dtype; indices stay whole."""
    copies = {name: torch.from_numpy(value.copy()).to(device) for name, value in arrays(node).items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in copies.items()}
