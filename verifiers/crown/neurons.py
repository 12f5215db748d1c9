"""Backward bounds of single elements of a layer, in portions of a bounded size. Part of the native CROWN engine.

Of a ReLU's input only an open sign calls for bounds. So the end nearer to zero is bounded first, and the other only if
that leaves the sign open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.backward import Bounds, Relaxed, backward
from verifiers.crown.linear_forms import Owners, Rows, add, adjoint, unit_rows
from verifiers.crown.network import NONLINEAR, CrownNetwork, Interval

CHUNK = 2**20  # coefficients of one layer propagated at once: a processor's cache
ALONE = 0.25  # share of a portion that the rows of one input must fill to be handled alone


@dataclass(frozen=True, eq=False)
class Elements:
    """Ends of elements of node k: sign[r] times element index[r] on ball sample[r] (ascending), (R,) each."""

    k: int
    sample: Tensor
    index: Tensor
    sign: Tensor

    def pick(self, rows: Tensor | slice) -> Elements:
        """The elements `rows`."""
        return Elements(self.k, self.sample[rows], self.index[rows], self.sign[rows])

    def other(self) -> Elements:
        """Their other ends."""
        return Elements(self.k, self.sample, self.index, -self.sign)

    def cut(self, bounds: Interval, found: Tensor) -> Interval:
        """`bounds` of node k, (N, *shape) each, cut to the upper bounds `found` (R,)."""
        lower, upper = bounds
        flat = self.sample * lower[0].numel() + self.index
        above, below = (torch.full_like(lower.flatten(), torch.inf) for _ in range(2))
        above = above.scatter(0, flat[self.sign > 0], found[self.sign > 0]).view(lower.shape)
        below = below.scatter(0, flat[self.sign < 0], found[self.sign < 0]).view(lower.shape)
        return torch.maximum(lower, -below), torch.minimum(upper, above)


def tightened(known: Bounds, k: int, bounds: Interval, wanted: Tensor, signs: bool) -> Interval:
    """`bounds` of node k, made tighter by backward passes for the elements `wanted`, (N, *shape) each.

    signs: only the sign of an element counts, until it proves to be open.
    """
    sample, index = wanted.flatten(1).nonzero(as_tuple=True)
    if not len(sample):
        return bounds
    lines = known.lines(known.slopes)
    nearer = torch.where(bounds[1] < -bounds[0], 1, -1).flatten(1)[sample, index]  # the judge's own rule
    first = Elements(k, sample, index, nearer)
    found = _upper(known, lines, first)
    bounds = first.cut(bounds, found)
    second = first.pick(found > 0).other() if signs else first.other()
    return second.cut(bounds, _upper(known, lines, second)) if len(second.sample) else bounds


def _upper(known: Bounds, lines: dict[int, Relaxed], elements: Elements) -> Tensor:
    """Upper bounds (R,)."""
    found: list[Tensor] = []
    for own in _groups(known.net, elements):
        present = slice(int(own.sample[0]), int(own.sample[-1]) + 1)
        inputs, some = known.pick(present), {i: line.pick(present) for i, line in lines.items()}
        found += [_pass(inputs, some, part, present) for part in _portions(known.net, own)]
    return torch.cat(found)


def _groups(net: CrownNetwork, elements: Elements) -> Iterator[Elements]:
    """Those of one input each, where that alone fills a portion. Windows are looked up row by row anyway: there the
    rows of several inputs stay together.
    """
    widest, windows = footprint(net, elements.k)
    counts = torch.unique_consecutive(elements.sample, return_counts=True)[1].tolist()
    few = len(elements.sample) <= portion(widest) * ALONE * len(counts)
    if net.device.type != "cpu" or windows or few:
        counts = [len(elements.sample)]
    start = 0
    for count in counts:
        yield elements.pick(slice(start, start + count))
        start += count


def _portions(net: CrownNetwork, elements: Elements) -> Iterator[Elements]:
    size = portion(footprint(net, elements.k)[0])
    return (elements.pick(slice(i, i + size)) for i in range(0, len(elements.sample), size))


def portion(widest: int) -> int:
    """Rows of at most `widest` coefficients that travel at once."""
    return max(1, CHUNK // widest)


def _pass(known: Bounds, lines: dict[int, Relaxed], elements: Elements, present: slice) -> Tensor:
    """Upper bounds (R,) of elements of the inputs `present`, whose bounds and lines are given."""
    one = present.stop == present.start + 1
    owners = Owners(elements.sample - present.start, len(elements.sample) if one else None)
    constant = torch.zeros((), dtype=known.net.dtype, device=known.net.device)
    pending: dict[int, Rows] = {}
    for i, (rows, extra) in unit_rows(known.net, elements.k, elements.index).items():
        sign = elements.sign.view(-1, *(1,) * (rows.coefficients.dim() - 1))
        constant = constant + elements.sign * extra
        pending[i] = Rows(rows.coefficients * sign, rows.at)
    return constant + backward(known, pending, owners, lines, False)


def footprint(net: CrownNetwork, k: int) -> tuple[int, bool]:
    """Most coefficients of one row of node k on its way to the input, and whether they are windows all the way."""
    if k not in net.footprints:
        first = torch.zeros(1, dtype=torch.long, device=net.device)
        pending = {i: rows for i, (rows, _) in unit_rows(net, k, first).items()}
        widest, windows = 1, True
        while pending:
            j = max(pending)
            node, rows = net.nodes[j], pending.pop(j)
            widest, windows = max(widest, rows.coefficients.numel()), windows and rows.at is not None
            if j in net.roots:
                continue
            linear = not isinstance(node, NONLINEAR)
            parts = adjoint(net, j, rows).inputs if linear else (_through_nonlinearity(net, j, rows),)
            for i, part in zip(net.parents(j), parts, strict=True):
                pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
        net.footprints[k] = widest, windows
    return net.footprints[k]


def _through_nonlinearity(net: CrownNetwork, k: int, rows: Rows) -> Rows:
    """Rows of the shape that those of the nonlinear node k have below it."""
    if not isinstance(net.nodes[k], c.MaxPool2d):
        return rows
    return Rows(rows.coefficients.new_zeros(len(rows.coefficients), *net.network.shapes[net.parents(k)[0]]))
