"""Lemma 3.2, and the pair form, by branching (docs/maths.md 10): the exponential form, proven part by part of the ball.

A rival's tree need only speak of the points at which no other rival is stronger to h: there are trees, or proofs on the
whole ball, for all of them.

Precondition: a claim tied to the networks at hand. Postcondition: it holds.
Charged: nothing here; what `trees` and `exponential` say.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from flint import arb

from proofs_check import certificate as c
from proofs_check.certificate import Assumption, Claim, RejectedError, need
from proofs_check.kernel.bounds import Prepared, prepare
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import Differences, decoded, differences, need_class, rivals
from proofs_check.rules.margin.exponential import WORST, chord, exponential_misses
from proofs_check.rules.margin.rule import box_proves, margin_lower
from proofs_check.rules.margin.trees import Leaf, Stream, largest, leaves, on_leaf


@dataclass(frozen=True)
class BranchedMargin:
    """witness: as in `NetworkMargin`. trees: per class base64 of a tree (FORMAT.md), or None: proven without."""

    witness: str | None
    trees: tuple[str | None, ...]


@dataclass(frozen=True)
class BranchedPair:
    """The same, of both networks on one input, g before h; a tree for every rival."""

    witness: str | None
    trees: tuple[str | None, ...]


def branched_margin(claim: Claim, evidence: BranchedMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2: every rival by its tree, or where it has none as in `network_margin`."""
    found, trees = differences(case.robust, evidence.witness, case, claim), evidence.trees
    need_class(case, claim, found.upper)
    _need_entries(trees, len(found.upper), claim.predicted)
    unproven = [i for i in rivals(claim, len(trees)) if trees[i] is None and not box_proves(found.upper, i, claim)]
    missed = exponential_misses(found, unproven, claim)
    need(not missed, "margin", f"rivals {missed}: margin is not proven to exceed the required one")
    _need_trees(found, trees, claim)
    return frozenset()


def branched_pair(claim: Claim, evidence: BranchedPair, case: Case) -> frozenset[Assumption]:
    """(1 - alpha) (g_y - g_j) + alpha (h_y - h_j) > 0 for all rivals j: a tree for each that may be h's strongest."""
    standard, robust = case.standard, case.robust
    if standard is None or claim.standard is None:
        raise RejectedError("standard", "this rule needs the standard model as a plain network")
    if claim.class_of == "robust":
        need_class(case, claim, np.ones(robust.network.classes))
    found, trees = differences(beside(standard, robust), evidence.witness, case, claim, networks=2), evidence.trees
    _need_entries(trees, robust.network.classes, claim.predicted)
    missing = [i for i in rivals(claim, len(trees)) if trees[i] is None]
    need(not missing, "tree", f"rivals {missing} have none")
    _need_trees(found, trees, claim)
    return frozenset()


def beside(g: Prepared, h: Prepared) -> Prepared:
    """One network on the input of both: logits of g, then of h. Its neurons are those of g, then of h."""
    shift = len(g.network.nodes) - 1
    moved = [dataclasses.replace(n, inputs=tuple(i and i + shift for i in n.inputs))
             for n in h.network.nodes if not isinstance(n, c.Input)]  # fmt: skip
    nodes = (*g.network.nodes, *moved, c.Concat((shift, shift + len(moved))))
    shapes = (*g.network.shapes, *h.network.shapes[1:], (g.network.classes + h.network.classes,))
    return prepare(c.PlainNetwork(nodes, shapes, "", b""))


def _need_entries(trees: tuple[str | None, ...], classes: int, y: int) -> None:
    need(len(trees) == classes, "tree", f"{len(trees)} entries for {classes} classes")
    need(trees[y] is None, "tree", "the predicted class has one")


def _need_trees(found: Differences, trees: tuple[str | None, ...], claim: Claim) -> None:
    """Every leaf of every tree is proven."""
    columns, classes = found.values.prepared.slope_start[-1], len(trees)
    splittable = frozenset(n * classes + j for n in range(found.networks) for j in rivals(claim, classes))
    for rival, tree in enumerate(trees):
        if tree is not None:
            for k, leaf in enumerate(leaves(Stream(decoded(tree, "tree")), columns, splittable)):
                proven = _leaf_proves(found, rival, claim, leaf)
                need(proven, "margin", f"rival {rival}: leaf {k} of its tree is not proven")


def _leaf_proves(found: Differences, rival: int, claim: Claim, leaf: Leaf) -> bool:
    """The mix's margins are > 0 wherever the sides of `leaf` hold and d_rival is h's largest d_j, j != y; also where
    that is nowhere. found: of h, then g_y - g_j >= -1 is all that is used of g; or of g and h."""
    y, alpha = claim.predicted, arb(claim.alpha)
    here = on_leaf(found, leaf, y)
    if here is None:
        return True
    *of_g, of_h = _by_network(here)
    of_h.lower[rival] = np.delete(of_h.lower, y).max()
    of_h.upper[:] = np.minimum(of_h.upper, of_h.upper[rival])
    of_h.upper[y] = 0.0
    if (of_h.lower > of_h.upper).any():
        return True
    others = rivals(claim, len(of_h.upper)) if of_g else [rival]
    least = {j: margin_lower(of_g[0], j, 1.0, y) if of_g else WORST for j in others}
    open_ = [j for j in others if not (1 - alpha) * least[j] + alpha * margin_lower(of_h, j, claim.temperature, y) > 0]
    if not open_:
        return True
    worst = least[open_[0]]
    for j in open_[1:]:
        worst = worst.min(least[j])
    line = chord(of_h, rival, claim, worst)
    coefficients = np.concatenate([np.zeros(len(here.upper) - len(of_h.upper)), line.coefficients])
    return bool(line.intercept + largest(here, leaf, coefficients, y) < line.threshold)


def _by_network(here: Differences) -> list[Differences]:
    """Copies of the bounds of each network's differences."""
    lower, upper, error = (np.split(v.copy(), here.networks) for v in (here.lower, here.upper, here.error))
    return [Differences(a, b, here.values, e) for a, b, e in zip(lower, upper, error, strict=True)]
