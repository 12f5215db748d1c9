"""Where parts are split: candidates by what a split may take away, the best of them by trying both of its sides."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from verifiers.branching.parts import MajorantOf, Parts, Roots, Side, in_units, majorant_at
from verifiers.crown.backward import IntermediateBounds

NEURONS, DIFFERENCES = 3, 2  # candidates for a split, tried before one is chosen
# of the excess, that a split of d must be able to take away: what it does is seen at once, what one of a ReLU does only
# when multipliers are tuned
LEAST_GAP = 0.5
SMALLER_SIDE = 0.3  # weight, in the choice, of the side that is nearer to its goal


def choose(roots: Roots, majorant_of: MajorantOf, parts: Parts, units: Tensor, size: int) -> list[Side]:
    """For each part the side > 0 of the candidate whose two sides come nearest to their goals, hints as they are.
    size: how many parts are tried at once."""
    here, _ = roots.cut(parts)
    candidates = _candidates(roots, majorant_of, parts, units, here)
    flat = [(b, side) for b, sides in enumerate(candidates) for side in sides]
    tried: list[Tensor] = []
    for first in range(0, len(flat), size):
        chunk = flat[first : first + size]
        index, sides = torch.tensor([b for b, _ in chunk]), [side for _, side in chunk]
        ends = [_tried(roots, majorant_of, parts.pick(index).split(s), units[index])
                for s in (sides, [side.other() for side in sides])]  # fmt: skip
        tried.append(torch.maximum(*ends) + SMALLER_SIDE * torch.minimum(*ends))
    chosen: dict[int, tuple[float, Side]] = {}
    for (b, side), value in zip(flat, torch.cat(tried).tolist(), strict=True):
        if b not in chosen or value < chosen[b][0]:
            chosen[b] = value, side
    return [chosen[b][1] for b in range(len(parts))]


def _candidates(
    roots: Roots, majorant_of: MajorantOf, parts: Parts, units: Tensor, here: IntermediateBounds
) -> list[list[Side]]:
    """Of each part: neurons whose upper lines cost most, and the d where the majorant is farthest from the truth."""
    majorant = majorant_at(roots, majorant_of, parts)
    shares = roots.intercept_shares(here, in_units(parts, majorant, units), majorant).masked_fill(parts.signs != 0, 0.0)
    top = shares.topk(min(NEURONS, shares.shape[1]), 1)
    gaps = majorant.gap.topk(min(DIFFERENCES, majorant.gap.shape[1]), 1)
    candidates: list[list[Side]] = []
    for b in range(len(parts)):
        costly = zip(top.values[b].tolist(), top.indices[b].tolist(), strict=True)
        found = [Side(False, column, 0.0, 1) for value, column in costly if value > 0]
        for value, j in zip(gaps.values[b].tolist(), gaps.indices[b].tolist(), strict=True):
            at = float(majorant.middle[b, j])
            if value > LEAST_GAP * float(parts.excess[b]) and float(parts.lower[b, j]) < at < float(parts.upper[b, j]):
                found.append(Side(True, j, at, 1))
        candidates.append(found or [_last_resort(here, parts, b)])
    return candidates


def _last_resort(here: IntermediateBounds, parts: Parts, b: int) -> Side:
    """A neuron of unknown sign, the farthest from knowing it; else the widest interval of d, in the middle."""
    ends = [here.values[here.net.parents(k)[0]] for k in here.net.slope_ranges]
    doubts = [torch.minimum(-lower[b], upper[b]).flatten() for lower, upper in ends]
    if doubts and float((doubt := torch.cat(doubts)).max()) > 0:
        return Side(False, int(doubt.argmax()), 0.0, 1)
    j = int((parts.upper[b] - parts.lower[b]).argmax())
    return Side(True, j, float((parts.upper[b, j] + parts.lower[b, j]) / 2), 1)


def _tried(roots: Roots, majorant_of: MajorantOf, parts: Parts, units: Tensor) -> Tensor:
    """(B,) the excess of parts with hints as they are, 0 where they are proven."""
    here, empty = roots.cut(parts)
    parts = dataclasses.replace(parts, upper=torch.maximum(parts.lower, parts.upper))
    majorant = majorant_at(roots, majorant_of, parts)
    parts = in_units(parts, majorant, units)
    excess = roots.excess(here, parts, parts.hints, majorant)
    return excess.clamp(min=0).masked_fill(empty, 0.0)
