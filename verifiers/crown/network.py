"""A plain network as layers, and what the engine needs to know of how they hang together. Part of the native CROWN
engine."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from proofs_check import certificate as c
from proofs_check.witness import slope_starts
from verifiers.layers import layer
from verifiers.layers.layer import AnyLayer, Interval, tensors

__all__ = ["CrownNetwork", "Interval", "prepare"]


@dataclasses.dataclass(frozen=True, eq=False)
class CrownNetwork:
    """The layers of a network, their weights in one dtype on one device.

    slope_ranges: of each node that takes slopes, the range of its neurons in a row of the witness (node order).
    affine: nodes that are affine functions of the input. dual_norms: of their gradients, once computed.
    footprints: of forms on a node (neurons.py), once computed.
    """

    network: c.PlainNetwork
    dtype: torch.dtype
    device: torch.device
    layers: tuple[AnyLayer, ...]
    slope_ranges: dict[int, tuple[int, int]]
    affine: frozenset[int]
    dual_norms: dict[tuple[int, c.Norm], Tensor] = dataclasses.field(init=False, default_factory=lambda: {})
    footprints: dict[int, tuple[int, bool]] = dataclasses.field(init=False, default_factory=lambda: {})

    @property
    def slopes(self) -> int:
        """Number of slopes in one row of the witness."""
        return max((stop for _, stop in self.slope_ranges.values()), default=0)

    def parents(self, k: int) -> tuple[int, ...]:
        return getattr(self.network.nodes[k], "inputs", ())

    def users(self, k: int) -> list[AnyLayer]:
        """The layers that read node k."""
        return [user for i, user in enumerate(self.layers) if k in self.parents(i)]

    @functools.cached_property
    def preactivations(self) -> tuple[int, ...]:
        """Affine nodes that feed a nonlinearity, in order: those whose bounds backward passes tighten."""
        fed = {i for k, above in enumerate(self.layers) if not above.affine for i in self.parents(k)}
        return tuple(sorted(i for i in fed if self.layers[i].affine))

    @functools.cached_property
    def roots(self) -> frozenset[int]:
        """The input, and what only scales and shifts its elements, and puts them in another order."""
        roots = {0}
        for k, above in enumerate(self.layers):
            if (above.gain() is not None or above.permutes) and self.parents(k)[0] in roots:
                roots.add(k)
        return frozenset(roots)

    def root_scale(self, k: int) -> Tensor:
        """(1, *shape): by what node k of `roots` multiplies each element of the input."""
        if k == 0:
            return torch.ones(1, *self.network.shapes[0], dtype=self.dtype, device=self.device)
        scale, gain = self.root_scale(self.parents(k)[0]), self.layers[k].gain()
        return self.layers[k].value(scale) if gain is None else scale * gain


def prepare(network: c.PlainNetwork, dtype: torch.dtype, device: torch.device) -> CrownNetwork:
    """The layers of `network` with weights in this dtype on this device."""
    layers: list[AnyLayer] = []
    for k, node in enumerate(network.nodes):
        layers.append(layer(network, k, tensors(node, dtype, device)))
    starts = slope_starts(network)
    ranges = {k: (starts[k], starts[k + 1]) for k, above in enumerate(layers) if above.slope_range is not None}
    affine = {0}
    for k, prepared in enumerate(layers):
        if k and prepared.affine and all(i in affine for i in getattr(network.nodes[k], "inputs", ())):
            affine.add(k)
    return CrownNetwork(network, dtype, device, tuple(layers), ranges, frozenset(affine))
