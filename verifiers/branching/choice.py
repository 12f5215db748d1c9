"""Where parts are split: candidates by what a split may take away, the best of them by trying both of its sides."""

from __future__ import annotations

import torch
from torch import Tensor

from verifiers.branching.parts import MajorantOf, Parts, Root, Side, in_units, majorant_at

NEURONS, DIFFERENCES = 8, 2  # candidates for a split, tried before one is chosen
# of the excess, that a split of d must be able to take away: what it does is seen at once, what one of a ReLU does only
# when multipliers are tuned
LEAST_GAP = 0.5
SMALLER_SIDE = 0.3  # weight, in the choice, of the side that is nearer to its goal
MOST_AT_ONCE = 3  # splits of one part

Candidate = tuple[Side, int]  # the side > 0, and the position of its neuron


def choose(root: Root, majorant_of: MajorantOf, parts: Parts, units: Tensor, size: int) -> list[list[Side]]:
    """For each part the sides > 0 of the candidates whose two sides come nearest to their goals, hints as they are:
    one, or so many that a batch of `size` parts is not left half empty."""
    candidates = _candidates(root, majorant_of, parts, units)
    flat = [(b, side) for b, sides in enumerate(candidates) for side in sides]
    tried: list[Tensor] = []
    for first in range(0, len(flat), size):
        chunk = flat[first : first + size]
        index = torch.tensor([b for b, _ in chunk])
        picked = parts.pick(index)
        ends = [
            _tried(root, majorant_of, picked.split(sides), units[index])
            for sides in ([one for _, one in chunk], [(side.other(), at) for _, (side, at) in chunk])
        ]
        tried.append(torch.maximum(*ends) + SMALLER_SIDE * torch.minimum(*ends))
    ranked: list[list[tuple[float, Side]]] = [[] for _ in candidates]
    for (b, (side, _)), value in zip(flat, torch.cat(tried).tolist(), strict=True):
        ranked[b].append((value, side))
    at_once = 1
    while at_once < MOST_AT_ONCE and len(parts) * 2 ** (at_once + 1) <= size:
        at_once += 1
    return [[side for _, side in sorted(one, key=lambda pair: pair[0])[:at_once]] for one in ranked]


def _candidates(root: Root, majorant_of: MajorantOf, parts: Parts, units: Tensor) -> list[list[Candidate]]:
    """Of each part: neurons whose upper lines cost most, and the d where the majorant is farthest from the truth."""
    majorant, lines = majorant_at(root, majorant_of, parts), root.lines(parts)
    scaled = in_units(parts, majorant, units)
    shares = root.bound(lines, scaled, scaled.hints, majorant).intercept_shares().masked_fill(parts.signs != 0, 0.0)
    top = shares.topk(min(NEURONS, shares.shape[1]), 1)
    gaps = majorant.gap.topk(min(DIFFERENCES, majorant.gap.shape[1]), 1)
    doubts = torch.minimum(-parts.low, parts.high).masked_fill(parts.signs != 0, 0.0)
    columns = root.net.columns.tolist()
    candidates: list[list[Candidate]] = []
    for b in range(len(parts)):
        costly = zip(top.values[b].tolist(), top.indices[b].tolist(), strict=True)
        found = [(Side(False, columns[at], 0.0, 1), at) for value, at in costly if value > 0]
        for value, j in zip(gaps.values[b].tolist(), gaps.indices[b].tolist(), strict=True):
            at = float(majorant.middle[b, j])
            if value > LEAST_GAP * float(parts.excess[b]) and float(parts.lower[b, j]) < at < float(parts.upper[b, j]):
                found.append((Side(True, j, at, 1), 0))
        candidates.append(found or [_last_resort(root, parts, doubts[b], b)])
    return candidates


def _last_resort(root: Root, parts: Parts, doubts: Tensor, b: int) -> Candidate:
    """A neuron of unknown sign, the farthest from knowing it; else the widest interval of d, in the middle."""
    if len(doubts) and float(doubts.max()) > 0:
        at = int(doubts.argmax())
        return Side(False, int(root.net.columns[at]), 0.0, 1), at
    j = int((parts.upper[b] - parts.lower[b]).argmax())
    return Side(True, j, float((parts.upper[b, j] + parts.lower[b, j]) / 2), 1), 0


def _tried(root: Root, majorant_of: MajorantOf, parts: Parts, units: Tensor) -> Tensor:
    """(B,) the excess of parts with hints as they are, 0 where they are proven."""
    majorant = majorant_at(root, majorant_of, parts)
    parts = in_units(parts, majorant, units)
    excess = root.bound(root.lines(parts), parts, parts.hints, majorant).excess
    return excess.clamp(min=0).masked_fill(parts.empty, 0.0)
