"""The native CROWN engine: backward bounds on the plain network with slopes tuned for the judge's own formula.

It computes what proofs_check/kernel/bounds.py computes, in float32 or float64 and for a batch of inputs at once, so the
judge, given the slopes, finds the same bounds up to rounding: the recipe is FORMAT.md 11. Source: Zhang et al. 2018; Xu
et al. 2021 (slopes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from proofs_check import witness
from proofs_check.certificate import PlainNetwork
from verifiers.crown.backward import IntermediateBounds, functional_upper
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.network import CrownNetwork, prepare
from verifiers.crown.slopes import Tuning, tune_forms, tune_shared
from verifiers.engine import Bounds, Capabilities, Engine, EngineError, Interval, Query, WarmStart, rows_that_count

MALLOC_THRESHOLD_BYTES = 31 * 2**20  # glibc returns freed blocks to the system unless one as large was freed before


@dataclass(frozen=True, eq=False)
class CrownLayers:
    """Bounds of every layer, with the slopes shared by all rows (engine.Layers)."""

    bounds: IntermediateBounds

    def pick(self, index: Tensor) -> CrownLayers:
        return CrownLayers(self.bounds.pick(index.to(self.bounds.net.device)))

    def constraints(self) -> dict[int, Interval]:
        """Of what backward passes tightened; interval arithmetic is done again at no cost."""
        net = self.bounds.net
        return {k: self.bounds.values[k] for k in net.preactivations if k not in net.affine}

    def witness(self, box: Tensor | None, exponential: Tensor | None) -> tuple[bytes | None, ...]:
        """Slopes that no bound depends on, of stable neurons, are sent as zeros: they compress to nothing."""
        shared = self.bounds.slopes[:, None]
        rows = [shared]
        if box is not None or exponential is not None:
            rows.append(shared.expand(-1, self.bounds.net.network.classes, -1) if box is None else box)
        if exponential is not None:
            rows.append(exponential)
        stacked = torch.cat(rows, 1) * self._unstable_neurons()[:, None]
        data = (stacked * witness.LEVELS).round().to(torch.uint8).cpu().numpy()
        return tuple(witness.encode(w) if w.size else None for w in data)

    def _unstable_neurons(self) -> Tensor:
        """(N, n) 1 where a ReLU-like neuron may be unstable to the judge, whose bounds differ by rounding."""
        net, values = self.bounds.net, self.bounds.values
        parts: list[Tensor] = []
        for k in net.slope_ranges:
            lower, upper = values[net.parents(k)[0]]
            slack = 1e-4 * (upper - lower)
            parts.append(((lower < slack) & (upper > -slack)).to(net.dtype).flatten(1))
        return torch.cat(parts, 1) if parts else self.bounds.slopes


@dataclass(frozen=True)
class Crown(Engine):
    """shared_steps: tuning steps of the passes before the last (far dearer). precision: "float32" or "float64"."""

    capabilities: ClassVar[Capabilities] = Capabilities(witness=True, warm_start=True, second_form=True)

    shared_steps: int = 0
    precision: Literal["float32", "float64"] = "float32"

    def prepare(self, network: PlainNetwork) -> CrownNetwork:
        """See Engine.prepare."""
        torch.empty(MALLOC_THRESHOLD_BYTES, dtype=torch.uint8)  # allocated and freed
        try:
            return prepare(network, getattr(torch, self.precision), torch.device(self.device))
        except RuntimeError as error:
            raise EngineError(f"device {self.device!r} cannot be used: {error}") from error

    def bound(self, state: CrownNetwork, query: Query, warm_start: WarmStart | None = None) -> tuple[Bounds, WarmStart]:
        """See Engine.bound. Ensures: no upper bound is above that of the slopes it started from."""
        steps = self.steps if query.steps is None else query.steps
        options = _tensor_options(state)
        with torch.no_grad():
            index = rows_that_count(query.rows).to(state.device)
            forms = query.rows.to(**options).gather(1, index[:, :, None].expand(-1, -1, query.rows.shape[2]))
            layers = _kept(warm_start) or self.layers(state, query)
            start = None if warm_start is None else _start(warm_start.slopes, layers, index)
            goal = None if query.goal is None else query.goal.to(**options).gather(1, index)
            low = None if query.upper_only else -functional_upper(layers, -forms, None)
            slopes = None
            if state.slopes and (steps or start is not None):
                high, slopes = tune_forms(layers, forms, start, goal, Tuning(steps))
            else:
                high = functional_upper(layers, forms, None)
        return _answer(query.rows, index, layers, low, high, slopes)

    def layers(self, state: CrownNetwork, query: Query) -> IntermediateBounds:
        """The first stage of `bound`: bounds of every layer, with the slopes that all rows share."""
        with torch.no_grad():
            around = query.balls.boxed(state.dtype, state.device)
            if not self.shared_steps or query.constraints.values:
                return value_bounds(state, around, None, query.constraints)
            return tune_shared(state, around, query.rows.to(state.device, state.dtype), None, Tuning(self.shared_steps))


def _kept(warm_start: WarmStart | None) -> IntermediateBounds | None:
    """The layers' bounds of an earlier answer of this engine on the same balls."""
    if warm_start is None or warm_start.layers is None:
        return None
    if not isinstance(warm_start.layers, CrownLayers):
        raise TypeError(f"layers of another engine: {type(warm_start.layers).__name__}")
    return warm_start.layers.bounds


def _start(slopes: tuple[Tensor | None, ...], layers: IntermediateBounds, index: Tensor) -> Tensor | None:
    """(N, R', n) slopes to start from, the shared ones where none are known; None if none are at all. What an input
    starts from never depends on the others."""
    template = next((one for one in slopes if one is not None), None)
    if template is None:
        return None
    shared = layers.slopes
    starts = torch.stack([shared[k].expand(len(template), -1) if one is None else one for k, one in enumerate(slopes)])
    return starts.gather(1, index[:, :, None].expand(-1, -1, starts.shape[2]))


def _answer(
    rows: Tensor, index: Tensor, layers: IntermediateBounds, low: Tensor | None, high: Tensor, slopes: Tensor | None
) -> tuple[Bounds, WarmStart]:
    """Bounds and slopes of all rows, from those of the rows `index`; the others are 0."""
    zeros, where = torch.zeros(rows.shape[:2], dtype=torch.float64), index.cpu()
    lower = zeros - torch.inf if low is None else zeros.scatter(1, where, low.double().cpu())
    kept: tuple[Tensor | None, ...] = (None,) * len(rows)
    if slopes is not None:
        size = slopes.shape[2]
        zero_slopes = slopes.new_zeros(*rows.shape[:2], size)
        kept = zero_slopes.scatter(1, index[:, :, None].expand(-1, -1, size), slopes).unbind()
    return Bounds(lower, zeros.scatter(1, where, high.double().cpu())), WarmStart(CrownLayers(layers), kept)


def _tensor_options(network: CrownNetwork) -> dict[str, Any]:
    return {"dtype": network.dtype, "device": network.device}
