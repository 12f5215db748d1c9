"""Wrong steps for the reference certifier, one mistake each (see bugs.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn

from certmix.testing.problem import exponent
from planted_certifiers import reference as ref
from planted_certifiers import reference_lipschitz as lip
from proofs_check import certificate as c
from verifiers.network.module import build

Array = ref.Array


def without_normalisation(module: nn.Module) -> c.PlainNetwork:
    """Shift, scale and divide nodes become the identity."""
    network = ref.read_network(module)
    nodes = list(network.nodes)
    for k, node in enumerate(nodes):
        if isinstance(node, (c.Shift, c.Scale, c.Divide)):
            nodes[k] = c.Shift(node.inputs, np.zeros_like(node.constant))
    return build(nodes)


def without_batch_statistics(module: nn.Module) -> c.PlainNetwork:
    """Batch norms use mean 0 and variance 1."""
    network = ref.read_network(module)
    nodes = [
        replace(n, mean=np.zeros_like(n.mean), variance=np.ones_like(n.variance)) if isinstance(n, c.BatchNorm) else n
        for n in network.nodes
    ]
    return build(nodes)


def without_hidden_bias(module: nn.Module) -> c.PlainNetwork:
    """Convolutions lose their bias."""
    network = ref.read_network(module)
    return build([replace(n, bias=n.bias * 0) if isinstance(n, c.Conv2d) else n for n in network.nodes])


def with_cells_moved_back(module: nn.Module) -> c.PlainNetwork:
    """Cells go to the places that they should come from."""
    network = ref.read_network(module)
    return build([replace(n, index=_inverse(n.index)) if isinstance(n, c.Gather) else n for n in network.nodes])


def _inverse(index: c.Int32Array) -> c.Int32Array:
    return np.argsort(index, kind="stable").astype(np.int32)


def with_symmetric_padding(module: nn.Module) -> c.PlainNetwork:
    """Convolutions pad bottom-right cells at the top left instead."""
    network = ref.read_network(module)
    nodes = [
        replace(n, padding=(n.padding[2], n.padding[3], n.padding[0], n.padding[1])) if isinstance(n, c.Conv2d) else n
        for n in network.nodes
    ]
    return build(nodes)


def in_normalised_units(radius: float, network: c.PlainNetwork) -> float:
    """The radius is reported in the units behind the network's division, as if that were the raw input."""
    divisions = [n for n in network.nodes if isinstance(n, c.Divide)]
    return radius / float(divisions[0].constant.reshape(-1)[0]) if divisions else radius


def float32_affine(box: ref.Box, matrix: Array, offset: Array) -> ref.Box:
    """Interval arithmetic in float32, rounded to nearest."""
    low, high, weight, bias = (np.asarray(v, np.float32) for v in (*box, matrix, offset))
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    lower, upper = low @ up.T + high @ down.T + bias, high @ up.T + low @ down.T + bias
    return lower.astype(float), upper.astype(float)


def float32_ball(x: Array, radii: Array, domain: tuple[float, float] | None) -> ref.Box:
    """The ball's corners in float32, rounded to nearest: a radius below half a step of x vanishes."""
    low, high = ((x + s * radii[:, None]).astype(np.float32).astype(float) for s in (-1, 1))
    return low, high


def unsorted_affine(box: ref.Box, matrix: Array, offset: Array) -> ref.Box:
    """lower @ W and upper @ W, forgetting that negative weights swap the ends (then sorted)."""
    ends = box[0] @ matrix.T + offset, box[1] @ matrix.T + offset
    return np.minimum(*ends), np.maximum(*ends)


def margin_with_ties(upper: Array, y: np.ndarray) -> Array:
    """The box form where the largest d_i is 0 too: margin 0."""
    rivals = np.where(np.arange(upper.shape[1]) == y[:, None], -np.inf, upper)
    top = rivals.max(1)
    with np.errstate(over="ignore", invalid="ignore"):
        value = -np.expm1(top) / (1 + np.exp(rivals).sum(1))
    return np.where(top <= 1e-12, np.maximum(value, 0.0), -1.0)


def margin_without_rivals(upper: Array, y: np.ndarray) -> Array:
    """(1 - e^u) / (1 + e^u): the sum over the other classes is lost."""
    top = np.where(np.arange(upper.shape[1]) == y[:, None], -np.inf, upper).max(1)
    return np.where(top < 0, -np.tanh(top / 2), -1.0)


def margin_of_own_probability(upper: Array, y: np.ndarray) -> Array:
    """h_y instead of h_y - h_i."""
    return np.where(ref.box_margin(upper, y) > 0, 1 / np.exp(np.minimum(upper, 700)).sum(1), -1.0)


def margin_against_second_index(upper: Array, y: np.ndarray) -> Array:
    """Only the rival y + 1 is compared."""
    rows, rival = np.arange(len(y)), (y + 1) % upper.shape[1]
    shown = np.full_like(upper, -60.0)
    shown[rows, rival], shown[rows, y] = upper[rows, rival], 0.0
    return ref.box_margin(shown, y)


def batch_axis_probabilities(z: Array) -> Array:
    """Softmax over the batch axis."""
    return lip.softmax(z.T).T


def overflowing_margin(upper: Array, y: np.ndarray) -> Array:
    """float32 exponentials of 100 + d: overflow to inf, and NaN counts as a large margin."""
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp((upper - upper.min(1, keepdims=True)).astype(np.float32))
        powers = powers / powers.sum(1, keepdims=True)
    rivals = np.where(np.arange(upper.shape[1]) == y[:, None], 0, powers).max(1)
    margin = powers[np.arange(len(y)), y] - rivals
    return np.where(np.isnan(margin), 1.0, margin)


def float32_margin(upper: Array, y: np.ndarray) -> Array:
    """The box form in float32: e^d below 6e-8 vanishes beside 1, and the margin reaches 1."""
    rivals = np.where(np.arange(upper.shape[1]) == y[:, None], -np.inf, upper)
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(rivals.astype(np.float32))
        margin = (1 - powers.max(1)) / (1 + powers.sum(1, dtype=np.float32))
    return np.where(np.isfinite(margin), margin, -1.0).astype(float)


def theorem_with(
    numerator: Callable[[float, float], float], denominator: Callable[[float, float, float], float]
) -> Callable[[Array, int, Array, float], float]:
    """Theorem 3.5 with another numerator (margin, alpha) or denominator (L_y, L_i, alpha)."""

    def radius(h: Array, y: int, lipschitz: Array, alpha: float) -> float:
        found = math.inf
        for i in (i for i in range(len(h)) if i != y and alpha >= 0.5):
            top, bottom = numerator(h[y] - h[i], alpha), denominator(lipschitz[y], lipschitz[i], alpha)
            found = min(found, 0.0 if top <= 0 else top / bottom if bottom > 0 else math.inf)
        return found if alpha >= 0.5 else 0.0

    return radius


def right_numerator(margin: float, alpha: float) -> float:
    """alpha (h_y - h_i) + alpha - 1."""
    return alpha * margin + alpha - 1 - 1e-9


def right_denominator(own: float, rival: float, alpha: float) -> float:
    """alpha (L_y + L_i)."""
    return alpha * (own + rival)


def theorem_with_own_class(h: Array, y: int, lipschitz: Array, alpha: float) -> float:
    """The mean over all i, y included, instead of the least over i != y."""
    if alpha < 0.5:
        return 0.0
    found = [alpha * (h[y] - h[i]) + alpha - 1 for i in range(len(h)) if i != y]
    sizes = [alpha * (lipschitz[y] + lipschitz[i]) + 1e-300 for i in range(len(h)) if i != y]
    return float(np.mean([t / s for t, s in zip(found, sizes, strict=True)]))


def sampled_constants(robust: nn.Module, x: Tensor, radius: float, norm: str = "Linf") -> Array:
    """The largest difference quotient among 64 random points: an estimate, not a constant (Yang et al. 2020)."""
    generator = torch.Generator().manual_seed(0)
    delta = (torch.rand((64, *x.shape), generator=generator) * 2 - 1) * radius
    size = torch.linalg.vector_norm(delta.flatten(2), exponent(norm), -1)
    moved = [(torch.softmax(robust(x + d), -1) - torch.softmax(robust(x), -1)).abs() for d in delta]
    return (torch.stack(moved) / (size[..., None] + 1e-30)).amax(0).double().numpy()


def attacked_radius(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """The largest radius at which 200 random points find nothing: an empirical radius sold as a certificate."""
    generator = torch.Generator().manual_seed(0)
    delta = torch.rand((200, *x.shape[1:]), generator=generator) * 2 - 1
    answers: list[float | None] = []
    for one in x:
        radius = 4.0
        clean = mixed_class(standard, robust, one[None], alpha)
        while radius > 1e-3 and bool((mixed_class(standard, robust, one + radius * delta, alpha) != clean).any()):
            radius /= 2
        answers.append(radius if radius > 1e-3 else None)
    return answers


def mixed_class(standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float) -> Tensor:
    """argmax of Eq. 4."""
    return ((1 - alpha) * torch.softmax(standard(x), -1) + alpha * torch.softmax(robust(x), -1)).argmax(-1)


def spectral_by_power_iteration(jacobian: Array, dual: float) -> Array:
    """Two steps of power iteration from a fixed vector: a lower bound of the norm used as an upper one."""
    start = np.ones(jacobian.shape[-1]) / math.sqrt(jacobian.shape[-1])
    return np.abs(jacobian @ start)


def shifted_softmax(low: Array, high: Array) -> ref.Box:
    """One shared shift (the largest upper bound) and a small constant under the quotient."""
    top = high.max(1, keepdims=True)
    smallest, largest = np.exp(low - top), np.exp(high - top)
    total_low, total_high = smallest.sum(1, keepdims=True), largest.sum(1, keepdims=True)
    lower = smallest / (total_high - largest + smallest + 1e-8)
    upper = largest / (total_low - smallest + largest + 1e-8)
    return lower, upper


def box_quotient(low: Array, high: Array) -> ref.Box:
    """e^upper over the sum of e^upper: every class at its upper end at once."""
    return lip.softmax(low), lip.softmax(high)


def mean_share(count: Array, total: Array, beta: float) -> Array:
    """The share of votes itself, without a confidence bound."""
    return np.minimum(count / total, 1 - 1e-9)


def wald(count: Array, total: Array, beta: float) -> Array:
    """Normal approximation of the confidence bound: too sure near 1."""
    p = count / total
    return np.minimum(p - scipy.stats.norm.isf(beta) * np.sqrt(p * (1 - p) / total), 1 - 1e-9)


def theorem_without_alpha(lower: Array, alpha: float, noise_std: float) -> Array:
    """Cohen's radius of h alone, reported for the mix."""
    return noise_std * scipy.stats.norm.ppf(lower) * (alpha >= 0.5)


def local_constants_beyond(r: float, epsilon: float) -> float:
    """Constants that hold on the epsilon-ball certify a radius outside it."""
    return r


def wrong_sign(box: ref.Box, matrix: Array, offset: Array) -> ref.Box:
    """The ends of every interval are exchanged."""
    low, high = ref.affine_box(box, matrix, offset)
    return high, low


def dead_by_centre(box: ref.Box, slope: float) -> ref.Box:
    """A unit whose centre is negative is taken for dead."""
    low, high = ref.relu_box(box, slope)
    alive = box[0] + box[1] > 0
    return np.where(alive, low, 0.0), np.where(alive, high, 0.0)


def single_logits(network: c.PlainNetwork) -> Array:
    """Jacobians of logits where those of differences are needed (a zero class beside them makes each one visible)."""
    last = network.nodes[-1]
    if not isinstance(last, c.Linear):
        raise NotImplementedError("the last node must be linear")
    weight, bias = (np.concatenate([v, np.zeros((1, *v.shape[1:]), np.float32)]) for v in (last.weight, last.bias))
    rows = lip.absolute_jacobian(build([*network.nodes[:-1], replace(last, weight=weight, bias=bias)]))[:-1, -1]
    return np.broadcast_to(rows[:, None], (len(rows), *rows.shape))


def first_cell(box: ref.Box, windows: np.ndarray) -> ref.Box:
    """Max pooling that looks at the first cell of each window."""
    return box[0][:, windows.argmax(1)], box[1][:, windows.argmax(1)]


def least_upper(box: ref.Box, windows: np.ndarray) -> ref.Box:
    """Max pooling bounded by the least upper bound of its window."""
    return ref.pool_box(box, windows)[0], np.where(windows, box[1][:, None, :], np.inf).min(-1)


def narrow_sum(first: ref.Box, second: ref.Box) -> ref.Box:
    """A residual sum whose skip connection is taken at its centre."""
    middle = (first[0] + first[1]) / 2
    return second[0] + middle, second[1] + middle


def upper_confidence(count: Array, total: Array, beta: float) -> Array:
    """The upper bound of Clopper and Pearson."""
    return np.minimum(scipy.stats.beta.isf(beta, count + 1, np.maximum(total - count, 1)), 1 - 1e-9)


def half_at_best(lower: Array, alpha: float, noise_std: float) -> Array:
    """Phi^-1(1 - alpha / 2) in place of Phi^-1(1 / (2 alpha))."""
    if alpha <= 0.5:
        return np.zeros_like(lower)
    return noise_std * (scipy.stats.norm.ppf(lower) - scipy.stats.norm.ppf(min(1 - alpha / 2, 0.5)))


def uniform_noise(shape: torch.Size, noise_std: float) -> Tensor:
    """Uniform noise of the stated deviation."""
    return (torch.rand(shape) * 2 - 1) * noise_std * math.sqrt(3)


def nothing(standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float) -> list[float | None]:
    """Abstains always."""
    return [None] * len(x)


def zero_for_none(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Radius 0 where nothing is certified."""
    return [r or 0.0 for r in ref.MarginSteps()(standard, robust, x, alpha, norm)]


def random_radius(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """A random share of what was proven."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [None if r is None else r * float(torch.rand(())) for r in found]


def batch_minimum(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Every input gets the least radius of its batch."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [None if r is None else min(v for v in found if v is not None) for r in found]


def fixed_radii(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Radii cut to 1/8, 1/2 and 2."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [max((s for s in (0.125, 0.5, 2.0) if r is not None and s <= r), default=None) for r in found]


def best_below_three_quarters(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Cuts its radius for alpha above 3/4."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [None if r is None else r / (8 if alpha > 0.76 else 1) for r in found]


def class_zero_only(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Certifies only inputs of class 0."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [r if k == 0 else None for r, k in zip(found, robust(x).argmax(-1).tolist(), strict=True)]


def near_the_origin(
    standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, norm: str = "Linf"
) -> list[float | None]:
    """Halves its radius where the input is large."""
    found = ref.MarginSteps()(standard, robust, x, alpha, norm)
    return [None if r is None else r / (2 if float(one.max()) >= 1 else 1) for r, one in zip(found, x, strict=True)]


def curve_at_ends(box: ref.Box, node: c.Node) -> ref.Box:
    """As if the curve were monotone."""
    value = ref.CURVES[type(node)][0]
    ends = value(box[0]), value(box[1])
    return ref.outward(np.minimum(*ends), np.maximum(*ends), 0.0)


def curve_by_tangent(box: ref.Box, node: c.Node) -> ref.Box:
    """The value in the middle, plus and minus half the width times the slope there."""
    value, (middle, half) = ref.CURVES[type(node)][0], ((box[0] + box[1]) / 2, (box[1] - box[0]) / 2)
    rise = np.abs(value(middle + 1e-6) - value(middle - 1e-6)) / 2e-6 * half
    return ref.outward(value(middle) - rise, value(middle) + rise, 0.0)


def product_of_ends(box: ref.Box) -> ref.Box:
    """As if both factors were positive."""
    low, high = (x * y for x, y in (np.split(end, 2, axis=1) for end in box))
    return ref.outward(np.minimum(low, high), np.maximum(low, high), 0.0)


def product_at_centre(box: ref.Box) -> ref.Box:
    """The first factor's ends times the second factor's middle."""
    (x, y), (u, v) = (np.split(end, 2, axis=1) for end in box)
    ends = x * (y + v) / 2, u * (y + v) / 2
    return ref.outward(np.minimum(*ends), np.maximum(*ends), 0.0)


def product_by_tangent(box: ref.Box) -> ref.Box:
    """m n +- (|m| s + |n| r), m and n the middles, r and s the half-widths."""
    (x, y), (u, v) = (np.split(end, 2, axis=1) for end in box)
    m, n, r, s = (x + u) / 2, (y + v) / 2, (u - x) / 2, (v - y) / 2
    spread = np.abs(m) * s + np.abs(n) * r
    return ref.outward(m * n - spread, m * n + spread, 0.0)
