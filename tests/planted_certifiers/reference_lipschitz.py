"""The reference certifier's Lipschitz and smoothing methods, in replaceable steps (see reference.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certmix.testing.problem import dual_exponent, exponent
from certmix.testing.solvers import AFFINE, affine_map
from planted_certifiers.reference import Array, MarginSteps, argmax, forward, pool_windows, read_network
from proofs_check import certificate as c
from verifiers.network.module import PlainModule

ROUNDING_UP_FACTOR = 1 + 1e-12


def slopes(network: c.PlainNetwork, k: int, boxes: Sequence[tuple[Array, Array]] | None) -> Array:
    """Largest slope of each ReLU of node k: 1, or 0 (leaky: its slope) for units that a box proves dead."""
    node = network.nodes[k]
    low_slope = node.slope if isinstance(node, c.LeakyRelu) else 0.0
    if boxes is None:
        return np.ones(math.prod(network.shapes[k]))
    return np.where(boxes[node.inputs[0]][1][0] > 0, 1.0, low_slope)  # type: ignore[union-attr]


def absolute_jacobian(network: c.PlainNetwork, boxes: Sequence[tuple[Array, Array]] | None = None) -> Array:
    """A with |dz_j - dz_i| <= (A[j, i] row) entrywise: (K, K, D) bounds of |J_j - J_i|, rounded up.

    Products of absolute matrices; exact for affine networks (the affine prefix is multiplied with its signs).
    """
    module = PlainModule(network).double()
    size = math.prod(network.input_shape)
    signed: list[Array | None] = [np.eye(size)]
    bound: list[Array] = [np.eye(size)]
    for k, node in enumerate(network.nodes[1:], 1):
        first = node.inputs[0]  # type: ignore[union-attr]
        if isinstance(node, AFFINE):
            matrix = affine_map(network, k, module)[0]
            if k == len(network.nodes) - 1:
                return _differences(matrix, signed[first], bound[first])
            before = signed[first]
            signed.append(None if before is None else matrix @ before)
            bound.append(np.abs(matrix) @ bound[first])
        elif isinstance(node, (c.Relu, c.LeakyRelu)):
            before = signed[first]
            known = bound[first] if before is None else np.minimum(bound[first], np.abs(before) * ROUNDING_UP_FACTOR)
            signed.append(None)
            bound.append(known * slopes(network, k, boxes)[:, None])
        elif isinstance(node, c.MaxPool2d):
            signed.append(None)
            bound.append(pool_windows(network, k).astype(float) @ bound[first])
        elif isinstance(node, c.Add):
            signed.append(None)
            bound.append(bound[first] + bound[node.inputs[1]])
        else:
            raise NotImplementedError(f"no Lipschitz rule for {type(node).__name__}")
    raise NotImplementedError("the last node must be affine")


def _differences(matrix: Array, signed: Array | None, bound: Array) -> Array:
    rows = matrix[:, None, :] - matrix[None, :, :]
    loose = np.abs(rows) @ bound * ROUNDING_UP_FACTOR
    if signed is None:
        return loose
    size = np.abs(rows) @ np.abs(signed)
    return np.minimum(loose, np.abs(rows @ signed) + 1e-13 * size)


def pair_constants(jacobian: Array, dual: float) -> Array:
    """Lip_p(z_j - z_i), (K, K): the dual norm of each bounding row."""
    return np.linalg.norm(jacobian, dual, axis=-1) * ROUNDING_UP_FACTOR


def probability_constants(pairs: Array) -> Array:
    """docs/maths.md 4: Lip(h_i) <= max_k Lip(z_i - z_k) / 4, (K,)."""
    return pairs.max(1) / 4


def theorem_radius(h: Array, y: int, lipschitz: Array, alpha: float) -> float:
    """Theorem 3.5 for one input; negative or zero: no certificate."""
    rivals = [i for i in range(len(h)) if i != y]
    if alpha < 0.5:
        return 0.0
    found = math.inf
    for i in rivals:
        top = alpha * (h[y] - h[i]) + alpha - 1 - 1e-9
        bottom = alpha * (lipschitz[y] + lipschitz[i])
        found = min(found, 0.0 if top <= 0 else top / bottom * (1 - 1e-12) if bottom > 0 else math.inf)
    return found


def softmax(z: Array) -> Array:
    """Row-wise, stable."""
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclass(frozen=True)
class LipschitzSteps:
    """Theorem 3.5 with global constants; calling it answers protocol "mix"."""

    dual: Callable[[float], float] = dual_exponent
    read: Callable[[nn.Module], c.PlainNetwork] = read_network
    jacobian: Callable[[c.PlainNetwork], Array] = absolute_jacobian
    pairs: Callable[[Array, float], Array] = pair_constants
    constants: Callable[[Array], Array] = probability_constants
    radius: Callable[[Array, int, Array, float], float] = theorem_radius
    logits: Callable[[nn.Module, Tensor], Array] = forward
    probabilities: Callable[[Array], Array] = softmax
    predicted: Callable[[Array, Array], NDArray[np.int64]] = argmax

    def __call__(
        self, standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
    ) -> list[float | None]:
        network = self.read(robust)
        z = self.logits(robust, x)
        if not reliable(network, x, z):
            return [None] * len(x)
        y = self.predicted(self.logits(standard, x), z)
        lipschitz = self.constants(self.pairs(self.jacobian(network), self.dual(exponent(norm))))
        found = [self.radius(h, int(k), lipschitz, alpha) for h, k in zip(self.probabilities(z), y, strict=True)]
        return [r if r > 0 else None for r in found]


def reliable(network: c.PlainNetwork, x: Tensor, z: Array) -> bool:
    """Whether float64 logits are exact to about 1e-10: their intervals at radius 0 are that narrow."""
    flat = x.double().numpy().reshape(len(x), -1)
    low, high = MarginSteps().bounds(network, flat, np.zeros(len(x)), "Linf", None, -1)
    return bool(np.isfinite(z).all() and (high - low).max() < 1e-10)


@dataclass(frozen=True)
class LocalSteps:
    """docs/maths.md 4, local form: anchored constants of an epsilon-ball certify min(r, epsilon); best of a grid."""

    cap: Callable[[float, float], float] = min

    def __call__(
        self, standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
    ) -> list[float | None]:
        network = read_network(robust)
        z = forward(robust, x)
        if not reliable(network, x, z):
            return [None] * len(x)
        flat, answers = x.double().numpy().reshape(len(x), -1), []
        for row in range(len(x)):
            best = 0.0
            for epsilon in 2.0 ** np.arange(-6.0, 6.0):
                boxes = self._boxes(network, flat[row], epsilon)
                jacobian = absolute_jacobian(network, boxes)
                lipschitz = probability_constants(pair_constants(jacobian, dual_exponent(exponent(norm))))
                r = theorem_radius(softmax(z[row]), int(z[row].argmax()), lipschitz, alpha)
                best = max(best, self.cap(r, epsilon))
            answers.append(best if best > 0 else None)
        return answers

    def _boxes(self, network: c.PlainNetwork, x: Array, epsilon: float) -> list[tuple[Array, Array]]:
        """Bounds of every node's value on the Linf ball (which holds every other ball of this radius)."""
        boxes = []
        for k in range(len(network.nodes)):
            head = c.PlainNetwork(network.nodes[: k + 1], network.shapes[: k + 1], "", b"")
            boxes.append(MarginSteps().bounds(head, x[None], np.array([epsilon]), "Linf", None, -1))
        return boxes


@dataclass(frozen=True)
class ConstantSteps:
    """Protocol "lipschitz": constants of the probabilities."""

    steps: LipschitzSteps = LipschitzSteps()

    certmix_protocol = "lipschitz"

    def __call__(self, robust: nn.Module, x: Tensor, radius: float, norm: str = "Linf") -> Array:
        pairs = self.steps.pairs(self.steps.jacobian(self.steps.read(robust)), self.steps.dual(exponent(norm)))
        return np.tile(self.steps.constants(pairs), (len(x), 1))


# ---------------------------------------------------------------- randomised smoothing


def clopper_pearson(count: Array, total: Array, beta: float) -> Array:
    """One-sided lower confidence bound of a share, failing with probability <= beta."""
    lower = scipy.stats.beta.ppf(beta, count, total - count + 1)
    return np.where(count > 0, np.nan_to_num(lower), 0.0)


def smoothed_radius(lower: Array, alpha: float, noise_std: float) -> Array:
    """(5a) with the rival bounded by 1 - lower: sigma [Phi^-1(p) - Phi^-1(1 / (2 alpha))]."""
    if alpha <= 0.5:
        return np.zeros_like(lower)
    return noise_std * (scipy.stats.norm.ppf(lower) - scipy.stats.norm.ppf(1 / (2 * alpha))) * (1 - 1e-9)


def select(selection: Array, counts: Array) -> NDArray[np.int64]:
    """The class is chosen by the selection sample alone."""
    return selection.argmax(1)


@dataclass(frozen=True)
class CountSteps:
    """Theorem 3.7's hard votes by (5a); calling it answers protocol "counts"."""

    choose: Callable[[Array, Array], NDArray[np.int64]] = select
    confidence: Callable[[Array, Array, float], Array] = clopper_pearson
    radius: Callable[[Array, float, float], Array] = smoothed_radius

    certmix_protocol = "counts"

    def __call__(
        self, selection: Array, counts: Array, alpha: float, noise_std: float = 1.0, failure_probability: float = 0.001
    ) -> list[tuple[int, float] | None]:
        y = self.choose(selection, counts)
        votes = np.take_along_axis(counts, y[:, None], 1)[:, 0]
        lower = self.confidence(votes, counts.sum(1), failure_probability)
        found = self.radius(lower, alpha, noise_std)
        return [(int(k), float(r)) if r > 0 else None for k, r in zip(y, found, strict=True)]


def gaussian(shape: torch.Size, noise_std: float) -> Tensor:
    """Noise draws."""
    return torch.randn(shape) * noise_std


@dataclass(frozen=True)
class SmoothedSteps:
    """Draws its own votes; calling it answers protocol "smoothed"."""

    noise: Callable[[torch.Size, float], Tensor] = gaussian
    counts: CountSteps = CountSteps()
    second: bool = True
    draws: int = 400

    certmix_protocol = "smoothed"

    def __call__(
        self, base: nn.Module, x: Tensor, alpha: float, noise_std: float = 1.0, failure_probability: float = 0.001
    ) -> list[tuple[int, float] | None]:
        certifying = self._votes(base, x, noise_std)
        selection = self._votes(base, x, noise_std) if self.second else certifying
        return self.counts(selection, certifying, alpha, noise_std, failure_probability)

    def _votes(self, base: nn.Module, x: Tensor, noise_std: float) -> Array:
        shape = torch.Size((len(x), self.draws, *x.shape[1:]))
        points = x[:, None] + self.noise(shape, noise_std)
        with torch.no_grad():
            z = base(points.reshape(-1, *x.shape[1:])).reshape(len(x), self.draws, -1)
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).sum(1).double().numpy()
