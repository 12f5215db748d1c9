"""What a search for the largest radius keeps of the radii it has tried, input by input.

Slopes are good at other radii, too. Bounds of the layers hold for every smaller ball around the same input: where a
larger radius failed they answer for a smaller one at no cost, and neurons whose sign they settle need no backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from certmix.provers.margin.exponential_head import Head
from verifiers.engine import NOTHING_KNOWN, Answer, Constraints, Interval, Layers


@dataclass(frozen=True, eq=False)
class InputSlopes:
    """Lower slopes (K, n) of one input's last passes, per class: those of the box and those of the exponential form."""

    box: Tensor
    exponential: Tensor


@dataclass(frozen=True, eq=False)
class InputLayers:
    """Bounds of one input's layers at a radius, by node."""

    radius: float
    values: dict[int, Interval]


@dataclass(eq=False)
class RadiusMemory:
    """By index in the batch. latest: slopes last used. certified: those that certified the largest radius so far.
    failed: layers at the smallest radius that failed."""

    latest: dict[int, InputSlopes] = field(default_factory=dict)
    certified: dict[int, InputSlopes] = field(default_factory=dict)
    failed: dict[int, InputLayers] = field(default_factory=dict)

    def slopes(self, inputs: Tensor, certified: bool) -> list[InputSlopes | None]:
        """Those of each of `inputs` (M,) to start from: those that `certified` first."""
        first = self.certified if certified else self.latest
        return [first.get(batch_index) or self.latest.get(batch_index) for batch_index in inputs.tolist()]

    def failed_above(self, inputs: Tensor, radii: Tensor) -> Tensor:
        """(M,) bool: a larger radius failed."""
        return self._smallest_failed(inputs) > radii

    def failed_at(self, inputs: Tensor, radii: Tensor) -> Tensor:
        """(M,) bool: this very radius failed."""
        return self._smallest_failed(inputs) == radii

    def _smallest_failed(self, inputs: Tensor) -> Tensor:
        """(M,) the smallest radii that failed, 0 where none did."""
        layers = (self.failed.get(batch_index) for batch_index in inputs.tolist())
        return torch.tensor([0.0 if one is None else one.radius for one in layers], dtype=torch.float64)

    def constraints(self, inputs: Tensor, radii: Tensor, final: bool) -> Constraints:
        """What is known of the layers at these radii, from larger ones; infinite ends where nothing is."""
        smallest = self._smallest_failed(inputs)
        usable = (smallest >= radii) & (smallest > 0)
        remembered = [self.failed[batch_index] for batch_index in inputs[usable].tolist()]
        if not remembered:
            return NOTHING_KNOWN
        values: dict[int, Interval] = {}
        for node in remembered[0].values:
            ends: list[Tensor] = []
            for end, nothing in ((0, -torch.inf), (1, torch.inf)):
                bounds = torch.stack([one.values[node][end] for one in remembered])
                ends.append(bounds.new_full((len(inputs), *bounds.shape[1:]), nothing))
                ends[-1][usable.to(bounds.device)] = bounds
            values[node] = ends[0], ends[1]
        return Constraints(values, final)

    def keep_layers(self, inputs: Tensor, radii: Tensor, layers: Layers | None, failed: Tensor) -> None:
        """Remember the layers of the inputs that `failed` (M,) bool at these radii."""
        if layers is None or not bool(failed.any()):
            return
        values = layers.constraints()
        for k, batch_index in enumerate(inputs.tolist()):
            if bool(failed[k]):
                of_input = {node: (lower[k], upper[k]) for node, (lower, upper) in values.items()}
                self.failed[batch_index] = InputLayers(float(radii[k]), of_input)

    def keep_slopes(self, inputs: Tensor, answer: Answer, head: Head | None, wanted: Tensor, certified: Tensor) -> None:
        """Remember the slopes of the inputs `wanted` (M,) bool, and whether they `certified` the radius (M,) bool."""
        slopes = (None,) * len(inputs) if answer.left is None else answer.left.slopes
        exponential = None if head is None else head.slopes
        for k, (batch_index, box) in enumerate(zip(inputs.tolist(), slopes, strict=True)):
            if box is not None and bool(wanted[k]):
                self.latest[batch_index] = InputSlopes(
                    box, box if exponential is None else exponential.of_input(k, box)
                )
                if bool(certified[k]):
                    self.certified[batch_index] = self.latest[batch_index]
