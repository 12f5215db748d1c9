"""Linear forms on several nodes at once, on their way down to the input. Part of the native CROWN engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from verifiers.crown.network import CrownNetwork
from verifiers.linear_forms.forms import DenseForms, LinearForms, PatchForms, Shape, Summand, add
from verifiers.linear_forms.patches import Patches


class Frontier:
    """Forms on several nodes, whose sum a backward pass bounds: at most one summand per node."""

    def __init__(self, forms: Mapping[int, Summand]) -> None:
        self._forms = dict(forms)

    def __len__(self) -> int:
        return len(self._forms)

    @property
    def nodes(self) -> set[int]:
        return set(self._forms)

    @property
    def last(self) -> int:
        """The last node with forms: nothing above it is to come."""
        return max(self._forms)

    def add(self, nodes: tuple[int, ...], forms: tuple[Summand, ...]) -> None:
        """Add forms on each of `nodes`, which may repeat."""
        for k, summand in zip(nodes, forms, strict=True):
            self._forms[k] = add(self._forms[k], summand) if k in self._forms else summand

    def pop(self, k: int) -> LinearForms:
        """The forms on node k, which leave the frontier."""
        return self._forms.pop(k).complete()

    def items(self) -> Iterator[tuple[int, LinearForms]]:
        """(node, forms), which stay."""
        for k, summand in self._forms.items():
            forms = self._forms[k] = summand.complete()
            yield k, forms


def unit_forms(net: CrownNetwork, k: int, index: Tensor) -> dict[int, tuple[LinearForms, Tensor]]:
    """The neurons `index` (R,) of node k as forms (and constants) on earlier nodes: {node: (forms, constant)}.

    Each entry is one summand. Layers whose neurons are their weights hand these out, with no multiplication.
    """
    layer, parents = net.layers[k], net.parents(k)
    if layer.adds:
        total: dict[int, tuple[LinearForms, Tensor]] = {}
        for parent in parents:
            for i, (forms, constant) in unit_forms(net, parent, index).items():
                before = total.get(i)
                total[i] = (
                    (forms, constant) if before is None else (add(before[0], forms).complete(), before[1] + constant)
                )
        return total
    summand = layer.unit_forms(index)
    if summand is not None:
        return {parents[0]: summand}
    return {k: (_one_hot(layer.shape, index, net), torch.zeros(len(index), dtype=net.dtype, device=net.device))}


def _one_hot(shape: Shape, index: Tensor, net: CrownNetwork) -> LinearForms:
    """Form r picks neuron index[r] of a value of this shape."""
    if len(shape) != 3:
        return DenseForms(F.one_hot(index, shape[0]).to(net.dtype))
    area = shape[1] * shape[2]
    channels = F.one_hot(index // area, shape[0]).to(net.dtype)[:, :, None, None]
    return PatchForms(channels, Patches(index % area, (shape[1], shape[2]), (1, 1), (0, 0)), shape)
