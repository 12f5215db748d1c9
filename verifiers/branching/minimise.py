"""Smaller trees: of a split that was not needed the leaf that does without it stands for both of its sides."""

from __future__ import annotations

import math

from torch import Tensor

from verifiers.branching.parts import Anew, Leaf, MajorantOf, Side
from verifiers.branching.search import Branching, Budget
from verifiers.engine import Answer

Path = tuple[Side, ...]
Tree = dict[Path, Leaf]


def minimised(
    engine: Branching, answer: Answer, predicted: Tensor, majorant_of: MajorantOf, leaves: dict[int, list[Leaf]]
) -> dict[int, list[Leaf]]:
    """Proven leaves of each question about one input, no more than before, that cover what these cover.

    answer, predicted, majorant_of: of the search that found them. A leaf is tried in the place of its parent, and of
    all that is below it, if its last side has no multiplier: of those that have one hardly any will do.
    """
    trees: dict[int, Tree] = {q: {leaf.path: leaf for leaf in proven} for q, proven in leaves.items()}
    tried: set[tuple[int, Path]] = set()
    while candidates := {q: found for q, tree in trees.items() if (found := _candidates(q, tree, tried))}:
        bound_only = Budget(math.inf, sum(map(len, candidates.values())))  # all are bounded, and none is split
        (found,) = engine.search(answer, predicted, [list(candidates)], majorant_of, bound_only, [candidates])
        for q, proven in found.leaves.items():
            for leaf in sorted(proven, key=lambda leaf: len(leaf.path)):
                _stand_for_all_below(trees[q], leaf)
    return {q: list(tree.values()) for q, tree in trees.items()}


def _candidates(question: int, tree: Tree, tried: set[tuple[int, Path]]) -> list[Leaf]:
    """Leaves without their last side, that were not tried before; one for each parent."""
    found: Tree = {}
    for path, leaf in tree.items():
        if path and leaf.multipliers[-1] == 0 and (question, path) not in tried and path[:-1] not in found:
            tried.add((question, path))
            found[path[:-1]] = Leaf(path[:-1], Anew.NOTHING, leaf.slopes, leaf.multipliers[:-1])
    return list(found.values())


def _stand_for_all_below(tree: Tree, leaf: Leaf) -> None:
    """Put `leaf` in the place of what is below it, unless a leaf above it was put there."""
    above = (leaf.path[:depth] for depth in range(len(leaf.path) + 1))
    if any(path in tree for path in above):
        return
    for path in [path for path in tree if path[: len(leaf.path)] == leaf.path]:
        del tree[path]
    tree[leaf.path] = leaf
