"""The native CROWN engine: backward bounds on the plain network with slopes tuned for the judge's own formula.

It computes what proofs_check/kernel/bounds.py computes, in float32 or float64 and for a batch of inputs at once, so the
judge, given the slopes, finds the same bounds up to rounding: the recipe is FORMAT.md 11. Source: Zhang et al. 2018; Xu
et al. 2021 (slopes).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from proofs_check.certificate import PlainNetwork
from verifiers.crown.backward import IntermediateBounds, ball, functional_upper
from verifiers.crown.intermediate import NO_BOUNDS, ReusableBounds, value_bounds
from verifiers.crown.network import CrownNetwork, prepare
from verifiers.crown.slopes import LEVELS, Tuning, tune_forms, tune_shared
from verifiers.engine import Engine, EngineError, LogitBounds, MarginQuery

MALLOC_THRESHOLD_BYTES = 31 * 2**20  # glibc returns freed blocks to the system unless one as large was freed before


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the engine knows of one query; can bound further functionals of the logits on the same balls.

    intermediate_bounds: of every layer, shared slopes. lower, upper: (N, K) float64 bounds of d_j = z_j - z_y. slopes:
    (N, K, n), those of the last pass of class j (row y unused), or None: the shared ones.
    """

    intermediate_bounds: IntermediateBounds
    predicted: Tensor
    lower: Tensor
    upper: Tensor
    slopes: Tensor | None

    def upper_bound(
        self, inputs: Tensor, coefficients: Tensor, goal: Tensor | None, start: Tensor | None, tuning: Tuning | None
    ) -> tuple[Tensor, Tensor]:
        """Upper bounds (R,) float64 of coefficients (R, K) . logits on the balls `inputs` (R,), and slopes (R, n).

        goal: (R,) bounds below it are good enough. start: slopes (R, n) to start from, or None: the shared ones.
        """
        picked = self.intermediate_bounds.pick(inputs)
        dtype = picked.net.dtype
        start = None if start is None else start[:, None]
        goal = None if goal is None else goal.to(dtype)[:, None]
        upper, slopes = tune_forms(picked, coefficients.to(dtype)[:, None], start, goal, tuning or Tuning(0))
        return upper[:, 0].double(), slopes[:, 0]

    def pick(self, index: Tensor) -> Analysis:
        """The inputs `index`."""
        slopes = None if self.slopes is None else self.slopes[index]
        return Analysis(
            self.intermediate_bounds.pick(index), self.predicted[index], self.lower[index], self.upper[index], slopes
        )

    def witness(self, exponential_slopes: Tensor | None = None) -> tuple[bytes | None, ...]:
        """Per input what the judge re-derives bounds from (FORMAT.md, network_margin).

        exponential_slopes: (N, K, n), those of the exponential form.

        Slopes that no bound depends on, of stable neurons, are sent as zeros: they compress to nothing.
        """
        shared = self.intermediate_bounds.slopes[:, None]
        rows = [shared]
        if self.slopes is not None or exponential_slopes is not None:
            rows.append(shared.expand(-1, self.lower.shape[1], -1) if self.slopes is None else self.slopes)
        if exponential_slopes is not None:
            rows.append(exponential_slopes)
        stacked = torch.cat(rows, 1) * self._unstable_neurons()[:, None]
        data = (stacked * LEVELS).round().to(torch.uint8).cpu().numpy()
        return tuple(zlib.compress(w.tobytes(), 6) if w.size else None for w in data)

    def _unstable_neurons(self) -> Tensor:
        """(N, n) 1 where a ReLU-like neuron may be unstable to the judge, whose bounds differ by rounding."""
        net, values = self.intermediate_bounds.net, self.intermediate_bounds.values
        parts: list[Tensor] = []
        for k in net.slope_ranges:
            lower, upper = values[net.parents(k)[0]]
            slack = 1e-4 * (upper - lower)
            parts.append(((lower < slack) & (upper > -slack)).to(net.dtype).flatten(1))
        return torch.cat(parts, 1) if parts else self.intermediate_bounds.slopes


@dataclass(frozen=True)
class Crown(Engine):
    """steps: tuning steps of the last pass, per rival; shared_steps: of the passes before it (far dearer).

    precision: "float32" or "float64". batch: inputs analysed at once.
    """

    steps: int = 0
    shared_steps: int = 0
    precision: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    batch: int = 32

    def bounds(self, query: MarginQuery) -> LogitBounds:
        """See Engine.bounds."""
        if not len(query.inputs):
            empty = torch.zeros(0, query.network.classes, dtype=torch.float64)
            return LogitBounds(empty, empty, ())
        network = self.prepare(query.network)
        parts = [self.analyse(part, network) for part in split(query, self.batch)]
        lower, upper = (torch.cat([getattr(p, name) for p in parts]) for name in ("lower", "upper"))
        return LogitBounds(lower, upper, tuple(w for p in parts for w in p.witness()))

    def prepare(self, network: PlainNetwork) -> CrownNetwork:
        """The network's weights where and as this engine computes; reusable for many queries."""
        torch.empty(MALLOC_THRESHOLD_BYTES, dtype=torch.uint8)  # allocated and freed
        try:
            return prepare(network, getattr(torch, self.precision), torch.device(self.device))
        except RuntimeError as error:
            raise EngineError(f"device {self.device!r} cannot be used: {error}") from error

    def analyse(self, query: MarginQuery, network: CrownNetwork, start: Tensor | None = None) -> Analysis:
        """Everything `bounds` finds, kept for further questions. start: slopes (N, K, n) of an earlier analysis of the
        same inputs, to be tuned further: at another radius most of them are good already."""
        return self.last_pass(self.layers(query, network), query.predicted, start, self.steps)

    def layers(
        self, query: MarginQuery, network: CrownNetwork, reusable: ReusableBounds = NO_BOUNDS
    ) -> IntermediateBounds:
        """Bounds of every layer, with shared slopes. reusable: of larger balls around the same inputs."""
        with torch.no_grad():
            options = _tensor_options(network)
            around = ball(query.inputs.to(**options), query.radius.to(**options), query.norm, query.domain)
            if not self.shared_steps or reusable.values:
                return value_bounds(network, around, None, reusable)
            forms = _differences(query.predicted.to(network.device), network)[1]
            return tune_shared(network, around, forms, None, Tuning(self.shared_steps))

    def last_pass(
        self, intermediate_bounds: IntermediateBounds, predicted: Tensor, start: Tensor | None, steps: int
    ) -> Analysis:
        """Bounds of d_j, given those of the layers. start: slopes (N, K, n) to begin with, tuned in `steps` steps."""
        network, predicted = intermediate_bounds.net, predicted.to(intermediate_bounds.net.device)
        rivals, forms = _differences(predicted, network)
        shape = len(forms), network.network.classes
        with torch.no_grad():
            low = -functional_upper(intermediate_bounds, -forms, None)
            slopes = None
            if network.slopes and (steps or start is not None):
                pick = rivals[:, :, None].expand(-1, -1, network.slopes)
                begin = None if start is None else start.gather(1, pick)
                high, tuned = tune_forms(intermediate_bounds, forms, begin, None, Tuning(steps))
                slopes = torch.zeros(*shape, network.slopes, **_tensor_options(network)).scatter(1, pick, tuned)
            else:
                high = functional_upper(intermediate_bounds, forms, None)
        zeros = torch.zeros(shape, dtype=torch.float64, device=network.device)
        return Analysis(
            intermediate_bounds,
            predicted,
            zeros.scatter(1, rivals, low.double()),
            zeros.scatter(1, rivals, high.double()),
            slopes,
        )


def _differences(predicted: Tensor, network: CrownNetwork) -> tuple[Tensor, Tensor]:
    """Rivals (N, K - 1) of each input's class, and the functionals d_j of the logits (N, K - 1, K)."""
    rivals = rivals_of(predicted, network.network.classes)
    eye = torch.eye(network.network.classes, dtype=network.dtype, device=network.device)
    return rivals, eye[rivals] - eye[predicted][:, None]


def _tensor_options(network: CrownNetwork) -> dict[str, Any]:
    return {"dtype": network.dtype, "device": network.device}


def rivals_of(predicted: Tensor, classes: int) -> Tensor:
    """(N, K - 1): the classes other than each input's own, ascending."""
    j = torch.arange(classes - 1, device=predicted.device)
    return j + (j >= predicted[:, None]).long()


def split(query: MarginQuery, size: int) -> Iterator[MarginQuery]:
    """The query in batches of at most `size` inputs."""
    for i in range(0, len(query.inputs), size):
        part = slice(i, i + size)
        yield dataclasses.replace(
            query, inputs=query.inputs[part], radius=query.radius[part], predicted=query.predicted[part]
        )
