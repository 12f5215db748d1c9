"""Backward bounds of single neurons of a layer, in chunks of a bounded size. Part of the native CROWN engine.

Of a ReLU's input only an unstable sign calls for bounds. So the end nearer to zero is bounded first, and the other only
if that leaves the neuron unstable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verifiers.crown.backward import IntermediateBounds, backward
from verifiers.crown.frontier import Frontier, unit_forms
from verifiers.crown.network import CrownNetwork, Interval
from verifiers.linear_forms.forms import FormToInput, PatchForms, Summand
from verifiers.linear_forms.relaxation import Relaxation

CACHE_COEFFICIENTS = 2**20  # coefficients of one layer propagated at once: a processor's cache
MIN_CHUNK_SHARE = 0.25  # of a chunk, that the forms of one input must fill to be handled alone


@dataclass(frozen=True, eq=False)
class NeuronEnds:
    """Ends of neurons of node k: sign[r] times neuron index[r] on ball batch_index[r] (ascending), (R,) each."""

    k: int
    batch_index: Tensor
    index: Tensor
    sign: Tensor

    def pick(self, ends: Tensor | slice) -> NeuronEnds:
        """Those at `ends`."""
        return NeuronEnds(self.k, self.batch_index[ends], self.index[ends], self.sign[ends])

    def other(self) -> NeuronEnds:
        """The other ends of the same neurons."""
        return NeuronEnds(self.k, self.batch_index, self.index, -self.sign)

    def tighten(self, bounds: Interval, upper_bounds: Tensor) -> Interval:
        """`bounds` of node k, (N, *shape) each, cut to `upper_bounds` (R,)."""
        lower, upper = bounds
        flat = self.batch_index * lower[0].numel() + self.index
        above, below = (torch.full_like(lower.flatten(), torch.inf) for _ in range(2))
        above = above.scatter(0, flat[self.sign > 0], upper_bounds[self.sign > 0]).view(lower.shape)
        below = below.scatter(0, flat[self.sign < 0], upper_bounds[self.sign < 0]).view(lower.shape)
        return torch.maximum(lower, -below), torch.minimum(upper, above)


def tightened(
    intermediate_bounds: IntermediateBounds, k: int, bounds: Interval, wanted: Tensor, signs: bool
) -> Interval:
    """`bounds` of node k, made tighter by backward passes for the neurons `wanted`, (N, *shape) each.

    signs: only the sign of a neuron counts, until it proves to be unstable.
    """
    batch_index, index = wanted.flatten(1).nonzero(as_tuple=True)
    if not len(batch_index):
        return bounds
    relaxations = intermediate_bounds.relaxations(intermediate_bounds.slopes)
    nearer = torch.where(bounds[1] < -bounds[0], 1, -1).flatten(1)[batch_index, index]  # the judge's own rule
    first = NeuronEnds(k, batch_index, index, nearer)
    upper_bounds = _upper(intermediate_bounds, relaxations, first)
    bounds = first.tighten(bounds, upper_bounds)
    farther = first.pick(upper_bounds > 0).other() if signs else first.other()
    if not len(farther.batch_index):
        return bounds
    return farther.tighten(bounds, _upper(intermediate_bounds, relaxations, farther))


def _upper(intermediate_bounds: IntermediateBounds, relaxations: dict[int, Relaxation], ends: NeuronEnds) -> Tensor:
    """Upper bounds (R,)."""
    upper_bounds: list[Tensor] = []
    for group in _by_input(intermediate_bounds.net, ends):
        present = slice(int(group.batch_index[0]), int(group.batch_index[-1]) + 1)
        picked = intermediate_bounds.pick(present)
        picked_relaxations = {i: relaxation.pick(present) for i, relaxation in relaxations.items()}
        chunks = _chunks(intermediate_bounds.net, group)
        upper_bounds += [_backward(picked, picked_relaxations, chunk, present) for chunk in chunks]
    return torch.cat(upper_bounds)


def _by_input(net: CrownNetwork, ends: NeuronEnds) -> Iterator[NeuronEnds]:
    """Those of one input each, where that alone fills a chunk. Patches are looked up form by form anyway: there the
    forms of several inputs stay together.
    """
    widest, patches = footprint(net, ends.k)
    counts = torch.unique_consecutive(ends.batch_index, return_counts=True)[1].tolist()
    small = len(ends.batch_index) <= chunk_size(widest) * MIN_CHUNK_SHARE * len(counts)
    if net.device.type != "cpu" or patches or small:
        counts = [len(ends.batch_index)]
    start = 0
    for count in counts:
        yield ends.pick(slice(start, start + count))
        start += count


def _chunks(net: CrownNetwork, ends: NeuronEnds) -> Iterator[NeuronEnds]:
    size = chunk_size(footprint(net, ends.k)[0])
    return (ends.pick(slice(i, i + size)) for i in range(0, len(ends.batch_index), size))


def chunk_size(widest: int) -> int:
    """Forms of at most `widest` coefficients that travel at once."""
    return max(1, CACHE_COEFFICIENTS // widest)


def _backward(
    intermediate_bounds: IntermediateBounds, relaxations: dict[int, Relaxation], ends: NeuronEnds, present: slice
) -> Tensor:
    """Upper bounds (R,) of neurons of the inputs `present`, whose bounds and relaxations are given."""
    single_input = present.stop == present.start + 1
    form_to_input = FormToInput(ends.batch_index - present.start, len(ends.batch_index) if single_input else None)
    constant = torch.zeros((), dtype=intermediate_bounds.net.dtype, device=intermediate_bounds.net.device)
    frontier: dict[int, Summand] = {}
    for i, (forms, extra) in unit_forms(intermediate_bounds.net, ends.k, ends.index).items():
        sign = ends.sign.view(-1, *(1,) * (forms.coefficients.dim() - 1))
        constant = constant + ends.sign * extra
        frontier[i] = dataclasses.replace(forms, coefficients=forms.coefficients * sign)
    return constant + backward(intermediate_bounds, frontier, form_to_input, relaxations, False)


def footprint(net: CrownNetwork, k: int) -> tuple[int, bool]:
    """Most coefficients of one form on node k on its way to the input, and whether they are patches all the way."""
    if k not in net.footprints:
        first = torch.zeros(1, dtype=torch.long, device=net.device)
        frontier = Frontier({i: forms for i, (forms, _) in unit_forms(net, k, first).items()})
        widest, patches = 1, True
        while len(frontier):
            j = frontier.last
            forms = frontier.pop(j)
            widest, patches = max(widest, forms.coefficients.numel()), patches and isinstance(forms, PatchForms)
            if j in net.roots:
                continue
            layer = net.layers[j]
            frontier.add(net.parents(j), layer.adjoint(forms) if layer.affine else (layer.forms_below(forms),))
        net.footprints[k] = widest, patches
    return net.footprints[k]
