"""Trees of splits as bytes (FORMAT.md 6, `branched_margin`)."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

from proofs_check.rules.margin import trees as rule


@dataclass(frozen=True)
class TreeSize:
    """How many leaves a tree has, and how many splits are above the deepest."""

    leaves: int
    deepest: int


def size_of(tree: str, columns: int) -> TreeSize:
    """Of a tree, base64, over networks with so many slopes. Requires one that the judge accepted."""
    data = zlib.decompress(base64.b64decode(tree))
    at, leaves, deepest, second = 0, 0, 0, list[bool]()  # second: per split above, whether its first child is done
    while at < len(data):
        if data[at] in (rule.SIGN_SPLIT, rule.DIFFERENCE_SPLIT):
            at += 5 if data[at] == rule.SIGN_SPLIT else 13
            second.append(False)
            continue
        at += 1 + columns + 4 * len(second)
        leaves, deepest = leaves + 1, max(deepest, len(second))
        while second and second[-1]:
            second.pop()
        if second:
            second[-1] = True
    return TreeSize(leaves, deepest)
