"""A run, input by input: what its lines say, what the judge made of it, and whether a point is known that refutes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from certmix.errors import UsageError
from certmix.records.outcomes import Attack
from certmix.reports.judged import Judged

Verdict = Literal["certified", "attackable", "open"]
NOBODY = "not judged"


@dataclass(frozen=True, eq=False)
class Input:
    """predicted: the class that the line speaks of. radius: the certified one; None unless the judge accepted the
    line, or nobody judged. judge: its word for the line. why: what stood in the way, and what would help.
    certificate: the line as a plain object where it holds one that counts. attack: the nearest point on record at which
    the mix gives another class than at the input. falsified: the line says that an attack refuted its certificate."""

    index: int
    label: int
    predicted: int
    radius: float | None
    judge: str
    why: str
    certificate: dict[str, Any] | None = None
    attack: Attack | None = None
    falsified: bool = False

    @property
    def verdict(self) -> Verdict:
        """Of the question whether the class can change: within the radius asked for, or, where the largest one was
        looked for, at any radius."""
        if self.radius is not None:
            return "certified"
        return "attackable" if self.attack is not None or self.falsified else "open"

    @property
    def right(self) -> bool:
        """Of its label's class; without label there is none to differ from."""
        return self.label < 0 or self.predicted == self.label

    @property
    def counts(self) -> bool:
        """Certified, and of the label's class."""
        return self.radius is not None and self.right


def inputs_of(lines: Iterable[dict[str, Any]], verdict: Judged | None) -> tuple[Input, ...]:
    """In the order of the lines. Raises UsageError where a line lacks what every line of certmix says."""
    try:
        return tuple(_input(k, line, verdict) for k, line in enumerate(lines))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the lines were not written by certmix audit ({error!r})") from None


def _input(index: int, line: dict[str, Any], verdict: Judged | None) -> Input:
    certified = line["outcome"] == "certified"
    judge, counts = NOBODY, certified
    why = "" if certified else f"{line['reason']}: {line['advice']}"
    if verdict is not None:
        said = verdict.of.get(index)
        judge, counts = ("not reached", False) if said is None else (said.state, said.state == "accepted")
        if certified and not counts:
            why = f"the judge did not accept it: {said.reason if said else judge}"
    return Input(
        index,
        label=int(line["label"]),
        predicted=int(line["predicted"]),
        radius=float(line["radius"]) if counts else None,
        judge=judge,
        why=why,
        certificate=line if counts else None,
        falsified=line["outcome"] == "falsified",
    )
