"""What a law is, what one trial of it reports, and what refutes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from certmix.testing.problem import Problem
from certmix.testing.protocol import Certifier

Kind = Literal["soundness", "quality"]


@dataclass(frozen=True, eq=False)
class Counterexample:
    """What broke a law. `evidence` says how in one sentence; `example` is the problem (or the counts) it happened on.

    row, point, radius: the input of the batch, the refuting point and the claimed radius, where the law has them;
    exact: whether exact arithmetic confirmed it.
    """

    law: str
    evidence: str
    example: Any
    row: int | None = None
    point: NDArray[Any] | None = None
    radius: float | None = None
    exact: bool = False

    @property
    def size(self) -> int:
        """For keeping the smallest."""
        return self.example.size if isinstance(self.example, Problem) else 0


@dataclass(frozen=True, eq=False)
class Trial:
    """One example tried: how many claims were made, how many points attacked, what broke."""

    claims: int
    points: int
    broken: Counterexample | None


@dataclass(frozen=True, eq=False)
class Law:
    """A named property of certifiers of some protocols.

    source: where it comes from. strategy: examples for a certifier. check(certifier, example, seed): one trial.
    needs: an optional keyword the certifier must take for the law to make sense, or "".
    """

    name: str
    kind: Kind
    protocols: frozenset[str]
    source: str
    meaning: str
    strategy: Callable[[Certifier], SearchStrategy[Any]]
    check: Callable[[Certifier, Any, int], Trial]
    needs: str = ""
