"""A small certifier that is right, made of replaceable steps: the stock from which planted bugs are cut.

Interval bounds of plain networks in float64 with every rounding charged outward, then Lemma 3.2 through the box form
(docs/maths.md 3a), or Theorem 3.5 / (4a) with products of absolute Jacobians, or Theorem 3.7's counts through (5a).
Slow and loose on purpose: nothing here is meant to certify well. Every step is a field, so that a bug is one
`dataclasses.replace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certmix.testing.problem import dual_exponent, exponent
from certmix.testing.solvers import AFFINE, affine_map
from proofs_check import certificate as c
from verifiers.network.module import PlainModule

Array = NDArray[np.float64]
Box = tuple[Array, Array]
TRIED_RADII = 2.0 ** np.arange(-40.0, 21.0)
RADII_PER_OCTAVE = 24
RELATIVE_ROUNDING = 2.0**-52
ABSOLUTE_ROUNDING = 1e-300


def read_network(module: nn.Module) -> c.PlainNetwork:
    """The plain network a module computes. Raises NotImplementedError for other modules."""
    if not isinstance(module, PlainModule):
        raise NotImplementedError(f"the reference certifier reads plain networks only, got {type(module).__name__}")
    return module.network


def outward(low: Array, high: Array, slack: Array | float) -> Box:
    """The box widened by `slack` and one more rounding."""
    wide = slack + RELATIVE_ROUNDING * (np.abs(low) + np.abs(high)) + ABSOLUTE_ROUNDING
    return low - wide, high + wide


def input_box(x: Array, radius: Array, domain: tuple[float, float] | None) -> Box:
    """Coordinate bounds of the ball around each row of x (any norm), inside the domain."""
    low, high = outward(x - radius[:, None], x + radius[:, None], 0.0)
    return (low, high) if domain is None else (np.maximum(low, domain[0]), np.minimum(high, domain[1]))


def affine_box(box: Box, matrix: Array, offset: Array) -> Box:
    """Bounds of matrix @ v + offset over a box, in centre-radius form."""
    center, radius = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2 * (1 + 4 * RELATIVE_ROUNDING)
    middle, spread = center @ matrix.T + offset, radius @ np.abs(matrix).T
    size = (np.abs(center) + radius) @ np.abs(matrix).T + np.abs(offset)
    return outward(middle - spread, middle + spread, (matrix.shape[1] + 8) * RELATIVE_ROUNDING * size)


def affine_ball(x: Array, radius: Array, matrix: Array, offset: Array, dual: float) -> Box:
    """Bounds of matrix @ v + offset over the ball: the row's dual norm times the radius (Hoelder)."""
    lengths = np.linalg.norm(matrix, dual, axis=1) * (1 + (matrix.shape[1] + 8) * RELATIVE_ROUNDING)
    middle, spread = x @ matrix.T + offset, radius[:, None] * lengths
    size = np.abs(x) @ np.abs(matrix).T + np.abs(offset) + spread
    return outward(middle - spread, middle + spread, (matrix.shape[1] + 8) * RELATIVE_ROUNDING * size)


def relu_box(box: Box, slope: float) -> Box:
    """Bounds of the (leaky) ReLU over a box: it is increasing."""
    low, high = (np.where(v > 0, v, slope * v) for v in box)
    return outward(low, high, 0.0) if slope else (low, high)


def pool_box(box: Box, windows: NDArray[np.bool_]) -> Box:
    """Bounds of maxima over windows, (out, in) membership."""
    low, high = (np.where(windows, v[:, None, :], -np.inf).max(-1) for v in box)
    return low, high


def sum_box(first: Box, second: Box) -> Box:
    """Bounds of a residual sum."""
    return outward(first[0] + second[0], first[1] + second[1], 0.0)


def curve_box(box: Box, node: c.Node) -> Box:
    """Bounds of |x|, squares, cubes and hard swish over a box: at the ends, and at the point between where they are
    least."""
    value, least = CURVES[type(node)]
    points = [*box, np.clip(least, *box)]
    values = np.stack([value(v) for v in points])
    size = np.stack([np.abs(v) ** 3 + v * v for v in points]).max(0)  # of what is added up on the way
    return outward(values.min(0), values.max(0), 16 * RELATIVE_ROUNDING * size)


CURVES: dict[type[c.Node], tuple[Callable[[Array], Array], float]] = {
    c.Abs: (np.abs, 0.0),
    c.Square: (np.square, 0.0),
    c.Cube: (lambda v: v * v * v, 0.0),
    c.HardSwish: (lambda v: v * np.clip(v + 3, 0, 6) / 6, -1.5),
}


def product_box(box: Box) -> Box:
    """Bounds of the first half times the second: at corners."""
    (x, y), (u, v) = (np.split(end, 2, axis=1) for end in box)
    corners = np.stack([a * b for a in (x, u) for b in (y, v)])
    return outward(corners.min(0), corners.max(0), 0.0)


def pool_windows(network: c.PlainNetwork, k: int) -> NDArray[np.bool_]:
    """Which inputs each output of the max pooling node k looks at, (out, in)."""
    node = network.nodes[k]
    assert isinstance(node, c.MaxPool2d)
    shape = network.shapes[node.inputs[0]]
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        return PlainModule(network).node_value(k, node, [basis]).reshape(size, -1).numpy().T > 0


def last_difference(matrix: Array, offset: Array, y: int) -> tuple[Array, Array]:
    """The last layer as d_j = z_j - z_y (each entry one rounding, charged by the caller's slack)."""
    return matrix - matrix[y], offset - offset[y]


def forward(module: nn.Module, x: Tensor) -> Array:
    """Logits in float64."""
    with torch.no_grad():
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        found = module.double()(x.double()).numpy()
        module.to(dtype)
    return found


def argmax(g: Array, h: Array) -> NDArray[np.int64]:
    """Lemma 3.2: the class of the robust classifier."""
    return h.argmax(1)


def box_margin(upper: Array, y: NDArray[np.int64]) -> Array:
    """(3a): the least h_y - h_i over the box d <= upper, rounded down; -1 where some d_i may be positive."""
    rivals = upper.copy()
    rivals[np.arange(len(y)), y] = -np.inf
    top = rivals.max(1)
    with np.errstate(over="ignore", invalid="ignore"):
        value = -np.expm1(top) / (1 + np.exp(rivals).sum(1)) * (1 - 1e-13)
    return np.where(top < 0, value, -1.0)


def required_margin(alpha: float) -> float:
    """Lemma 3.2: (1 - alpha) / alpha, rounded up; infinite below 1/2, where the lemma is silent."""
    return (1 - alpha) / alpha * (1 + 1e-13) if alpha >= 0.5 else math.inf


def exceeds(margin: Array, required: float) -> NDArray[np.bool_]:
    """The strict form of Lemma 3.2."""
    return margin > max(required, 0.0)


def same_radius(radius: float, network: c.PlainNetwork) -> float:
    """The radius that is reported: the one that was proven."""
    return radius


@dataclass(frozen=True)
class MarginSteps:
    """Lemma 3.2 with interval bounds; calling it answers protocol "mix"."""

    read: Callable[[nn.Module], c.PlainNetwork] = read_network
    dual: Callable[[float], float] = dual_exponent
    box: Callable[[Array, Array, tuple[float, float] | None], Box] = input_box
    affine: Callable[[Box, Array, Array], Box] = affine_box
    relu: Callable[[Box, float], Box] = relu_box
    pool: Callable[[Box, NDArray[np.bool_]], Box] = pool_box
    add: Callable[[Box, Box], Box] = sum_box
    curve: Callable[[Box, c.Node], Box] = curve_box
    product: Callable[[Box], Box] = product_box
    difference: Callable[[Array, Array, int], tuple[Array, Array]] = last_difference
    logits: Callable[[nn.Module, Tensor], Array] = forward
    predicted: Callable[[Array, Array], NDArray[np.int64]] = argmax
    heat: Callable[[Array, float], Array] = lambda upper, temperature: np.where(
        upper < 0, upper * temperature * (1 - 1e-15), upper * temperature * (1 + 1e-15)
    )
    margin: Callable[[Array, NDArray[np.int64]], Array] = box_margin
    required: Callable[[float], float] = required_margin
    accept: Callable[[Array, float], NDArray[np.bool_]] = exceeds
    report: Callable[[float, c.PlainNetwork], float] = same_radius
    pick: Callable[[Array, int], float] = lambda radii, k: float(radii[k])
    robust: Callable[[nn.Module, nn.Module], nn.Module] = lambda g, h: h
    use_ball: bool = True

    def __call__(
        self,
        standard: nn.Module,
        robust: nn.Module,
        x: Tensor,
        alpha: float,
        norm: str = "Linf",
        temperature: float = 1.0,
        domain: tuple[float, float] | None = None,
    ) -> list[float | None]:
        """The largest radius of a grid, then of a finer one, at which the margin is proven."""
        network = self.read(self.robust(standard, robust))
        y = self.predicted(self.logits(standard, x), self.logits(robust, x))
        flat = x.double().numpy().reshape(len(x), -1)
        answers: list[float | None] = []
        for row in range(len(x)):
            proven = lambda radii, row=row: self._proven(  # noqa: E731
                network, flat[row], int(y[row]), radii, alpha, norm, temperature, domain
            )
            answers.append(self._largest(proven, network))
        return answers

    def _largest(self, proven: Callable[[Array], NDArray[np.bool_]], network: c.PlainNetwork) -> float | None:
        good = np.flatnonzero(proven(TRIED_RADII))
        if len(good) == 0:
            return None
        k = int(good[-1])
        if k == len(TRIED_RADII) - 1:
            return self.report(float(TRIED_RADII[-1]), network)
        fine = TRIED_RADII[k] * 2.0 ** (np.arange(RADII_PER_OCTAVE + 1) / RADII_PER_OCTAVE)
        best = max(np.flatnonzero(proven(fine)), default=0)
        return self.report(self.pick(fine, int(best)), network)

    def _proven(
        self, network: c.PlainNetwork, x: Array, y: int, radii: Array, alpha: float, norm: str, temperature: float,
        domain: tuple[float, float] | None,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Whether Lemma 3.2 applies at each radius (rows of the batch are radii)."""
        upper = self.heat(self.bounds(network, np.tile(x, (len(radii), 1)), radii, norm, domain, y)[1], temperature)
        margin = self.margin(upper, np.full(len(radii), y))
        return self.accept(margin, self.required(alpha)) & np.isfinite(np.where(upper == -np.inf, 0, upper)).all(1)

    def bounds(
        self, network: c.PlainNetwork, x: Array, radii: Array, norm: str, domain: tuple[float, float] | None, y: int
    ) -> Box:
        """Bounds of d_j = z_j - z_y, or of z for y = -1; x (N, D), radii (N,) -> (N, K)."""
        boxes: list[Box] = [self.box(x, radii, domain)]
        affine_so_far: list[tuple[Array, Array] | None] = [(np.eye(x.shape[1]), np.zeros(x.shape[1]))]
        module = PlainModule(network).double()
        dual = self.dual(exponent(norm))
        for k, node in enumerate(network.nodes[1:], 1):
            sources = [boxes[i] for i in node.inputs]  # type: ignore[union-attr]
            known = None
            if isinstance(node, AFFINE):
                matrix, offset = affine_map(network, k, module)
                if k == len(network.nodes) - 1 and y >= 0:
                    matrix, offset = self.difference(matrix, offset, y)
                before = affine_so_far[node.inputs[0]]
                box = self.affine(sources[0], matrix, offset)
                if isinstance(node, c.BatchNorm):
                    box = outward(*box, 8 * RELATIVE_ROUNDING * _hidden_size(node))
                if self.use_ball and before is not None and _small(before) and _small((matrix, offset)):
                    known = (matrix @ before[0], matrix @ before[1] + offset)
                    box = _meet(box, self._through_ball(x, radii, matrix, known, before, dual))
            elif isinstance(node, c.MaxPool2d):
                box = self.pool(sources[0], pool_windows(network, k))
            elif isinstance(node, c.Add):
                box = self.add(sources[0], sources[1])
            elif type(node) in CURVES:
                box = self.curve(sources[0], node)
            elif isinstance(node, c.Product):
                box = self.product(sources[0])
            elif isinstance(node, (c.Relu, c.LeakyRelu)):
                box = self.relu(sources[0], node.slope if isinstance(node, c.LeakyRelu) else 0.0)
            else:
                raise NotImplementedError(f"no interval rule for {type(node).__name__}")
            boxes.append(box)
            affine_so_far.append(known)
        return boxes[-1]

    def _through_ball(
        self,
        x: Array,
        radii: Array,
        matrix: Array,
        known: tuple[Array, Array],
        before: tuple[Array, Array],
        dual: float,
    ) -> Box:
        """Bounds of an affine function of the input over the ball; composing the matrices is charged to the bounds."""
        low, high = affine_ball(x, radii, *known, dual)
        total = np.abs(matrix) @ (np.abs(before[0]).sum(1) + np.abs(before[1])) + np.abs(known[1])
        reach = 1 + np.abs(x).max(1) + radii
        return outward(low, high, 64 * (matrix.shape[1] + 8) * RELATIVE_ROUNDING * total * reach[:, None])


def _hidden_size(node: c.BatchNorm) -> float:
    """What may cancel inside a batch norm's offset: its rounding is not seen in the result's size."""
    scaled = np.abs(node.scale * node.mean).astype(float) / np.sqrt(node.variance.astype(float) + node.epsilon)
    return float((scaled + np.abs(node.shift)).max())


def _small(pair: tuple[Array, Array]) -> bool:
    return bool(np.abs(pair[0]).max(initial=0) < 1e100 and np.abs(pair[1]).max(initial=0) < 1e100)


def _meet(first: Box, second: Box) -> Box:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


@dataclass(frozen=True)
class LogitSteps:
    """Interval bounds of the logits; calling it answers protocol "logits"."""

    steps: MarginSteps = MarginSteps()

    certmix_protocol = "logits"

    def __call__(self, robust: nn.Module, x: Tensor, radius: float, norm: str = "Linf") -> Box:
        network = self.steps.read(robust)
        flat = x.double().numpy().reshape(len(x), -1)
        return self.steps.bounds(network, flat, np.full(len(x), radius), norm, None, -1)


def box_probabilities(low: Array, high: Array) -> Box:
    """Bounds of softmax over a box of logits: own class at one end, the others at the other; rounded outward."""
    lower, upper = np.empty_like(low), np.empty_like(high)
    for i in range(low.shape[1]):
        others = np.arange(low.shape[1]) != i
        with np.errstate(over="ignore"):
            lower[:, i] = 1 / (1 + np.exp(high[:, others] - low[:, [i]]).sum(1))
            upper[:, i] = 1 / (1 + np.exp(low[:, others] - high[:, [i]]).sum(1))
    slack = 1e-12 + 8 * RELATIVE_ROUNDING * (np.abs(low) + np.abs(high)).sum(1, keepdims=True)
    return np.where(np.isfinite(slack), lower * (1 - np.minimum(slack, 1)), 0), np.minimum(
        upper * (1 + slack) + 1e-300, 1.0
    )


@dataclass(frozen=True)
class ProbabilitySteps:
    """Bounds of softmax(logits); calling it answers protocol "probabilities"."""

    logits: LogitSteps = LogitSteps()
    squash: Callable[[Array, Array], Box] = box_probabilities

    certmix_protocol = "probabilities"

    def __call__(self, robust: nn.Module, x: Tensor, radius: float, norm: str = "Linf") -> Any:
        return self.squash(*self.logits(robust, x, radius, norm))
