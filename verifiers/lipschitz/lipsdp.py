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
layers, which proves their product; and on small networks the cone program in cvxpy.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from verifiers.engine import EngineError
from verifiers.lipschitz.jacobian import Slopes
from verifiers.lipschitz.linear_maps import LinearMaps

Matrix = NDArray[np.float64]
TILTS = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)  # earlier layers' multipliers are larger by that much per layer
RETREATS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # the same, from multipliers that rounding makes infeasible
STEPS = 50  # of descent, in a round
NOTHING = 2e-3  # relative: a round that gains less has gained nothing
SCALES = tuple(
    1 + 2.0**power for power in (-14, -10, -7, -5, -3, -2, -1, 0, 1, 2, 4)
)  # of multipliers, times the least feasible one


@dataclass(frozen=True)
class _Level:
    """Of descent: Adam's step, and the power of the Schatten norm, smooth, in place of the largest eigenvalue."""

    step: float
    power: float


LEVELS = (_Level(0.05, 64.0), _Level(0.015, 512.0), _Level(4e-3, 4096.0))


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

    max_cone_neurons: with more, the cone program is no candidate. max_rounds: of descent on each level, STEPS
    steps each, at most; a level ends where nothing is gained. inflation: relative, of constants: the judge's matrices
    need it.
    """

    multipliers: Literal["neuron", "layer"] = "neuron"
    max_neurons: int = 512
    max_cone_neurons: int = 64
    max_rounds: int = 4
    inflation: float = 1e-6

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
            bounds.append(self._bound(system, form, shared, previous))
        return bounds

    def _bound(self, system: Increments, form: Matrix, shared: list[Matrix], previous: Matrix | None) -> GlobalBound:
        """The constant of one form: the least rho that the best multipliers prove, inflated."""
        problem, levels = _Rho.of(system, form), LEVELS[1:]
        start = None if previous is None else problem.scaled(torch.from_numpy(previous))
        if start is None:
            candidates = [problem.scaled(torch.from_numpy(t)) for t in (*shared, *_layerwise(system, form))]
            feasible = [c for c in candidates if c is not None]
            if not feasible:
                raise EngineError("no multipliers at hand make the matrix inequality hold")
            start, levels = min(feasible, key=problem.value), LEVELS
        best = self._descend(problem, start, system.layer, levels)
        rounded = [_tilted(system, best.numpy(), tilt).astype(np.float32) for tilt in RETREATS]
        proven = [
            (rho, k) for k, t in enumerate(rounded) if (rho := least_rho(system, form, t.astype(float))) is not None
        ]
        if not proven:
            raise EngineError("the best multipliers, rounded, do not make the matrix inequality hold")
        rho, k = min(proven)
        return GlobalBound(math.sqrt(rho) * (1 + self.inflation), rounded[k])

    def _descend(
        self, problem: _Rho, start: torch.Tensor, layer: NDArray[np.int64], levels: tuple[_Level, ...]
    ) -> torch.Tensor:
        """Minimise log rho(T) by Adam on log T, round by round: the next level whenever nothing is gained."""
        member = np.unique(layer, return_inverse=True)[1] if self.multipliers == "layer" else np.arange(len(layer))
        group, best, least = torch.from_numpy(member), start, problem.value(start)
        for level in levels:
            for _ in range(self.max_rounds):
                candidate, before = _round(problem, best, group, level), least
                if (value := problem.value(candidate)) < least:
                    best, least = candidate, value
                if least > before * (1 - NOTHING):
                    break
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
class _Rho:
    """The least rho of (*) as a function of T: infinite, or None, where no rho does."""

    a: torch.Tensor
    b: torch.Tensor
    ell0: torch.Tensor
    ellw: torch.Tensor

    @staticmethod
    def of(system: Increments, form: Matrix) -> _Rho:
        a, ell0, ellw = _compressed(system, form[None])
        return _Rho(*map(torch.from_numpy, (a, system.b, ell0[0], ellw[0])))

    def gram(self, t: torch.Tensor) -> torch.Tensor | None:
        """A matrix whose largest eigenvalue is rho; differentiable."""
        weighted = t[:, None] * self.b
        factor, info = torch.linalg.cholesky_ex(2 * torch.diag(t) - weighted - weighted.T)
        if int(info):
            return None
        solved_a = torch.linalg.solve_triangular(factor, -t[:, None] * self.a, upper=False)
        solved_ellw = torch.linalg.solve_triangular(factor, self.ellw[:, None], upper=False)
        schur_complement = 1 - (solved_ellw**2).sum()
        if float(schur_complement.detach()) <= 1e-9:
            return None
        last = (self.ell0 - (solved_ellw.T @ solved_a)[0]) / schur_complement.sqrt()
        stacked = torch.cat([solved_a, last[None]])
        return stacked @ stacked.T if len(stacked) < stacked.shape[1] else stacked.T @ stacked

    def value(self, t: torch.Tensor) -> float:
        gram = self.gram(t)
        return math.inf if gram is None else float(torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-300))

    def scaled(self, t: torch.Tensor) -> torch.Tensor | None:
        """t times the scale that gives the least rho; None where none is feasible."""
        weighted = t[:, None] * self.b
        factor, info = torch.linalg.cholesky_ex(2 * torch.diag(t) - weighted - weighted.T)
        if int(info):
            return None
        right = torch.linalg.solve_triangular(factor, self.ellw[:, None], upper=False)
        energy = max(float((right**2).sum()), 1e-300)  # the least feasible scale
        candidates = [t * (energy * scale) for scale in SCALES]
        best = min(candidates, key=self.value)
        return best if self.value(best) < math.inf else None


def _round(problem: _Rho, start: torch.Tensor, group: torch.Tensor, level: _Level) -> torch.Tensor:
    """The best multipliers of STEPS steps."""
    factor = torch.zeros(int(group.max()) + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([factor], lr=level.step)
    best, least = start, math.inf
    for _ in range(STEPS):
        optimiser.zero_grad()
        current = start * factor[group].exp()
        gram = problem.gram(current)
        if gram is None:
            with torch.no_grad():
                factor *= 0.5
            continue
        eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=1e-300)
        size = (level.power * eigenvalues.log()).logsumexp(0) / level.power
        if float(size.detach()) < least:
            best, least = current.detach(), float(size.detach())
        size.backward()
        optimiser.step()
    return best


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
    problem = _Rho(*map(torch.from_numpy, (system.a, system.b, form @ system.c, form @ system.d)))
    rho = problem.value(torch.from_numpy(multipliers))
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
