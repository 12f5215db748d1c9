"""Branch and bound for inputs that one pass leaves open (docs/maths.md 10), and the trees that the judge is sent."""

from __future__ import annotations

import base64
import dataclasses
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certmix.provers.margin.exponential_head import head
from certmix.settings import Settings
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import chords, own_class
from proofs_check.rules.margin import branching as rule
from verifiers.branching.minimise import minimised
from verifiers.branching.parts import Anew, Leaf, Majorant, MajorantOf
from verifiers.branching.search import Branching, Budget, Found
from verifiers.crown.network import CrownNetwork
from verifiers.engine import MarginQuery

KINDS = {Anew.NOTHING: rule.LEAF, Anew.DIFFERENCES: rule.REBOUNDED_LEAF, Anew.EVERYTHING: rule.ANEW_LEAF}
TINY = 1e-300  # where all coefficients underflow


@dataclass(frozen=True, eq=False)
class Branched:
    """What a search came to. evidence: None where parts are still open."""

    evidence: rule.BranchedMargin | None
    found: Found


def branch(
    engine: Branching,
    state: CrownNetwork,
    query: MarginQuery,
    settings: Settings,
    budget: Budget,
    start: dict[int, list[Leaf]] | None = None,
    tell: Callable[[Found], None] | None = None,
) -> Branched:
    """Lemma 3.2 for the one input of `query`, by splitting what one pass does not prove. state: of `engine.prepare`.

    start: a partition of a ball around the same input, to start from. tell: hears how far the search has come.
    Requires: alpha > 1/2, real semantics, h's own class. Raises EngineError.
    """
    answer, predicted, classes = engine.answer(state, query), query.predicted, query.network.classes
    whole = head(answer, predicted, settings.alpha, settings.temperature, engine.bounds.steps)
    questions = [j for j, slack in enumerate(whole.by_rival[0].tolist()) if j != int(predicted[0]) and not slack > 0]
    listener = None if tell is None else (lambda _, found: tell(found))
    majorant = majorant_of(settings)
    (found,) = engine.search(answer, predicted, [questions], majorant, budget, [start], listener)
    if not found.proven:
        return Branched(None, found)
    found = dataclasses.replace(found, leaves=minimised(engine, answer, predicted, majorant, found.leaves))
    slopes = answer.slopes()
    box = None if slopes is None or whole.slopes is None else whole.slopes.filled(slopes)
    (witness,) = answer.witness(box)
    trees = tuple(_encoded(tree_bytes(found.leaves[j])) if j in found.leaves else None for j in range(classes))
    return Branched(rule.BranchedMargin(None if witness is None else _encoded(witness), trees), found)


def majorant_of(settings: Settings) -> MajorantOf:
    """Of the exponential form (3b), where the rival in question is the strongest; a question is its number."""
    required, temperature, alpha = required_margin(settings.alpha), settings.temperature, settings.alpha

    def make(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor) -> Majorant:
        own = own_class(predicted, upper.shape[1])
        most, least = upper.gather(1, rival[:, None]), lower.masked_fill(own, -torch.inf).amax(1, keepdim=True)
        upper = torch.minimum(upper, most).masked_fill(own, 0.0)
        lower = torch.minimum(lower.scatter(1, rival[:, None], least), upper)
        mu = torch.full(rival.shape, required, dtype=torch.float64)
        line = chords(lower, upper, predicted, rival, mu, temperature)
        weights = mu[:, None].expand_as(upper).scatter(1, rival[:, None], 1 + required)
        slope, low = line.coefficients / temperature, temperature * line.lower
        touching = torch.log((slope / weights).clamp(min=1e-300))
        touching = torch.minimum(torch.maximum(touching, low), temperature * line.upper)
        chord = weights * torch.exp(low) + slope * (touching - low)
        gap = (chord - weights * torch.exp(touching)).scatter(1, predicted[:, None], 0.0)
        unit = line.coefficients.amax(1).clamp(min=TINY)
        goal, over_box = line.goal() / unit, line.box_upper_bound() / unit
        over_box = torch.where((least > most)[:, 0], goal - goal.abs() - 1, over_box)  # it is nowhere the strongest
        coefficients, gap = line.coefficients / unit[:, None], gap / unit[:, None]
        # the judge's inequality is (3b) times alpha, and so are its multipliers
        return Majorant(coefficients, goal, over_box, gap, touching / temperature, alpha * unit)

    return make


# ---------------------------------------------------------------- the bytes (FORMAT.md 6)


def tree_bytes(leaves: list[Leaf]) -> bytes:
    """The tree whose leaves these are, depth first, compressed."""
    parts: list[bytes] = []
    before: Leaf | None = None
    for leaf in sorted(leaves, key=lambda leaf: [-side.sign for side in leaf.path]):
        shared = 0
        if before is not None:
            shared = 1 + next(k for k, (a, b) in enumerate(zip(before.path, leaf.path, strict=False)) if a != b)
        for side in leaf.path[shared:]:
            if side.difference:
                parts.append(struct.pack("<BId", rule.DIFFERENCE_SPLIT, side.index, side.at))
            else:
                parts.append(struct.pack("<BI", rule.SIGN_SPLIT, side.index))
        parts.append(bytes([KINDS[leaf.anew]]))
        parts.append((leaf.slopes - (np.uint8(0) if before is None else before.slopes)).tobytes())
        parts.append(leaf.multipliers.astype("<f4").tobytes())
        before = leaf
    return zlib.compress(b"".join(parts), 9)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
