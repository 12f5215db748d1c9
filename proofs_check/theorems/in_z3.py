"""Every theorem of `statements`, to be decided by z3."""

from __future__ import annotations

from proofs_check.theorems import branching, lipschitz, margins, nodes, relaxations, smoothing
from proofs_check.theorems.theorem import Theorem

THEOREMS: tuple[Theorem, ...] = (
    *margins.THEOREMS,
    *branching.THEOREMS,
    *lipschitz.THEOREMS,
    *smoothing.THEOREMS,
    *relaxations.THEOREMS,
    *nodes.THEOREMS,
)
