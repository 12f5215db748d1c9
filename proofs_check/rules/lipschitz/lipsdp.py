"""Global l2 Lipschitz constants by LipSDP (Fazlyab et al. 2019), the matrix inequality proven in Arb.

Between two points x, x + D of the input let v be the increments of all activations' inputs: v = A D + B w, and
d_j's increment = C_j D + D_j w, where activation i adds (b_i - a_i) w_i to a_i v_i (slopes in [a_i, b_i]), so
w_i (v_i - w_i) >= 0. For multipliers T >= 0 (diagonal only) and L > 0 suppose
    N = L^2 [[2T - TB - B'T, D_j'], [D_j, 1]] - E E',  E = [-TA; C_j],   is positive definite.
Then L^2 |D|^2 - |increment|^2 - 2 w'T(v - w) >= 0 for all D, w (Schur complements), hence L is a Lipschitz constant.

Precondition: elementwise activations only, multipliers >= 0. Postcondition: every stated constant is proven.
Charged: increments' coefficients are float intervals that widen with every rounding; from them on all is of Arb balls.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from flint import arb, arb_mat

from proofs_check.certificate import Assumption, Claim, need
from proofs_check.kernel import jacobian
from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.rounding import Array, down, need_bounded, up
from proofs_check.kernel.slopes import Interval, scaled
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.rule import Theorem, need_theorem, premises, stated_constants
from proofs_check.rules.margin.differences import decoded

MAX_NEURONS = 1024
MAX_ENTRIES = 2**24  # of the map from one node to another


@dataclass(frozen=True)
class GlobalLipschitz:
    """constants: global l2 constants of d_j, entry y is 0. multipliers: base64 of K rows of little-endian float32."""

    theorem: Theorem
    constants: tuple[float, ...]
    multipliers: str


def global_lipschitz(claim: Claim, evidence: GlobalLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5 or (4a) with global constants; other norms through |.|_2 <= |.|_1 and |.|_2 <= sqrt(n) |.|_inf."""
    _, at_x = premises(claim, case)
    need_theorem(claim, evidence.theorem, at_x, semidefinite_constants(claim, evidence, case.robust, case))
    return frozenset()


def semidefinite_constants(claim: Claim, evidence: GlobalLipschitz, prepared: Prepared, case: Case) -> Array:
    """Those stated of a network's d_j on the whole space, proven, in the claim's norm."""
    stated = stated_constants(claim, evidence.constants, prepared)
    _proven(prepared, claim.predicted, evidence.constants, evidence.multipliers)
    factor = NORMS[claim.norm].length(case.input.size)
    return np.nextafter(stated * factor, np.inf)


@functools.lru_cache(maxsize=64)
def _proven(prepared: Prepared, y: int, constants: tuple[float, ...], multipliers: str) -> None:
    """Rejects unless the constants are proven; a pure function, so one proof serves every input of a run."""
    need_constants(prepared, y, np.array(constants), _multipliers(multipliers, prepared))


def _activations(prepared: Prepared) -> list[int]:
    """Nonlinear nodes, also those that no logit sees. Rejects one that is not elementwise: a row per cell of its input
    and a multiplier per cell of its value must be as many."""
    nonlinear = {k: layer for k, layer in enumerate(prepared.layers) if isinstance(layer, Nonlinear)}
    for layer in nonlinear.values():
        layer.derivative()
    return list(nonlinear)


def _multipliers(encoded: str, prepared: Prepared) -> Array:
    """(K, n) multipliers, all >= 0: the S-procedure needs nothing else."""
    count = sum(math.prod(prepared.shapes[k]) for k in _activations(prepared))
    need(0 < count <= MAX_NEURONS, "multipliers", f"this rule takes 1 to {MAX_NEURONS} activations, found {count}")
    data = decoded(encoded, "multipliers")
    expected = 4 * prepared.network.classes * count
    need(len(data) == expected, "multipliers", f"must be {expected} bytes, got {len(data)}")
    values = np.frombuffer(data, dtype="<f4").astype(np.float64).reshape(prepared.network.classes, count)
    need_bounded(values, "multipliers")
    need((values >= 0).all(), "multipliers", "must be >= 0")
    return values


def need_constants(prepared: Prepared, y: int, stated: Array, multipliers: Array) -> None:
    """Every stated constant of d_j = z_j - z_y is proven by its row of multipliers."""
    rivals = [j for j in range(prepared.network.classes) if j != y]
    forms = np.eye(prepared.network.classes)[rivals] - np.eye(prepared.network.classes)[y]
    before = [inputs_of(prepared.network.nodes[k])[0] for k in _activations(prepared)]
    parts = [*(_increments(prepared, k, None) for k in before), _increments(prepared, len(prepared.layers) - 1, forms)]
    inputs = _arb_matrix([p.inputs for p in parts])
    gram = (inputs * inputs.transpose()).table()
    weights = _arb_matrix([p.neurons for p in parts]).table()
    n = multipliers.shape[1]
    for row, j in enumerate(rivals):
        used = [*range(n), n + row]
        matrix = _inequality(
            [arb(float(v)) for v in multipliers[j]],
            arb(float(stated[j])) ** 2,
            [weights[p] for p in used],
            [[gram[p][q] for q in used] for p in used],
        )
        need(positive_definite(matrix), "constants", f"class {j}: {stated[j]} is not proven by its multipliers")


def _inequality(t: list[arb], rho: arb, weights: list[list[arb]], gram: list[list[arb]]) -> arb_mat:
    """N. weights: the rows of B, then D_j; gram: of the rows of A, then C_j."""
    n = len(t)
    half = [[t[p] * (int(p == q) - weights[p][q]) for q in range(n)] + [arb(0)] for p in range(n)]
    half.append([*weights[n], arb(1) / 2])  # N = L^2 (half + half') - E E'
    sign = [*(-v for v in t), arb(1)]
    square = range(n + 1)
    entries = [rho * (half[p][q] + half[q][p]) - sign[p] * sign[q] * gram[p][q] for p in square for q in square]
    return arb_mat(n + 1, n + 1, entries)


def positive_definite(matrix: arb_mat) -> bool:
    """True only if every symmetric real matrix enclosed is positive definite.

    X N X' strictly diagonally dominant with a positive diagonal is positive definite (Gershgorin), hence so is N,
    whatever X. X: the inverse Cholesky factor in floats. It proves more than an LDL' factorisation of N in balls, which
    grow with every pivot: of entries known to 1e-14, eigenvalues down to 1e-11 (n = 129), where that ends above 1e-6.
    """
    size = matrix.nrows()
    middle = np.array([float(v.mid()) for v in matrix.entries()]).reshape(size, size)
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(middle)).astype(np.float64)
    except np.linalg.LinAlgError:
        return False
    factor = _arb_matrix([Interval(inverse, np.zeros_like(inverse))])
    product = (factor * matrix * factor.transpose()).table()
    return all(row[i] > sum((abs(v) for q, v in enumerate(row) if q != i), arb(0)) for i, row in enumerate(product))


@dataclass(frozen=True, eq=False)
class Increments:
    """Rows of one node's increment as linear forms of D (R, inputs) and of w (R, activations), in centre +- radius."""

    inputs: Interval
    neurons: Interval


def _increments(prepared: Prepared, node: int, forms: Array | None) -> Increments:
    """Of the rows `forms` (R, size) of a node's value; default: of every cell."""
    size = math.prod(prepared.shapes[node])
    largest = max(map(math.prod, prepared.shapes[: node + 1]))
    count = size if forms is None else len(forms)
    need(count * largest <= MAX_ENTRIES, "constants", "the network is too large for this rule")
    exact = np.eye(size) if forms is None else forms
    images = np.moveaxis(exact.reshape(-1, *prepared.shapes[node]), 1, -1)
    frontier = {node: Interval(images, np.zeros_like(images))}
    neurons: dict[int, Interval] = {}
    for k in range(node, 0, -1):
        reached = frontier.pop(k, None)
        if reached is None:
            continue
        layer = prepared.layers[k]
        if isinstance(layer, Affine):
            parts = jacobian.affine_step(layer, reached)
        else:
            on_input, neurons[k] = _activation(cast("Nonlinear", layer), reached)
            parts = [on_input]
        for i, part in zip(inputs_of(prepared.network.nodes[k]), parts, strict=True):
            need_bounded(part.magnitude(), "constants")
            frontier[i] = jacobian.sum_of(frontier[i], part, prepared.shapes[i]) if i in frontier else part
    of_w = [_flat(neurons.get(k), count, prepared, k) for k in _activations(prepared)]
    both = (np.concatenate([getattr(part, name) for part in of_w], axis=1) for name in ("centre", "radius"))
    return Increments(_flat(frontier.get(0), count, prepared, 0), Interval(*both))


def _activation(layer: Nonlinear, forms: Interval) -> tuple[Interval, Interval]:
    """Of an activation with slopes in [a, b]: a times the forms, and the coefficients of w, (b - a) times the forms."""
    a, b = (np.full((1, 1, 1), s) for s in layer.derivative())
    return scaled(forms, a, a), scaled(forms, np.maximum(down(b - a), 0.0), up(b - a))


def _flat(forms: Interval | None, count: int, prepared: Prepared, node: int) -> Interval:
    """(count, size) in the order of the node's value; zero where no form reached it."""
    if forms is None:
        return Interval(zeros := np.zeros((count, math.prod(prepared.shapes[node]))), zeros)
    centre, radius = (np.moveaxis(part, -1, 1).reshape(count, -1) for part in (forms.centre, forms.radius))
    return Interval(centre, radius)


def _arb_matrix(parts: list[Interval]) -> arb_mat:
    """The parts below each other."""
    centre, radius = np.concatenate([p.centre for p in parts]), np.concatenate([p.radius for p in parts])
    pairs = zip(centre.ravel().tolist(), radius.ravel().tolist(), strict=True)
    return arb_mat(len(centre), centre.shape[1], [arb(m, r) if r else arb(m) for m, r in pairs])
