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
from certmix.theorems.softmax_margin import box_margin, chords, own_class
from proofs_check import certificate as c
from proofs_check.rules.margin import branching as rule
from proofs_check.rules.margin import trees
from verifiers.branching.minimise import minimised
from verifiers.branching.parts import Anew, Leaf, Majorant, MajorantOf
from verifiers.branching.search import Branching, Budget, Found
from verifiers.crown.network import CrownNetwork
from verifiers.engine import MarginQuery, differences
from verifiers.network.module import build

KINDS = {Anew.NOTHING: trees.LEAF, Anew.DIFFERENCES: trees.REBOUNDED_LEAF, Anew.EVERYTHING: trees.ANEW_LEAF}
STEPS = 20  # of tuning, of a rival's pass on the whole ball
TINY = 1e-300  # where all coefficients underflow


@dataclass(frozen=True, eq=False)
class Branched:
    """What a search came to. evidence: None where parts are still open."""

    evidence: rule.BranchedMargin | rule.BranchedPair | None
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
    """The mix's margins at the one input of `query`, by splitting what one pass does not prove: Lemma 3.2, or with
    `settings.use_standard` from bounds of both networks. state: of `engine.prepare`, of h or of `beside(g, h)`, which
    the query is about, too.

    start: a partition of a ball around the same input, to start from. tell: hears how far the search has come.
    Requires: real semantics; without g, alpha > 1/2 and h's own class. Raises EngineError.
    """
    networks = 1 + settings.use_standard
    classes = query.network.classes // networks
    rows = torch.kron(torch.eye(networks, dtype=torch.float64), differences(query.predicted, classes)[0])
    answer, predicted = engine.answer(state, dataclasses.replace(query.query(), rows=rows[None])), query.predicted
    whole = None if settings.use_standard else head(answer, predicted, settings.alpha, settings.temperature, STEPS)
    slack = [0.0] * classes if whole is None else whole.by_rival[0].tolist()
    questions = [j for j in range(classes) if j != int(predicted[0]) and not slack[j] > 0]
    listener = None if tell is None else (lambda _, found: tell(found))
    majorant = pair_majorant_of(settings) if settings.use_standard else majorant_of(settings)
    (found,) = engine.search(answer, predicted, [questions], majorant, budget, [start], listener)
    if not found.proven:
        return Branched(None, found)
    found = dataclasses.replace(found, leaves=minimised(engine, answer, predicted, majorant, found.leaves))
    slopes = answer.slopes()
    passes = None if slopes is None or whole is None or whole.slopes is None else whole.slopes.filled(slopes)
    (witness,) = answer.witness(passes)
    trees = tuple(_encoded(tree_bytes(found.leaves[j])) if j in found.leaves else None for j in range(classes))
    evidence = rule.BranchedPair if settings.use_standard else rule.BranchedMargin
    return Branched(evidence(None if witness is None else _encoded(witness), trees), found)


def beside(g: c.PlainNetwork, h: c.PlainNetwork) -> c.PlainNetwork:
    """One network on the input of both: logits of g, then of h (FORMAT.md 6, `branched_pair`)."""
    shift = len(g.nodes) - 1
    moved = [dataclasses.replace(n, inputs=tuple(i and i + shift for i in n.inputs))
             for n in h.nodes if not isinstance(n, c.Input)]  # fmt: skip
    return build([*g.nodes, *moved, c.Concat((shift, shift + len(moved)))])


def majorant_of(settings: Settings) -> MajorantOf:
    """Of the exponential form (3b), where the rival in question is the strongest; a question is its number."""
    required = required_margin(settings.alpha)

    def make(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor) -> Majorant:
        mu = torch.full(rival.shape, required, dtype=torch.float64)
        lower, upper, nowhere = _strongest(lower, upper, predicted, rival)
        return _exponential(lower, upper, predicted, rival, mu, nowhere, settings)

    return make


def pair_majorant_of(settings: Settings) -> MajorantOf:
    """The same with d of g before those of h: h's margin required is what the least margin of g leaves, over those
    rivals whose margin the box does not prove."""
    alpha = settings.alpha

    def make(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor) -> Majorant:
        (low_g, low_h), (high_g, high_h) = (v.chunk(2, 1) for v in (lower, upper))
        low_h, high_h, nowhere = _strongest(low_h, high_h, predicted, rival)
        of_g = box_margin(low_g, high_g, predicted, 1.0)
        of_h = box_margin(low_h, torch.maximum(low_h, high_h), predicted, settings.temperature)
        is_open = ((1 - alpha) * of_g + alpha * of_h <= 0) & ~own_class(predicted, of_g.shape[1])
        least = of_g.masked_fill(~is_open, torch.inf)
        worst = least.amin(1)
        proven = nowhere | ~is_open.any(1)
        mu = -(1 - alpha) / alpha * torch.where(is_open.any(1), worst, 0.0)
        h = _exponential(low_h, high_h, predicted, rival, mu.clamp(min=-1 + 1e-9), proven, settings)
        halved = (torch.tanh(low_g / 2) + torch.tanh(high_g / 2)) / 2
        middle = 2 * torch.atanh(halved.clamp(-1 + 1e-12, 1 - 1e-12))
        price = (1 - alpha) / alpha * (1 + torch.exp(settings.temperature * high_h).sum(1)) / (h.unit / alpha)
        gain = price[:, None] * (torch.tanh(high_g / 2) - halved)
        gain = torch.where(least == worst[:, None], gain, 0.0).masked_fill(~is_open, 0.0)
        both = (torch.cat(pair, 1) for pair in (
            (torch.zeros_like(of_g), h.coefficients), (gain, h.gap), (middle, h.middle)))  # fmt: skip
        coefficients, gap, middles = both
        return Majorant(coefficients, h.goal, h.over_box, gap, middles, h.unit)

    return make


def _strongest(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds (B, K) of d where d of the rival is the largest, and (B,) whether that is nowhere."""
    own = own_class(predicted, upper.shape[1])
    most, least = upper.gather(1, rival[:, None]), lower.masked_fill(own, -torch.inf).amax(1, keepdim=True)
    upper = torch.minimum(upper, most).masked_fill(own, 0.0)
    return torch.minimum(lower.scatter(1, rival[:, None], least), upper), upper, (least > most)[:, 0]


def _exponential(
    lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor, mu: Tensor, proven: Tensor, settings: Settings
) -> Majorant:
    """h_y - h_i > mu (B,), i the rival; nothing is asked where it is `proven`."""
    temperature = settings.temperature
    line = chords(lower, upper, predicted, rival, mu, temperature)
    weights = mu[:, None].expand_as(upper).scatter(1, rival[:, None], 1 + mu[:, None])
    slope, low = line.coefficients / temperature, temperature * line.lower
    touching = torch.log((slope / weights).nan_to_num(0.0).clamp(min=1e-300))
    touching = torch.minimum(torch.maximum(touching, low), temperature * line.upper)
    chord = weights * torch.exp(low) + slope * (touching - low)
    gap = (chord - weights * torch.exp(touching)).masked_fill(weights <= 0, 0.0).scatter(1, predicted[:, None], 0.0)
    unit = line.coefficients.amax(1).clamp(min=TINY)
    goal, over_box = line.goal() / unit, line.box_upper_bound() / unit
    over_box = torch.where(proven, goal - goal.abs() - 1, over_box)
    coefficients, gap = line.coefficients / unit[:, None], gap / unit[:, None]
    # the judge's inequality is (3b) times alpha, and so are its multipliers
    return Majorant(coefficients, goal, over_box, gap, touching / temperature, settings.alpha * unit)


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
                parts.append(struct.pack("<BId", trees.DIFFERENCE_SPLIT, side.index, side.at))
            else:
                parts.append(struct.pack("<BI", trees.SIGN_SPLIT, side.index))
        parts.append(bytes([KINDS[leaf.anew]]))
        parts.append((leaf.slopes - (np.uint8(0) if before is None else before.slopes)).tobytes())
        parts.append(leaf.multipliers.astype("<f4").tobytes())
        before = leaf
    return zlib.compress(b"".join(parts), 9)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
