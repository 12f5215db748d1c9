"""Global Lipschitz constants for any network: products of layer norms, and Jacobians with unrestricted slopes.

Products: a node's value is Lipschitz in the input with its operator norm times the constant of its own input, in
the claim's norm on both sides; the affine nodes after the last nonlinear ones are folded into the forms d_j. Norms of
layers: rows and columns of absolute sums (exact for Linf and L1; the square root of their product bounds L2, by
interpolation), and for L2 also spectral norms proven by repeated squaring. Jacobians: `jacobian` with every slope an
activation has anywhere. The smaller of the two counts.

Precondition: a prepared network. Postcondition: `global_constants` are Lipschitz constants of d_j on the whole space.
Charged: sums and products of norms are rounded up one by one; each squaring's error is added under its root.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Assumption, Claim, Norm, need
from proofs_check.kernel import jacobian
from proofs_check.kernel.bounds import Prepared, chunks, inputs_of
from proofs_check.kernel.jacobian import Frontier, Interval, affine_step, dual_norms_up, hand_on
from proofs_check.kernel.layers import Convolution, Dense, LinearForms, Map, Sliding
from proofs_check.kernel.relaxations import pool_sliding
from proofs_check.kernel.rounding import Array, need_bounded, sum_error, up
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.rule import Theorem, need_theorem, premises, stated_constants

MAX_CELLS = 4096  # nonlinear cells: beyond, unrestricted Jacobians take too long
MAX_SQUARED = 2048  # rows of a matrix that is squared
SQUARINGS = 6


@dataclass(frozen=True)
class LayerLipschitz:
    """constants: of d_j on the whole space in the claim's norm, entry y is 0; re-derived here."""

    theorem: Theorem
    constants: tuple[float, ...]


def layer_lipschitz(claim: Claim, evidence: LayerLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5 or (4a) with global constants of any network, in the claim's own norm."""
    _, at_x = premises(claim, case)
    stated = stated_constants(claim, evidence.constants, case)
    derived = global_constants(case.robust, claim.predicted, claim.norm)
    for j in range(len(derived)):
        need(derived[j] <= stated[j], "constants", f"class {j}: {stated[j]} is below the proven bound {derived[j]}")
    need_theorem(claim, evidence.theorem, at_x, stated)
    return frozenset()


@functools.lru_cache(maxsize=64)
def global_constants(prepared: Prepared, y: int, norm: Norm) -> tuple[float, ...]:
    """(K,) constants of d_j on the whole space, entry y 0; a pure function: one derivation serves a whole run."""
    classes = prepared.network.classes
    forms = np.eye(classes)[[j for j in range(classes) if j != y]] - np.eye(classes)[y]
    with np.errstate(all="ignore"):
        constants = products(prepared, forms, norm)
        nonlinear = [k for k, mapping in enumerate(prepared.maps) if mapping is None and k > 0]
        if sum(math.prod(prepared.shapes[inputs_of(prepared.network.nodes[k])[0]]) for k in nonlinear) <= MAX_CELLS:
            everywhere = jacobian.slopes_everywhere(prepared)
            constants = np.minimum(constants, jacobian.dual_norms(prepared, everywhere, forms, norm))
    need_bounded(constants, "constants")
    return tuple(np.insert(constants, y, 0.0).tolist())


def products(prepared: Prepared, forms: Array, norm: Norm) -> Array:
    """(R,) constants of forms . z: forms (R, K) exact."""
    gains = node_gains(prepared, norm)
    total = np.zeros(len(forms))
    for chunk in chunks(prepared.shapes, len(forms)):
        start = forms[chunk].reshape(-1, 1, 1, forms.shape[1])
        frontier: Frontier = {len(gains) - 1: Interval(start, np.zeros_like(start))}
        for k in range(len(gains) - 1, -1, -1):
            arrived, mapping = frontier.pop(k, None), prepared.maps[k]
            if arrived is not None and mapping is not None:
                hand_on(prepared, frontier, k, affine_step(mapping, arrived))
            elif arrived is not None:
                duals = dual_norms_up(arrived.magnitude().reshape(len(start), -1), norm)
                total[chunk] = up(total[chunk] + up(duals * gains[k]))
    return total


def node_gains(prepared: Prepared, norm: Norm) -> list[float]:
    """Per node, a Lipschitz constant of its value as a function of the input."""
    gains = [1.0]
    for k, node in enumerate(prepared.network.nodes[1:], start=1):
        before, mapping = [gains[i] for i in inputs_of(node)], prepared.maps[k]
        if isinstance(node, (c.Add, c.Concat)):
            gains.append(_joined(before, norm, isinstance(node, c.Add)))
        else:
            shape = prepared.shapes[inputs_of(node)[0]]
            gain = operator_norm(mapping, shape, norm) if mapping is not None else _nonlinear(prepared, k, norm)
            gains.append(_up(before[0] * gain))
    return gains


def _joined(before: list[float], norm: Norm, added: bool) -> float:
    """Of a sum of values, or of values side by side."""
    if norm == "Linf" and not added:
        return max(before)
    squared = norm == "L2" and not added
    total = 0.0
    for gain in before:
        total = _up(total + (_up(gain * gain) if squared else gain))
    return _up(math.sqrt(total)) if squared else total


def _nonlinear(prepared: Prepared, k: int, norm: Norm) -> float:
    node = prepared.network.nodes[k]
    if not isinstance(node, c.MaxPool2d):
        return jacobian.unrestricted_slopes(prepared, k)[1]
    # |max(a) - max(b)|^p, summed over windows, is at most sum |a - b|^p with each cell once per window
    count = overlap(pool_sliding(node))
    return {"Linf": 1.0, "L2": _up(math.sqrt(count)), "L1": float(count)}[norm]


def operator_norm(mapping: Map, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound of the norm of a map of one input of this shape."""
    growth = 1 + 2 * sum_error(mapping.terms)
    rows = mapping.apply(np.ones(shape), absolute=True)
    columns = mapping.adjoint(LinearForms(np.ones((1, *rows.shape[1:], rows.shape[0])), None), absolute=True)[0].values
    by_rows, by_columns = (_up(_up(float(sums.max()) * growth)) for sums in (rows, columns))
    if norm != "L2":
        return by_rows if norm == "Linf" else by_columns
    between = _up(math.sqrt(_up(by_rows * by_columns)))
    if isinstance(mapping, Dense):
        return min(between, spectral_norm(mapping.weight))
    if isinstance(mapping, Convolution):
        # a matrix applied to every patch; an input cell lies in at most `overlap` patches
        largest = max(spectral_norm(kernel.reshape(len(kernel), -1)) for kernel in mapping.weight)
        return min(between, _up(largest * _up(math.sqrt(overlap(mapping.sliding)))))
    return between


def overlap(sliding: Sliding) -> int:
    """At most that many windows hold one cell: per axis, the taps t with t dilation = cell modulo stride."""
    periods = [s // math.gcd(s, d) for s, d in zip(sliding.stride, sliding.dilation, strict=True)]
    return math.prod(-(-k // p) for k, p in zip(sliding.kernel, periods, strict=True))


def spectral_norm(matrix: Array) -> float:
    """An upper bound of the spectral norm.

    |A|^2 = |A A'|, |S|^2 = |S^2| for symmetric S, |S| <= |S|_inf: so the error of each squaring, at most G(n) times the
    largest row sum of absolute values squared, is added under its root.
    """
    short = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    if len(short) > MAX_SQUARED or not (power := short @ short.T).any():  # Frobenius
        return _up(math.sqrt(_up(float(np.square(short).sum() * (1 + 2 * sum_error(short.size))))))
    slack = 2 * sum_error(short.shape[1]) * np.abs(short).sum(axis=1).max() * np.abs(short).sum(axis=0).max()
    errors: list[tuple[float, float]] = []
    for _ in range(SQUARINGS):
        power = (power + power.T) / 2
        scale = 2.0 ** math.frexp(float(np.abs(power).max()))[1]
        errors.append((scale, _up(_up(float(slack)))))
        power = power / scale
        slack = 2 * sum_error(len(short)) * np.square(np.abs(power).sum(axis=1).max())
        power = power @ power
    row_sum = _up(float(np.abs(power).sum(axis=1).max()) * (1 + 2 * sum_error(len(short))))
    bound = _up(row_sum + _up(float(slack)))
    for scale, error in reversed(errors):
        root = _up(math.sqrt(bound))
        bound = _up(_up(root * scale) + error)
    return _up(math.sqrt(bound))


def _up(value: float) -> float:
    return float(up(np.array(value)))
