"""What an answer of each pointwise protocol claims, and when a point refutes it.

A claim has two faces: `slack`, a differentiable float64 estimate that attacks push below zero, and `refutation`,
exact arithmetic, which alone decides.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import flint
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certmix.testing import exact
from certmix.testing.problem import Problem, exponent
from certmix.testing.protocol import Certifier, ProtocolError, claimed, radii, table


@dataclass(frozen=True, eq=False)
class Claims(abc.ABC):
    """A certifier's answer to a problem. `radius`: (N,) float64, 0 where the input's answer claims nothing."""

    problem: Problem
    radius: NDArray[np.float64]

    @abc.abstractmethod
    def slack(self, inputs: NDArray[np.int64], points: Tensor) -> Tensor:
        """(n, M): how far the claim about inputs[n] is from refuted at points[n, m]; negative suggests refuted.

        points: (n, M, *shape) float64. Differentiable.
        """

    @abc.abstractmethod
    def refutation(self, batch_index: int, point: NDArray[Any]) -> str | None:
        """Exact: the sentence that refutes the claim about one input at a point of its open ball, or None.

        `point` may hold floats or fractions; whether it lies in the ball and the domain has been checked.
        """

    @property
    def closeness(self) -> float:
        """Slack below which a point is worth an exact evaluation."""
        return 1e-9


def _forward(module: torch.nn.Module, points: Tensor) -> Tensor:
    n, m = points.shape[:2]
    return module(points.reshape(n * m, *points.shape[2:])).reshape(n, m, -1)


def mixed_log_probabilities(problem: Problem, points: Tensor) -> Tensor:
    """log((1-alpha) softmax(g) + alpha softmax(T h)) in float64, (n, M, K); stable in saturation."""
    robust = torch.log_softmax(problem.temperature * _forward(problem.robust64, points), -1)
    if problem.alpha == 1:
        return robust
    standard = torch.log_softmax(_forward(problem.standard64, points), -1)
    if problem.alpha == 0:
        return standard
    return torch.logaddexp(math.log1p(-problem.alpha) + standard, math.log(problem.alpha) + robust)


@dataclass(frozen=True, eq=False)
class ConstantClass(Claims):
    """Protocols "mix" and "robust": the strict argmax of the mix is on the whole open ball the one at x (Lemma 3.2)."""

    def _classes(self) -> Tensor:
        with torch.no_grad():
            return mixed_log_probabilities(self.problem, self.problem.centers64[:, None])[:, 0].argmax(-1)

    def slack(self, inputs: NDArray[np.int64], points: Tensor) -> Tensor:
        logs = mixed_log_probabilities(self.problem, points)
        y = self._classes()[inputs][:, None, None].expand(*logs.shape[:2], 1)
        return logs.gather(-1, y)[..., 0] - logs.scatter(-1, y, -math.inf).amax(-1)

    def refutation(self, batch_index: int, point: NDArray[Any]) -> str | None:
        text = None
        for y in self._possible_classes(batch_index):
            rival = self._rival(y, point)
            if rival is None:
                return None
            text = f"class {y} at the input, but class {rival} is at least as probable at the point"
        return text

    def _possible_classes(self, batch_index: int) -> list[int]:
        """The exact strict argmax at the input; every class where none is (then a tie at x refutes by itself)."""
        center = self.problem.inputs[batch_index]
        for y in range(self.problem.robust.classes):
            if self._rival(y, center) is None:
                return [y]
        return [int(self._classes()[batch_index])]

    def _rival(self, y: int, point: NDArray[Any]) -> int | None:
        """A class proven to be at least as probable as y at the point."""
        p = self.problem
        g, h = exact.logits(p.standard, point), exact.logits(p.robust, point)
        for i in range(len(h)):
            if i != y:
                sign = exact.mix_sign(g, h, p.alpha, p.temperature, y, i)
                if sign is not None and sign <= 0:
                    return i
        return None


@dataclass(frozen=True, eq=False)
class LogitTable(Claims):
    """Protocol "logits": lower <= z(x') <= upper on the ball. lower, upper: (N, K)."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def slack(self, inputs: NDArray[np.int64], points: Tensor) -> Tensor:
        z = _forward(self.problem.robust64, points)
        lower, upper = (torch.from_numpy(b[inputs])[:, None] for b in (self.lower, self.upper))
        gaps = torch.minimum(z - lower, upper - z) / (1 + z.detach().abs())
        return torch.nan_to_num(gaps, nan=math.inf).amin(-1)

    def refutation(self, batch_index: int, point: NDArray[Any]) -> str | None:
        for i, z in enumerate(exact.logits(self.problem.robust, point)):
            for bound, side in ((self.lower[batch_index, i], 1), (self.upper[batch_index, i], -1)):
                if math.isfinite(bound) and side * (z - Fraction(float(bound))) < 0:
                    ends = float(self.lower[batch_index, i]), float(self.upper[batch_index, i])
                    return f"logit {i} is {float(z)!r}, bounded by [{ends[0]!r}, {ends[1]!r}]"
        return None


@dataclass(frozen=True, eq=False)
class ProbabilityTable(Claims):
    """Protocol "probabilities": lower <= softmax(z(x')) <= upper on the ball. lower, upper: (N, K)."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def slack(self, inputs: NDArray[np.int64], points: Tensor) -> Tensor:
        q = torch.softmax(_forward(self.problem.robust64, points), -1)
        lower, upper = (torch.from_numpy(b[inputs])[:, None] for b in (self.lower, self.upper))
        return torch.nan_to_num(torch.minimum(q - lower, upper - q), nan=math.inf).amin(-1)

    @property
    def closeness(self) -> float:
        return 1e-6

    def refutation(self, batch_index: int, point: NDArray[Any]) -> str | None:
        z = exact.logits(self.problem.robust, point)
        for i in range(len(z)):
            for bound, side in ((float(self.lower[batch_index, i]), 1), (float(self.upper[batch_index, i]), -1)):
                if not math.isfinite(bound):
                    continue
                sign = exact.decide_sign(lambda i=i, b=bound: exact.softmax(z)[i] - flint.arb(b))
                if sign is not None and side * sign < 0:
                    value = float(exact.softmax(z)[i].mid())
                    ends = float(self.lower[batch_index, i]), float(self.upper[batch_index, i])
                    return f"probability {i} is {value!r}, bounded by [{ends[0]!r}, {ends[1]!r}]"
        return None


@dataclass(frozen=True, eq=False)
class LipschitzTable(Claims):
    """Protocol "lipschitz": |softmax_i(z(x')) - softmax_i(z(x))| <= L_i |x' - x| on the ball (anchored form)."""

    constants: NDArray[np.float64]

    def slack(self, inputs: NDArray[np.int64], points: Tensor) -> Tensor:
        centers = self.problem.centers64[inputs][:, None]
        p = exponent(self.problem.norm)
        gaps = torch.linalg.vector_norm((points - centers).flatten(2), p, -1)[..., None]
        q = torch.softmax(_forward(self.problem.robust64, points), -1)
        q0 = torch.softmax(_forward(self.problem.robust64, centers), -1)
        constants = torch.from_numpy(self.constants[inputs])[:, None]
        return torch.nan_to_num((constants * gaps - (q - q0).abs()) / (gaps + 1e-300), nan=math.inf).amin(-1)

    def refutation(self, batch_index: int, point: NDArray[Any]) -> str | None:
        p = self.problem
        z, z0 = exact.logits(p.robust, point), exact.logits(p.robust, p.inputs[batch_index])
        for i in range(len(z)):
            constant = float(self.constants[batch_index, i])
            if not math.isfinite(constant):
                continue

            def gap(i: int = i, constant: float = constant) -> flint.arb:
                moved = abs(exact.softmax(z)[i] - exact.softmax(z0)[i])
                return flint.arb(constant) * exact.distance(p.inputs[batch_index], point, p.norm) - moved

            if exact.decide_sign(gap) == -1:
                return f"probability {i} changes faster than its constant {constant!r} between the input and the point"
        return None


def ask(certifier: Certifier, problem: Problem) -> Claims:
    """Call the certifier on the problem and read its answer as claims.

    It is handed float32 modules of the plain networks. Raises ProtocolError where the answer has the wrong form;
    NotImplementedError (no claim) passes through, as does whatever else the certifier raises.
    """
    from verifiers.network.module import PlainModule

    standard, robust = PlainModule(problem.standard), PlainModule(problem.robust)
    x = torch.from_numpy(problem.inputs.copy())
    keywords = _keywords(certifier, problem)
    shape = (len(problem.inputs), problem.robust.classes)
    slack = certifier.tolerance
    if certifier.protocol == "mix":
        return _constant_class(problem, slack, certifier.function(standard, robust, x, problem.alpha, **keywords))
    if certifier.protocol == "robust":
        return _constant_class(problem, slack, certifier.function(robust, x, **keywords))
    answer = certifier.function(robust, x, problem.radius, **{k: v for k, v in keywords.items() if k != "radius"})
    ball = np.full(shape[0], problem.radius)
    if certifier.protocol == "lipschitz":
        return LipschitzTable(problem, ball, table(answer, shape) * (1 + slack) + slack)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise ProtocolError(f"the certifier must return a pair (lower, upper), got {type(answer).__name__}")
    kind = LogitTable if certifier.protocol == "logits" else ProbabilityTable
    low, high = table(answer[0], shape), table(answer[1], shape)
    if slack and kind is LogitTable:
        low, high = low - slack * (1 + np.abs(low)), high + slack * (1 + np.abs(high))
    return kind(problem, ball, low, high) if kind is LogitTable else kind(problem, ball, low - slack, high + slack)


def _constant_class(problem: Problem, slack: float, answer: object) -> ConstantClass:
    answered_radii = radii(answer, len(problem.inputs))
    return ConstantClass(
        problem, np.array([r * (1 - slack) if r is not None and claimed(r) else 0.0 for r in answered_radii])
    )


def _keywords(certifier: Certifier, problem: Problem) -> dict[str, Any]:
    """The optional keywords this certifier takes, with the problem's values; `radius` only where it has no default."""
    values = {"norm": problem.norm, "temperature": problem.temperature, "domain": problem.domain}
    chosen = {name: value for name, value in values.items() if certifier.takes(name)}
    return {**chosen, "radius": problem.radius} if "radius" in certifier.demands else chosen
