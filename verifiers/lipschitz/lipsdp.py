"""LipSDP: global ℓ2 Lipschitz constants of logit differences by semidefinite programming (Fazlyab et al. 2019).

Increments of the network between two points: Δv = A Δx + B w for the inputs of the activations, B strictly
lower triangular, Δz = C Δx + D w, where w_i in [0, 1]·Δv_i (an activation with slopes in [a, b] is a·v plus
(b - a) times one with slopes in [0, 1]). Diagonal multipliers T >= 0 charge w_i (Δv_i - w_i) >= 0. For a form
c on the logits, ℓ0 = cC, ℓw = cD, the constant sqrt(rho) holds if

    [[2T - TB - BᵀT, ℓwᵀ], [ℓw, 1]]  -  (1/rho) [-TA; ℓ0] [-TA; ℓ0]ᵀ  >=  0        (*)

(eliminate Δx; the last row is |cΔz|² in Schur form). Only diagonal multipliers: the variant with full
coupling is unsound (Pauli et al. 2021). The judge re-derives A, B, C, D and proves (*) from T and rho.

Candidates for T compete, and the best is improved by descent until nothing is gained (rho(T) is convex): T equal for
all neurons, which proves that orthogonal layers with ReLU, |x| or MaxMin between are 1-Lipschitz; T by the norms of
layers, which proves their product; and on small networks the cone program in cvxpy. With Q the matrix of (*) before the
subtraction and M = [-TA; ℓ0], rho is the largest eigenvalue of MᵀQ⁻¹M: by numpy, or where the network is on a GPU by
torch (`lipsdp_on_device`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from numpy.typing import NDArray

from verifiers.engine import EngineError
from verifiers.lipschitz.jacobian import Slopes
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp_on_device import RhoOnDevice

Matrix = NDArray[np.float64]
TILTS = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)  # earlier layers' multipliers are larger by that much per layer
RETREATS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # the same, from multipliers that rounding makes infeasible
SMOOTHED = (64.0, 512.0, 4096.0)  # powers of Schatten norms in place of the largest eigenvalue, in turn descended
NOTHING = 1e-6  # relative: a step of descent that gains less has gained nothing
INFEASIBLE = 1e3  # in place of log rho, where no rho is: more than any
SCALES = tuple(
    1 + 2.0**power for power in (-14, -10, -7, -5, -3, -2, -1, 0, 1, 2, 4)
)  # of multipliers, times the least feasible one


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
    """constant >= Lip_2 of the form on the logits it was computed for, by multipliers (n,) >= 0 (untrusted)."""

    constant: float
    multipliers: NDArray[np.float32]


@dataclass(frozen=True)
class LipSDP:
    """multipliers "neuron": one per activation, "layer": one per layer. At most `max_neurons` activations.

    max_cone_neurons: with more, the cone program is no candidate. max_steps: of descent per power of `SMOOTHED`, which
    ends before where nothing is gained. inflation: relative, of constants: the judge's matrices need it. on_device: of
    the descent, that of the network; None: where that is CUDA.
    """

    multipliers: Literal["neuron", "layer"] = "neuron"
    max_neurons: int = 512
    max_cone_neurons: int = 64
    max_steps: int = 300
    inflation: float = 1e-6
    on_device: bool | None = None

    def bounds(self, maps: LinearMaps, forms: Matrix, slopes: list[Slopes]) -> list[GlobalBound]:
        """A bound for each of `forms` (R, K). slopes: `unrestricted_slopes`, or a ball's for a bound there.

        Raises EngineError: a node without multipliers, too many neurons, no candidate that proves anything.
        """
        system = increments(maps, slopes, self.max_neurons)
        if not len(system.b):
            norms = np.linalg.norm(forms @ system.c, axis=1) * (1 + self.inflation)
            return [GlobalBound(float(n), np.zeros(0, np.float32)) for n in norms]
        shared = self._cone(system) if len(system.b) <= self.max_cone_neurons else []
        bounds: list[GlobalBound] = []
        for form in forms:
            # the forms of one network want similar multipliers
            previous = bounds[-1].multipliers.astype(np.float64) if bounds else None
            bounds.append(self._bound(system, self.problem(system, form, maps.device), form, shared, previous))
        return bounds

    def problem(self, system: Increments, form: Matrix, device: torch.device) -> Rho | RhoOnDevice:
        """The least rho of a form as a function of T, on the processor or on the device of the network."""
        problem = Rho.of(system, form)
        if device.type == "cuda" if self.on_device is None else self.on_device:
            return RhoOnDevice.of(problem.a, problem.b, problem.ell0, problem.ellw, device)
        return problem

    def _bound(
        self,
        system: Increments,
        problem: Rho | RhoOnDevice,
        form: Matrix,
        shared: list[Matrix],
        previous: Matrix | None,
    ) -> GlobalBound:
        """The constant of one form: the least rho that the best multipliers prove, inflated."""
        powers = SMOOTHED[1:]
        start = None if previous is None else scaled(problem, previous)
        if start is None:
            candidates = [scaled(problem, t) for t in (*shared, *_layerwise(system, form))]
            feasible = [c for c in candidates if c is not None]
            if not feasible:
                raise EngineError("no multipliers at hand make the matrix inequality hold")
            start, powers = min(feasible, key=problem.value), SMOOTHED
        best = self._descend(problem, start, system.layer, powers)
        rounded = [_tilted(system, best, tilt).astype(np.float32) for tilt in RETREATS]
        proven = [
            (rho, k) for k, t in enumerate(rounded) if (rho := least_rho(system, form, t.astype(float))) is not None
        ]
        if not proven:
            raise EngineError("the best multipliers, rounded, do not make the matrix inequality hold")
        rho, k = min(proven)
        return GlobalBound(math.sqrt(rho) * (1 + self.inflation), rounded[k])

    def _descend(
        self, problem: Rho | RhoOnDevice, best: Matrix, layer: NDArray[np.int64], powers: tuple[float, ...]
    ) -> Matrix:
        """Minimise log rho(T) over log T by L-BFGS, for one power after the other."""
        member = np.unique(layer, return_inverse=True)[1] if self.multipliers == "layer" else np.arange(len(layer))
        for power in powers if self.max_steps else ():
            start = best

            def smoothed(logarithms: Matrix, power: float = power, start: Matrix = start) -> tuple[float, Matrix]:
                found = problem.smoothed(start * np.exp(logarithms[member]), power)
                if found is None:
                    return INFEASIBLE, np.zeros_like(logarithms)
                gradient = np.zeros_like(logarithms)
                np.add.at(gradient, member, found[1])
                return found[0], gradient

            options = {"maxiter": self.max_steps, "ftol": NOTHING}
            ended = scipy.optimize.minimize(
                smoothed, np.zeros(member.max() + 1), jac=True, method="L-BFGS-B", options=options
            )
            best = min(start, start * np.exp(ended.x[member]), key=problem.value)
        return best

    def _cone(self, system: Increments) -> list[Matrix]:
        """Multipliers good for all centred logits together, by SCS; none where it finds none."""
        import cvxpy  # takes seconds, and few networks are as small
        from cvxpy.error import SolverError

        classes = len(system.c)
        centre = np.eye(classes) - 1 / classes
        a, c0, d = _compressed(system, centre)
        scale_in, scale_out = (max(float(np.linalg.norm(m, 2)), 1e-12) for m in (a, d))
        a, c0, d = a / scale_in, c0 / (scale_in * scale_out), d / scale_out
        groups = system.layer if self.multipliers == "layer" else np.arange(len(a))
        names, member = np.unique(groups, return_inverse=True)
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
            except SolverError:
                return []
        if t.value is None or not np.isfinite(t.value).all():
            return []
        multipliers = np.maximum(t.value, 0) * scale_out**2
        size = max(float(multipliers.max()), 1e-12)
        return [multipliers + size * 10.0**power * _tilted(system, np.ones(len(a)), 0.1) for power in (-9, -6, -4, -3)]


@dataclass(frozen=True, eq=False)
class Rho:
    """The least rho of (*) as a function of T: infinite, or None, where no rho does."""

    a: Matrix
    b: Matrix
    ell0: Matrix
    ellw: Matrix

    @staticmethod
    def of(system: Increments, form: Matrix) -> Rho:
        a, ell0, ellw = _compressed(system, form[None])
        return Rho(a, system.b, ell0[0], ellw[0])

    def factors(self, t: Matrix) -> tuple[Matrix, Matrix] | None:
        """L and L⁻¹M, where Q = LLᵀ."""
        weighted, n = t[:, None] * self.b, len(t)
        q = np.ones((n + 1, n + 1))
        q[:n, :n] = 2 * np.diag(t) - weighted - weighted.T
        q[n, :n] = q[:n, n] = self.ellw
        try:
            factor: Matrix = scipy.linalg.cholesky(q, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        if factor[n, n] ** 2 <= 1e-9:
            return None
        m = np.concatenate([-t[:, None] * self.a, self.ell0[None]])
        return factor, scipy.linalg.solve_triangular(factor, m, lower=True, check_finite=False)

    def value(self, t: Matrix) -> float:
        found = self.factors(t)
        return math.inf if found is None else max(float(np.linalg.eigvalsh(found[1].T @ found[1])[-1]), 1e-300)

    def smoothed(self, t: Matrix, power: float) -> tuple[float, Matrix] | None:
        """log (sum of rho's eigenvalues^power) / power and its gradient by log t.

        dMᵀQ⁻¹M = dMᵀY + YᵀdM - YᵀdQ Y, Y = Q⁻¹M, so that along an eigenvector v, with y = Yv, t_i moves its eigenvalue
        by -2 y_i (Av)_i - 2 y_i² + 2 y_i (By)_i.
        """
        found = self.factors(t)
        if found is None:
            return None
        factor, half = found
        values, vectors = np.linalg.eigh(half.T @ half)
        values = values.clip(min=1e-300)
        shares = (values / values[-1]) ** power
        total = shares.sum()
        kept = shares > 1e-14 * total
        vectors = vectors[:, kept]
        right = half @ vectors
        y = scipy.linalg.solve_triangular(factor, right, lower=True, trans=1, check_finite=False)[:-1]
        moved = 2 * y * (self.b @ y - self.a @ vectors - y)
        gradient = t * (moved @ (shares / values / total)[kept])
        return math.log(values[-1]) + math.log(total) / power, gradient

    def energy(self, t: Matrix) -> float | None:
        """The least feasible scale of t; None where none is."""
        weighted = t[:, None] * self.b
        try:
            factor = scipy.linalg.cholesky(2 * np.diag(t) - weighted - weighted.T, lower=True)
        except np.linalg.LinAlgError:
            return None
        right = scipy.linalg.solve_triangular(factor, self.ellw, lower=True)
        return max(float((right**2).sum()), 1e-300)


def scaled(problem: Rho | RhoOnDevice, t: Matrix) -> Matrix | None:
    """t times the scale that gives the least rho; None where none is feasible."""
    energy = problem.energy(t)
    if energy is None:
        return None
    best = min((t * (energy * scale) for scale in SCALES), key=problem.value)
    return best if problem.value(best) < math.inf else None


def _layerwise(system: Increments, form: Matrix) -> list[Matrix]:
    """Multipliers constant on layers, feasible or not: equal ones and those that prove the product of norms, tilted."""
    return [_tilted(system, t, tilt) for t in (np.ones(len(system.b)), _by_norms(system, form)) for tilt in TILTS]


def _tilted(system: Increments, multipliers: Matrix, tilt: float) -> Matrix:
    names, member = np.unique(system.layer, return_inverse=True)
    return multipliers * (1 + tilt) ** (len(names) - member)


def _by_norms(system: Increments, form: Matrix) -> Matrix:
    """Multipliers that prove the product of norms, sums where branches meet.

    |v_k| <= gain_k |Δx|, gain_k = |A_k| + sum_j |B_kj| gain_j, and by Cauchy and Schwarz |v_k|² is at most gain_k times
    the sum of |B_kj| |w_j|² / gain_j, so that |w_k|² <= |v_k|² passes down the layers.
    """
    names, member = np.unique(system.layer, return_inverse=True)
    layers, ellw = range(len(names)), form @ system.d
    inner = [[_norm(system.b[np.ix_(member == k, member == j)]) for j in range(k)] for k in layers]
    outer = [_norm(ellw[None, member == k]) for k in layers]
    gains: list[float] = []
    for k in layers:
        gain = _norm(system.a[member == k]) + sum(n * g for n, g in zip(inner[k], gains, strict=True))
        gains.append(max(gain, 1e-300))
    form_gain = _norm((form @ system.c)[None]) + sum(n * g for n, g in zip(outer, gains, strict=True))
    weights = [0.0] * len(names)
    for j in reversed(layers):
        above = sum(weights[k] * gains[k] * inner[k][j] for k in layers if k > j)
        weights[j] = max((form_gain * outer[j] + above) / gains[j], 1e-300)
    return np.array(weights)[member]


def _norm(matrix: Matrix) -> float:
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0


def least_rho(system: Increments, form: Matrix, multipliers: Matrix) -> float | None:
    """The least rho for which (*) holds with these multipliers, or None."""
    rho = Rho(system.a, system.b, form @ system.c, form @ system.d).value(multipliers)
    return rho if rho < math.inf else None


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


def _compressed(system: Increments, forms: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """A and forms·C in an orthonormal basis of the directions of x they see (one where they see none), and forms·D."""
    a, ell0 = system.a, forms @ system.c
    used = np.concatenate([a[np.abs(a).any(axis=1)], ell0[np.abs(ell0).any(axis=1)]])
    if len(used) >= a.shape[1]:
        return a, ell0, forms @ system.d
    basis = np.linalg.qr(used.T)[0] if len(used) else np.eye(a.shape[1], 1)
    return a @ basis, ell0 @ basis, forms @ system.d
