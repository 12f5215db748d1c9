"""Global Lipschitz constants as products of layer norms: for every norm and every known layer, sound and loose.

A node's constant is its operator norm times its inputs' constants: exact row or column sums for Linf and L1;
for L2 the spectral norm (Linear: by singular values; Conv2d: by the bounds below; all never above the
interpolation sqrt(‖A‖_1 ‖A‖_inf)). Power iteration alone would give lower bounds: it is not used.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.lipschitz.linear_maps import AFFINE, LinearMaps

SVD_ERROR = 2.0**-30  # relative; LAPACK's own backward error is below 2^-40 for every size that fits in memory


def product_constants(maps: LinearMaps, forms: Tensor, norm: c.Norm) -> Tensor:
    """(R,) Lipschitz constants of forms·z on the whole space, forms (R, K); rounded up.

    The affine nodes after the last nonlinear ones are folded into the forms exactly.
    """
    constants = _node_constants(maps, norm)
    order = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    last = len(maps.network.nodes) - 1
    centre = forms.to(maps.device, torch.float64)
    frontier: dict[int, tuple[Tensor, Tensor]] = {last: (centre, torch.zeros_like(centre))}
    total = torch.zeros(len(forms), dtype=torch.float64, device=maps.device)
    for k in range(last, -1, -1):
        if k not in frontier:
            continue
        centre, radius = frontier.pop(k)
        node = maps.network.nodes[k]
        if not isinstance(node, AFFINE):
            dual = torch.linalg.vector_norm((centre.abs() + radius).flatten(1), ord=order, dim=1)
            total = total + dual * (constants[k] * (1 + 4 * maps.growth + centre[0].numel() * 2.0**-51))
            continue
        for source, m, r in zip(node.inputs, *maps.adjoint_step(k, centre, radius), strict=True):
            old = frontier.get(source, (torch.zeros_like(m), torch.zeros_like(r)))
            both = old[0] + m
            frontier[source] = (both, (old[1] + r) * (1 + 2.0**-50) + 2.0**-51 * both.abs())
    return torch.where(forms.any(dim=1).to(total.device), total * (1 + 2.0**-45), 0.0)


def _node_constants(maps: LinearMaps, norm: c.Norm) -> list[float]:
    """Per node: a Lipschitz constant of its value as a function of the input, in ℓp on both sides."""
    constants = [1.0]
    for k, node in enumerate(maps.network.nodes[1:], start=1):
        before = [constants[i] for i in node.inputs]  # type: ignore[union-attr]
        constants.append(_grown(maps, k, node, before, norm) * (1 + 2.0**-45))
    return constants


def _grown(maps: LinearMaps, k: int, node: c.Node, before: list[float], norm: c.Norm) -> float:
    match node:
        case c.Relu() | c.LeakyRelu() | c.Tanh() | c.Flatten() | c.Shift() | c.Pad() | c.Slice():
            return before[0]
        case c.Sigmoid():
            return before[0] / 4
        case c.Add():
            return sum(before)
        case c.Concat():
            power = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
            return float(np.linalg.norm(before, ord=power))
        case c.MaxPool2d():
            # ‖max(a) - max(b)‖_p^p <= sum over windows of max |a - b|^p: each cell counts once per window
            overlap = _overlap(node.kernel, node.stride)
            return before[0] * {"Linf": 1.0, "L2": math.sqrt(overlap), "L1": float(overlap)}[norm]
        case _:
            return before[0] * operator_norm(maps, k, norm)


def operator_norm(maps: LinearMaps, k: int, norm: c.Norm) -> float:
    """An upper bound of the ℓp operator norm of the affine node k with one input."""
    node = maps.network.nodes[k]
    growth = 1 + 4 * maps.growth
    shape_in = maps.network.shapes[node.inputs[0]]  # type: ignore[union-attr]
    rows = maps.forward(k, [torch.ones((1, *shape_in), dtype=torch.float64, device=maps.device)], absolute=True)
    columns = maps.adjoint(k, torch.ones_like(rows), absolute=True)[0]
    by_rows, by_columns = float(rows.max()) * growth, float(columns.max()) * growth
    if norm == "Linf":
        return by_rows
    if norm == "L1":
        return by_columns
    return min(math.sqrt(by_rows * by_columns) * growth, _spectral(node))


def _spectral(node: c.Node) -> float:
    """Spectral norm bound of a Linear or Conv2d, inf for other nodes (the interpolation is exact for diagonal ones).

    Conv2d: it is a matrix M (out, in kh kw) applied to every patch, and an input cell lies in at most `overlap`
    patches, so its norm is at most ‖M‖₂ sqrt(overlap); groups: the largest.
    """
    if isinstance(node, c.Linear):
        return float(np.linalg.norm(node.weight.astype(np.float64), 2)) * (1 + SVD_ERROR)
    if not isinstance(node, c.Conv2d):
        return math.inf
    kernel = node.weight.astype(np.float64).reshape(node.groups, node.weight.shape[0] // node.groups, -1)
    overlap = _overlap((node.weight.shape[2], node.weight.shape[3]), node.stride, node.dilation)
    largest = max(float(np.linalg.norm(m, 2)) for m in kernel)
    return largest * math.sqrt(overlap) * (1 + SVD_ERROR)


def _overlap(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> int:
    """At most that many windows hold one cell: per axis, the taps t with t·dilation = cell modulo stride."""
    periods = (s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))
    return math.prod(-(-k // p) for k, p in zip(kernel, periods, strict=True))
