"""Worst points by solving: closed form on affine networks, mixed-integer programs on small ReLU networks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse
import torch
from numpy.typing import NDArray

from certmix.testing import exact
from certmix.testing.attack import AttackProposal, claimed_rows
from certmix.testing.claims import Claims
from certmix.testing.problem import dual_exponent, exponent
from proofs_check import certificate as c
from verifiers.network.module import PlainModule

RADIUS_SHARE = 1 - Fraction(1, 2**80)  # of the claimed radius: points lie strictly inside the ball
MOST_PROGRAMS = 12
AFFINE = (
    c.Linear, c.Conv2d, c.BatchNorm, c.Shift, c.Scale, c.Divide, c.AveragePool2d, c.Pad, c.Slice, c.Flatten, c.Gather
)  # fmt: skip


def affine_map(network: c.PlainNetwork, k: int, module: PlainModule) -> tuple[NDArray[Any], NDArray[Any]]:
    """Node k as (matrix (out, in), offset (out,)) in float64, for one-input affine nodes.

    Entries are those of the layer (one product each); batch norm and division carry their one rounding.
    """
    node = network.nodes[k]
    shape = network.shapes[node.inputs[0]]  # type: ignore[union-attr]
    size = math.prod(shape)
    with torch.no_grad():
        zero = module.node_value(k, node, [torch.zeros(1, *shape, dtype=torch.float64)]).reshape(-1).numpy()
        bare = PlainModule(without_offset(network, k)).double()
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        matrix = bare.node_value(k, bare.network.nodes[k], [basis]).reshape(size, -1).numpy().T
    return matrix, zero


def without_offset(network: c.PlainNetwork, k: int) -> c.PlainNetwork:
    """The network with node k made linear (its constant term removed), so that its matrix can be read exactly."""
    node = network.nodes[k]
    match node:
        case c.Linear() | c.Conv2d():
            node = dataclasses.replace(node, bias=np.zeros_like(node.bias))
        case c.BatchNorm():
            node = dataclasses.replace(node, shift=np.zeros_like(node.shift), mean=np.zeros_like(node.mean))
        case c.Shift():
            node = dataclasses.replace(node, constant=np.zeros_like(node.constant))
        case c.Pad():
            node = dataclasses.replace(node, value=0.0)
        case _:
            return network
    nodes = (*network.nodes[:k], node, *network.nodes[k + 1 :])
    return dataclasses.replace(network, nodes=nodes)


def by_closed_form(claims: Claims, seed: int) -> AttackProposal:
    """On affine networks: for each pair of classes the exactly worst point of the open ball, as fractions.

    Requires nothing; proposes nothing where the robust network is not affine.
    """
    problem = claims.problem
    if any(not isinstance(n, (*AFFINE, c.Input)) for n in problem.robust.nodes):
        return AttackProposal([], 0)
    columns = _exact_gradient(problem.robust)
    points: list[tuple[int, NDArray[Any]]] = []
    for row in claimed_rows(claims):
        radius = Fraction(min(float(claims.radius[row]), 2.0**70)) * RADIUS_SHARE
        for y, i in itertools.permutations(range(problem.robust.classes), 2):
            step = _worst_step(columns[i] - columns[y], radius, problem.norm)
            point = exact.rational(problem.inputs[row]) + step.reshape(problem.inputs[row].shape)
            points.append((int(row), _clip_exact(point, problem.domain)))
    return AttackProposal(points, len(points))


def _exact_gradient(network: c.PlainNetwork) -> NDArray[Any]:
    """The (K, D) matrix of an affine network in fractions."""
    size = math.prod(network.input_shape)
    base = np.array(exact.logits(network, np.zeros(network.input_shape)), object)
    unit = np.eye(size).reshape(size, *network.input_shape)
    return np.array([np.array(exact.logits(network, e), object) - base for e in unit], object).T.reshape(-1, size)


def _worst_step(gradient: NDArray[Any], radius: Fraction, norm: str) -> NDArray[Any]:
    """The step of length <= radius (nearly radius) that increases gradient·x most, in fractions."""
    p = exponent(norm)
    top = max(range(len(gradient)), key=lambda j: abs(gradient[j]))
    step = np.array([Fraction(0)] * len(gradient), object)
    if not gradient[top]:
        return step
    if p == 1:
        step[top] = radius if gradient[top] > 0 else -radius
        return step
    if p == math.inf:
        return np.array([radius * ((g > 0) - (g < 0)) for g in gradient], object)
    power = dual_exponent(p) - 1
    shares = [float(g / abs(gradient[top])) for g in gradient]
    raw = np.array([Fraction(math.copysign(abs(s) ** power, s)) for s in shares], object)
    length = _root_up(sum((abs(v) ** int(p) for v in raw), Fraction(0)), int(p))
    return raw * (radius / length)


def _root_up(value: Fraction, p: int) -> Fraction:
    """A rational barely above value^(1/p): Newton from the float root, which ends above."""
    guess = Fraction(float(value) ** (1 / p))
    for _ in range(2):
        guess = ((p - 1) * guess + value / guess ** (p - 1)) / p
    return guess.limit_denominator(2**200) + Fraction(1, 2**190) if guess else guess


def _clip_exact(point: NDArray[Any], domain: tuple[float, float] | None) -> NDArray[Any]:
    if domain is None:
        return point
    low, high = Fraction(domain[0]), Fraction(domain[1])
    flat = [min(max(v, low), high) for v in point.reshape(-1)]
    out = np.empty(len(flat), object)
    out[:] = flat
    return out.reshape(point.shape)


# ---------------------------------------------------------------- mixed-integer programs


def by_program(claims: Claims, seed: int) -> AttackProposal:
    """On small ReLU networks under Linf or L1: the minimiser of each logit difference over the claimed ball.

    Tjeng et al. 2019's encoding, big-M from interval bounds, solved by HiGHS; at most MOST_PROGRAMS programs.
    """
    problem = claims.problem
    allowed = (*AFFINE, c.Input, c.Relu, c.Add)
    if exponent(problem.norm) not in (1, math.inf) or any(not isinstance(n, allowed) for n in problem.robust.nodes):
        return AttackProposal([], 0)
    inputs = claimed_rows(claims)
    pairs = [(int(r), y, i) for r in inputs for y, i in itertools.permutations(range(problem.robust.classes), 2)]
    order = np.random.default_rng(seed).permutation(len(pairs))[:MOST_PROGRAMS]
    points: list[tuple[int, NDArray[Any]]] = []
    for row, y, i in (pairs[k] for k in order):
        point = _solve(claims, row, y, i)
        if point is not None:
            points.append((row, point))
    return AttackProposal(points, len(points))


def _solve(claims: Claims, row: int, y: int, i: int) -> NDArray[Any] | None:
    """argmin of z_y - z_i over the ball of input `row` by one program, pulled strictly inside; None if unsolved."""
    problem = claims.problem
    radius = float(claims.radius[row])
    center = problem.inputs[row].astype(np.float64).reshape(-1)
    if not 0 < radius < 1e5 or np.abs(center).max() > 1e5:
        return None
    program = _Program(problem.robust, center, radius, exponent(problem.norm) == 1, problem.domain)
    if program.widest > 1e6:
        return None
    solved = program.minimise(y, i)
    if solved is None:
        return None
    return (center + (solved - center) * (1 - 2.0**-30)).reshape(problem.inputs.shape[1:])


class _Program:
    """Variables: the input deviations' split for L1, every node's value, one binary per unstable ReLU."""

    def __init__(
        self, network: c.PlainNetwork, center: NDArray[Any], radius: float, l1: bool, domain: tuple[float, float] | None
    ) -> None:
        self.network, self.center, self.radius, self.l1 = network, center, radius, l1
        self.low: list[float] = []
        self.high: list[float] = []
        self.integral: list[int] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.slices: list[range] = []
        low, high = center - radius, center + radius
        if domain is not None:
            low, high = np.maximum(low, domain[0]), np.minimum(high, domain[1])
        module = PlainModule(network).double()
        self.slices.append(self._variables(low, high))
        if l1:
            self._l1_ball()
        for k in range(1, len(network.nodes)):
            self._node(k, module)
        self.widest = max(map(abs, [*self.low, *self.high]))

    def _variables(self, low: NDArray[Any], high: NDArray[Any], integral: int = 0) -> range:
        start = len(self.low)
        self.low += [float(v) for v in low]
        self.high += [float(v) for v in high]
        self.integral += [integral] * len(low)
        return range(start, len(self.low))

    def _l1_ball(self) -> None:
        size = len(self.center)
        gaps = self._variables(np.zeros(size), np.full(size, self.radius))
        for x, t, c0 in zip(self.slices[0], gaps, self.center, strict=True):
            self.rows.append(({x: 1.0, t: -1.0}, -math.inf, float(c0)))
            self.rows.append(({x: 1.0, t: 1.0}, float(c0), math.inf))
        self.rows.append((dict.fromkeys(gaps, 1.0), -math.inf, self.radius))

    def _node(self, k: int, module: PlainModule) -> None:
        node = self.network.nodes[k]
        sources = [self.slices[i] for i in node.inputs]  # type: ignore[union-attr]
        if isinstance(node, c.Relu):
            self.slices.append(self._relu(sources[0]))
        elif isinstance(node, c.Add):
            eye = np.eye(len(sources[0]))
            self.slices.append(self._affine([*sources[0], *sources[1]], np.hstack([eye, eye]), np.zeros(len(eye))))
        else:
            self.slices.append(self._affine(list(sources[0]), *affine_map(self.network, k, module)))

    def _affine(self, source: list[int], matrix: NDArray[Any], offset: NDArray[Any]) -> range:
        low, high = np.array(self.low)[source], np.array(self.high)[source]
        up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
        out = self._variables(up @ low + down @ high + offset, up @ high + down @ low + offset)
        for o, weights, b in zip(out, matrix, offset, strict=True):
            row = {s: float(w) for s, w in zip(source, weights, strict=True) if w}
            self.rows.append(({**row, o: -1.0}, -float(b), -float(b)))
        return out

    def _relu(self, source: range) -> range:
        low, high = np.array(self.low)[source], np.array(self.high)[source]
        out = self._variables(np.maximum(low, 0), np.maximum(high, 0))
        for s, o, a, b in zip(source, out, low, high, strict=True):
            if a >= 0:
                self.rows.append(({o: 1.0, s: -1.0}, 0.0, 0.0))
            elif b > 0:
                (switch,) = self._variables(np.zeros(1), np.ones(1), 1)
                self.rows.append(({o: 1.0, s: -1.0}, 0.0, math.inf))
                self.rows.append(({o: 1.0, s: -1.0, switch: -float(a)}, -math.inf, -float(a)))
                self.rows.append(({o: 1.0, switch: -float(b)}, -math.inf, 0.0))
        return out

    def minimise(self, y: int, i: int) -> NDArray[Any] | None:
        """The input at which z_y - z_i is least, or None where the solver gives up within its second."""
        out = self.slices[-1]
        cost = np.zeros(len(self.low))
        cost[out[y]], cost[out[i]] = 1.0, -1.0
        entries = [(r, v, w) for r, (row, _, _) in enumerate(self.rows) for v, w in row.items()]
        r, v, w = (np.array(part) for part in zip(*entries, strict=True))
        matrix = scipy.sparse.csr_array((w, (r, v)), shape=(len(self.rows), len(self.low)))
        ends = np.array([row[1:] for row in self.rows]).T
        limits = scipy.optimize.LinearConstraint(matrix, ends[0], ends[1])  # type: ignore[arg-type]
        bounds = scipy.optimize.Bounds(np.array(self.low), np.array(self.high))  # type: ignore[arg-type]
        solution = scipy.optimize.milp(
            cost, integrality=np.array(self.integral), bounds=bounds, constraints=limits, options={"time_limit": 1.0}
        )
        return None if solution.x is None else solution.x[self.slices[0]]
