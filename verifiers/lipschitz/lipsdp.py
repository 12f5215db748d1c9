"""LipSDP: global ℓ2 Lipschitz constants of logit differences by semidefinite programming (Fazlyab et al. 2019).

Increments of the network between two points: Δv = A Δx + B w for the inputs of the activations, B strictly
lower triangular, Δz = C Δx + D w, where w_i in [0, 1]·Δv_i (an activation with slopes in [a, b] is a·v plus
(b - a) times one with slopes in [0, 1]). Diagonal multipliers T >= 0 charge w_i (Δv_i - w_i) >= 0. For a row
c of the logits, ℓ0 = cC, ℓw = cD, the constant sqrt(rho) holds if

    [[2T - TB - BᵀT, ℓwᵀ], [ℓw, 1]]  -  (1/rho) [-TA; ℓ0] [-TA; ℓ0]ᵀ  >=  0        (*)

(eliminate Δx; the last row is |cΔz|² in Schur form). Only diagonal multipliers: the variant with full
coupling is unsound (Pauli et al. 2021). The judge re-derives A, B, C, D and proves (*) from T and rho.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import cvxpy
import numpy as np
import torch
from cvxpy.error import SolverError
from numpy.typing import NDArray

from verifiers.engine import EngineError
from verifiers.lipschitz.jacobian import Slopes
from verifiers.lipschitz.linear_maps import LinearMaps

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Increments:
    """A (n, d), B (n, n), C (K, d), D (K, n) of the module's docstring; layer (n,): which activation node."""

    a: Matrix
    b: Matrix
    c: Matrix
    d: Matrix
    layer: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GlobalBound:
    """constant >= Lip_2 of the row of logits it was computed for, by multipliers (n,) >= 0 (untrusted)."""

    constant: float
    multipliers: NDArray[np.float32]


@dataclass(frozen=True)
class LipSDP:
    """multipliers "neuron": one per activation, "layer": one per layer. At most `max_neurons` activations.

    solver "descent": gradient descent on log T, for which the least rho has a closed form; "scs": the cone
    program in cvxpy first (all rows jointly), then descent for each row. Both end in the same inflation.
    """

    multipliers: Literal["neuron", "layer"] = "neuron"
    solver: Literal["descent", "scs"] = "descent"
    max_neurons: int = 512
    descent_steps: int = 200
    inflation: float = 1e-6

    def bounds(self, maps: LinearMaps, rows: Matrix, slopes: list[Slopes]) -> list[GlobalBound]:
        """A bound for each row of `rows` (R, K). slopes: `unrestricted_slopes`, or a ball's for a bound there.

        Raises EngineError: a node without multipliers, too many neurons, a solver that found nothing.
        """
        system = increments(maps, slopes, self.max_neurons)
        start, steps = self._solve(system), self.descent_steps
        found: list[GlobalBound] = []
        for row in rows:
            found.append(self._finish(system, row, start, steps))
            if self.solver == "descent":  # the rows of one network want similar multipliers
                start, steps = found[-1].multipliers.astype(np.float64), -(-self.descent_steps // 2)
        return found

    def _solve(self, system: Increments) -> Matrix:
        """Multipliers to start from: by SCS, good for all centred logits together, or the plain feasible ones."""
        feasible = _feasible(system)
        n, classes = len(system.b), len(system.c)
        if n == 0 or self.solver == "descent":
            return feasible
        centre = np.eye(classes) - 1 / classes
        a, c0, d = _compressed(system, centre)
        scale_in, scale_out = (max(float(np.linalg.norm(m, 2)), 1e-12) for m in (a, d))
        a, c0, d = a / scale_in, c0 / (scale_in * scale_out), d / scale_out
        if self.multipliers == "neuron":
            variable = cvxpy.Variable(n, nonneg=True)
            t = variable
        else:
            names, member = np.unique(system.layer, return_inverse=True)
            variable = cvxpy.Variable(len(names), nonneg=True)
            t = np.eye(len(names))[member] @ variable
        rho, diagonal = cvxpy.Variable(nonneg=True), cvxpy.diag(t)
        quadratic = 2 * diagonal - diagonal @ system.b - system.b.T @ diagonal
        coupling = -diagonal @ a
        block = cvxpy.bmat(
            [
                [rho * np.eye(a.shape[1]), coupling.T, c0.T],
                [coupling, quadratic, d.T],
                [c0, d, np.eye(classes)],
            ]
        )
        problem = cvxpy.Problem(cvxpy.Minimize(rho), [(block + block.T) / 2 >> 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                problem.solve(solver=cvxpy.SCS, eps=1e-4, max_iters=5000)
            except SolverError as error:
                raise EngineError(f"the SDP solver failed: {error}") from error
        if t.value is None or not np.isfinite(t.value).all():
            raise EngineError(f"the SDP solver returned no multipliers (status {problem.status})")
        found = np.maximum(t.value, 0) * scale_out**2
        return _inflated(system, found, feasible)

    def _finish(self, system: Increments, row: Matrix, start: Matrix, steps: int) -> GlobalBound:
        """The constant of one row: multipliers by descent from `start`, then the least rho they prove, inflated."""
        if not len(system.b):
            return GlobalBound(float(np.linalg.norm(row @ system.c)) * (1 + self.inflation), np.zeros(0, np.float32))
        multipliers = self._descend(system, row, start, steps).astype(np.float32)
        rho = least_rho(system, row, multipliers.astype(np.float64))
        if rho is None:
            raise EngineError("the multipliers found do not make the matrix inequality hold")
        return GlobalBound(math.sqrt(rho) * (1 + self.inflation), multipliers)

    def _descend(self, system: Increments, row: Matrix, start: Matrix, steps: int) -> Matrix:
        """Minimise log rho(T), convex in T, by Adam on log T; keeps the best."""
        a, ell0, ellw = _compressed(system, row[None])
        group = np.unique(system.layer, return_inverse=True)[1] if self.multipliers == "layer" else np.arange(len(a))
        problem = _Rho(*map(torch.from_numpy, (a, system.b, ell0[0], ellw[0])))
        first = _best_scale(problem, torch.from_numpy(np.maximum(start, 1e-9 * start.max())))
        factor = torch.zeros(int(group.max()) + 1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([factor], lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
        best, value = first, problem(first)
        for _ in range(steps):
            optimiser.zero_grad()
            current = first * factor[group].exp()
            rho = problem(current)
            if rho is None:
                with torch.no_grad():
                    factor *= 0.5
                continue
            if value is None or float(rho.detach()) < float(value):
                best, value = current.detach(), rho.detach()
            rho.log().backward()
            optimiser.step()
            schedule.step()
        return best.detach().numpy()


@dataclass(frozen=True, eq=False)
class _Rho:
    """The least rho of (*) as a differentiable function of T, None where no rho does."""

    a: torch.Tensor
    b: torch.Tensor
    ell0: torch.Tensor
    ellw: torch.Tensor

    def __call__(self, t: torch.Tensor) -> torch.Tensor | None:
        weighted = t[:, None] * self.b
        quadratic = 2 * torch.diag(t) - weighted - weighted.T
        factor, info = torch.linalg.cholesky_ex(quadratic)
        if int(info):
            return None
        left = torch.linalg.solve_triangular(factor, -t[:, None] * self.a, upper=False)
        right = torch.linalg.solve_triangular(factor, self.ellw[:, None], upper=False)
        rest = 1 - (right**2).sum()
        if float(rest.detach()) <= 1e-9:
            return None
        last = (self.ell0 - (right.T @ left)[0]) / rest.sqrt()
        stacked = torch.cat([left, last[None]])
        gram = stacked @ stacked.T if len(stacked) < stacked.shape[1] else stacked.T @ stacked
        return torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-300)


def _best_scale(problem: _Rho, t: torch.Tensor) -> torch.Tensor:
    """t times the power of two that gives the least rho."""
    weighted = t[:, None] * problem.b
    quadratic = 2 * torch.diag(t) - weighted - weighted.T
    energy = float(problem.ellw @ torch.linalg.solve(quadratic, problem.ellw))
    candidates = [t * (max(energy, 1e-300) * 2.0**power) for power in range(1, 12)]
    values = [problem(s) for s in candidates]
    known = [(float(v), k) for k, v in enumerate(values) if v is not None]
    if not known:
        raise EngineError("no scale of the multipliers makes the matrix inequality hold")
    return candidates[min(known)[1]]


def least_rho(system: Increments, row: Matrix, multipliers: Matrix) -> float | None:
    """The least rho for which (*) holds with these multipliers, or None."""
    problem = _Rho(*map(torch.from_numpy, (system.a, system.b, row @ system.c, row @ system.d)))
    rho = problem(torch.from_numpy(multipliers))
    return None if rho is None else float(rho)


def increments(maps: LinearMaps, slopes: list[Slopes], max_neurons: int) -> Increments:
    """The matrices of the network, an activation of fixed slope (a = b) folded into the affine part."""
    network = maps.network
    for k, layer in enumerate(maps.layers):
        if not maps.affine(k) and maps.nonlinear(k).taps > 1:
            raise EngineError(f"LipSDP has no multipliers for node {k} ({type(layer).__name__})")
    active = {k: torch.nonzero((s[0] < s[1])[0].flatten()).flatten() for k, s in enumerate(slopes) if s is not None}
    neurons, size = sum(map(len, active.values())), math.prod(network.input_shape)
    if neurons > max_neurons:
        raise EngineError(f"LipSDP takes at most {max_neurons} activations, the network has {neurons}")
    values: list[torch.Tensor] = [torch.eye(size + neurons, size, dtype=torch.float64, device=maps.device)]
    values[0] = values[0].reshape(-1, *network.input_shape)  # one batch entry per column of [x, w]
    before, layers, start = [], [], size
    for k in range(1, len(maps.layers)):
        arguments = [values[i] for i in maps.parents(k)]
        if maps.affine(k):
            values.append(maps.linear[k].value(*arguments))
            continue
        least, most = (s[0].flatten() for s in slopes[k])  # type: ignore[union-attr]
        index, flat = active[k], arguments[0].flatten(1)
        before.append(flat[:, index])
        layers.append(np.full(len(index), k))
        value = flat * least
        value[start + torch.arange(len(index), device=maps.device), index] += (most - least)[index]
        start += len(index)
        values.append(value.reshape(arguments[0].shape))
    inputs = torch.cat(before, dim=1) if before else torch.zeros((size, 0), dtype=torch.float64)
    v, z = inputs.T.cpu().numpy(), values[-1].T.cpu().numpy()
    kind = np.concatenate(layers) if layers else np.zeros(0, np.int64)
    parts = (v[:, :size], v[:, size:], z[:, :size], z[:, size:])
    a, b, c0, d = map(np.ascontiguousarray, parts)
    return Increments(a, b, c0, d, kind)


def _compressed(system: Increments, rows: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """A and rows·C in an orthonormal basis of the directions of x they see (of one where they see none), and rows·D."""
    a, ell0 = system.a, rows @ system.c
    used = np.concatenate([a[np.abs(a).any(axis=1)], ell0[np.abs(ell0).any(axis=1)]])
    if len(used) >= a.shape[1]:
        return a, ell0, rows @ system.d
    basis = np.linalg.qr(used.T)[0] if len(used) else np.eye(a.shape[1], 1)
    return a @ basis, ell0 @ basis, rows @ system.d


def _feasible(system: Increments) -> Matrix:
    """Multipliers, constant per layer, for which 2T - TB - BᵀT is positive definite."""
    names, member = np.unique(system.layer, return_inverse=True)
    scale: list[float] = []
    for k in range(len(names)):
        norms = [float(np.linalg.norm(system.b[np.ix_(member == k, member == j)], 2)) for j in range(k)]
        # off-diagonal blocks weigh less than 1 / layers of the geometric mean of their diagonals
        limits = [scale[j] / (len(names) ** 2 * max(n, 1e-12) ** 2) for j, n in enumerate(norms)]
        scale.append(min([1.0, *limits]) if k else 1.0)
    return np.array(scale)[member] if len(member) else np.zeros(0)


def _inflated(system: Increments, found: Matrix, feasible: Matrix) -> Matrix:
    """`found` plus the least power of ten of `feasible` that makes the quadratic part positive definite."""
    size = max(float(np.abs(found).max()), 1e-12)
    for power in range(-9, 3):
        t = found + size * 10.0**power * feasible / feasible.max()
        weighted = t[:, None] * system.b
        if np.linalg.eigvalsh(2 * np.diag(t) - weighted - weighted.T)[0] > 0:
            return t
    return feasible
