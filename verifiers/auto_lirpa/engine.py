"""Bounds of linear functions of logits by auto_LiRPA: IBP, CROWN and alpha-CROWN.

Serves 0.3 (PyPI, repaired by `auto_lirpa_compat`) and upstream >= 0.7 alike. auto_LiRPA is asked for linear
functions of logits only: its softmax relaxations are unsound in extreme ranges (docs/maths.md 3). What it does badly or
not at all is done by `interval`: interval bounds with a radius per input, first layers in l2 and l1.
Source: Xu et al., "Automatic perturbation analysis for scalable certified robustness and beyond" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from proofs_check.certificate import PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.converted import Converted, LirpaLayers
from verifiers.engine import Bounds, Capabilities, Engine, EngineError, Query, WarmStart

Method = Literal["IBP", "CROWN"]
METHODS: tuple[Method, ...] = ("IBP", "CROWN")


@dataclass(frozen=True)
class AutoLirpa(Engine):
    """Per bound, the best of `methods`, each started from the interval bounds; with `steps`, after CROWN as many
    iterations of alpha-CROWN's optimiser on the last pass.

    batch_size: most inputs bounded at once (halved by itself where memory runs out); None: 4 on a CPU, where larger
    batches are slower (CROWN visits a neuron that is unstable for any input of the batch), else 64. precision: the
    arithmetic; whichever it is, rounding is not accounted for.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(warm_start=True, second_form=True)
    batch: ClassVar[int] = 256

    methods: tuple[Method, ...] = METHODS
    batch_size: int | None = None
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"methods must be some of {METHODS}, got {self.methods}")
        if (self.batch_size is not None and self.batch_size < 1) or self.steps < 0:
            raise ValueError(f"batch_size must be >= 1 and steps >= 0, got {self.batch_size}, {self.steps}")
        if self.steps and "CROWN" not in self.methods:
            raise ValueError(f"steps tune CROWN's slopes, got steps={self.steps} and methods={self.methods}")

    @classmethod
    def require_installed(cls) -> None:
        """See Engine.require_installed."""
        compat.load()

    def prepare(self, network: PlainNetwork) -> Converted:
        """See Engine.prepare."""
        try:
            return Converted(network, getattr(torch, self.precision), torch.device(self.device))
        except RuntimeError as error:
            raise EngineError(f"device {self.device!r} cannot be used: {error}") from error

    def bound(self, state: Converted, query: Query, warm_start: WarmStart | None = None) -> tuple[Bounds, WarmStart]:
        """See Engine.bound."""
        parts: list[tuple[Bounds, WarmStart]] = []
        start, size, count = 0, self._batch(state.device), len(query.balls)
        steps = None if "CROWN" not in self.methods else self.steps if query.steps is None else query.steps
        while start < count or not parts:
            index = torch.arange(start, min(start + size, count))
            try:
                parts.append(state.bound(query.pick(index), _picked(warm_start, index), steps))
                start += size
            except (MemoryError, torch.OutOfMemoryError) as error:
                if size == 1:
                    raise EngineError(f"out of memory on a single input: {error}") from error
                size = (size + 1) // 2
        return _joined(parts)

    def _batch(self, device: torch.device) -> int:
        if self.batch_size is not None:
            return self.batch_size
        if self.methods == ("IBP",):
            return 256
        return 4 if device.type == "cpu" else 64


def _picked(warm_start: WarmStart | None, index: Tensor) -> WarmStart | None:
    if warm_start is None:
        return None
    layers = None if warm_start.layers is None else warm_start.layers.pick(index)
    return WarmStart(layers, tuple(warm_start.slopes[k] for k in index.tolist()))


def _joined(parts: list[tuple[Bounds, WarmStart]]) -> tuple[Bounds, WarmStart]:
    lower, upper = (torch.cat([getattr(bounds, name) for bounds, _ in parts]) for name in ("lower", "upper"))
    layers = [warm_start.layers.constraints() for _, warm_start in parts if warm_start.layers is not None]
    values = {
        k: (torch.cat([one[k][0] for one in layers]), torch.cat([one[k][1] for one in layers])) for k in layers[0]
    }
    slopes = tuple(one for _, warm_start in parts for one in warm_start.slopes)
    return Bounds(lower, upper), WarmStart(LirpaLayers(len(lower), values), slopes)
