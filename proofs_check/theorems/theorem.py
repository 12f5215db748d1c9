"""A theorem that z3 decides: hypotheses by name, and a conclusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

z3: Any = import_module("z3")  # it comes without types
Verdict = Literal["proven", "refuted", "unknown"]


@dataclass(frozen=True)
class Theorem:
    """hypotheses => conclusion, for all values of the variables in them. name: of its statement."""

    name: str
    hypotheses: Mapping[str, Any]
    conclusion: Any
    seconds: float = 60.0

    def decide(self, without: str | None = None) -> Verdict:
        """Whether it holds; `without` a hypothesis of that name."""
        solver = z3.Solver()
        solver.set("timeout", round(1000 * self.seconds))
        solver.add(*(h for name, h in self.hypotheses.items() if name != without), z3.Not(self.conclusion))
        found = solver.check()
        return "proven" if found == z3.unsat else "refuted" if found == z3.sat else "unknown"


def reals(names: str) -> list[Any]:
    return list(z3.Reals(names))
