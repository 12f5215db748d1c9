"""Branch and bound for inputs that one pass leaves open (docs/maths.md 10), and the trees that the judge is sent."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certmix.attacks.quick import quick_attack
from certmix.formatting import exact
from certmix.provers.judging import JudgeSession
from certmix.provers.margin.exponential_head import head
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal, judged
from certmix.records.outcomes import Abstained, Outcome, Reason
from certmix.settings import Settings
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import chords, own_class
from proofs_check.certificate import Rejected
from proofs_check.rules.margin import branching as rule
from verifiers.branching.parts import Leaf, Majorant, MajorantOf
from verifiers.branching.search import Branching, Budget, Found
from verifiers.engine import EngineError, MarginQuery


@dataclass(frozen=True, eq=False)
class Branched:
    """What a search came to. evidence: None where parts are still open."""

    evidence: rule.BranchedMargin | None
    found: Found


def branch_open(problem: ProverProblem, judge: JudgeSession, outcomes: list[Outcome]) -> list[Outcome]:
    """`outcomes`, where inputs that bounds left open at the radius asked for are decided by branching, if they can be
    in `settings.branch` seconds each. Inputs that a quick attack refutes are left to it."""
    s, radius = problem.settings, problem.settings.radius
    missed = [k for k, o in enumerate(outcomes) if isinstance(o, Abstained) and o.reason is Reason.RADIUS_NOT_REACHED]
    if not missed or not s.branch or radius is None:
        return outcomes
    engine = Branching()
    state, result = engine.prepare(problem.network), list(outcomes)
    for k in missed:
        query = MarginQuery(
            problem.network, problem.inputs[k : k + 1], s.norm, torch.tensor([radius], dtype=torch.float64), s.domain,
            torch.tensor([outcomes[k].predicted]),
        )  # fmt: skip
        if _attackable(problem, query):
            continue
        try:
            result[k] = _outcome(problem, judge, outcomes[k], k, branch(engine, state, query, s))
        except EngineError as error:
            result[k] = problem.abstained(outcomes[k].predicted, Reason.ENGINE_FAILED, str(error))
    return result


def branch(engine: Branching, state: Any, query: MarginQuery, settings: Settings) -> Branched:
    """Lemma 3.2 for the one input of `query`, by splitting what one pass does not prove. state: of `engine.prepare`.

    Requires: alpha > 1/2, real semantics, h's own class. Raises EngineError.
    """
    answer, predicted, classes = engine.answer(state, query), query.predicted, query.network.classes
    whole = head(answer, predicted, settings.alpha, settings.temperature, engine.bounds.steps)
    questions = [j for j, slack in enumerate(whole.by_rival[0].tolist()) if j != int(predicted[0]) and not slack > 0]
    (found,) = engine.search(answer, predicted, [questions], majorant_of(settings), Budget(settings.branch))
    if not found.proven:
        return Branched(None, found)
    slopes = answer.slopes()
    box = None if slopes is None or whole.slopes is None else whole.slopes.filled(slopes)
    (witness,) = answer.witness(box)
    trees = tuple(_encoded(tree_bytes(found.leaves[j])) if j in found.leaves else None for j in range(classes))
    return Branched(rule.BranchedMargin(None if witness is None else _encoded(witness), trees), found)


def _attackable(problem: ProverProblem, query: MarginQuery) -> bool:
    """Whether an attack on the mix succeeds: then there is nothing to prove."""
    s = problem.settings
    if not s.attack_steps:
        return False
    attack = quick_attack(
        problem.standard.module, problem.robust.module, s.alpha, s.temperature, query.inputs, query.predicted, s.norm,
        query.radius, s.domain, steps=s.attack_steps, seed=s.seed,
    )  # fmt: skip
    return bool(attack.found[0])


def _outcome(problem: ProverProblem, judge: JudgeSession, before: Outcome, k: int, branched: Branched) -> Outcome:
    s, radius = problem.settings, problem.settings.radius
    if radius is None:
        raise TypeError("branching decides a radius")
    if branched.evidence is None:
        advice = (
            f"branching for {exact(s.branch)} s left {branched.found.unproven} of {branched.found.parts} parts of the "
            f"ball of radius {exact(radius)} open: give it more time, or ask for a smaller radius"
        )
        return problem.abstained(before.predicted, Reason.RADIUS_NOT_REACHED, advice)
    claim = problem.claim(k, radius, before.predicted, "robust", None)
    answer = judged(problem, judge, Proposal(k, claim, "margin", "branched_margin", lambda _: branched.evidence))
    if isinstance(answer, Rejected):
        advice = f"branching found a proof that the judge does not accept ({answer.step}: {answer.reason})"
        return problem.abstained(before.predicted, Reason.JUDGE_REJECTED, advice)
    return answer


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
        goal, over_box = alpha * line.goal(), alpha * line.box_upper_bound()  # times alpha: the judge's inequality
        over_box = torch.where((least > most)[:, 0], goal - goal.abs() - 1, over_box)  # it is nowhere the strongest
        return Majorant(alpha * line.coefficients, goal, over_box, alpha * gap, touching / temperature)

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
        parts.append(bytes([rule.REBOUNDED_LEAF if leaf.rebounded else rule.LEAF]))
        parts.append((leaf.slopes - (np.uint8(0) if before is None else before.slopes)).tobytes())
        parts.append(leaf.multipliers.astype("<f4").tobytes())
        before = leaf
    return zlib.compress(b"".join(parts), 9)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
