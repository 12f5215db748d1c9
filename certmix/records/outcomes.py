"""What certification of one input can end in: frozen values, never a sentinel radius."""

from __future__ import annotations

import enum
import html
import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.formatting import exact, lower
from proofs_check.certificate import ClassOf, ModelFile, Norm, PlainNetwork

REPR = 250  # characters
SHOWN = 20  # rows in a notebook
COLUMNS = ("index", "outcome", "predicted", "radius", "norm", "alpha", "method", "class_of", "why")
Method = Literal["margin", "lipschitz", "smoothing", "adaptive"]


class Reason(enum.Enum):
    """Why no certificate was issued."""

    NO_THEOREM = "no theorem applies at this alpha"
    TIE = "the two largest outputs tie at the input"
    MARGIN_TOO_SMALL = "the margin at the input itself is below the required margin"
    RADIUS_NOT_REACHED = "the bounds do not reach the requested radius"
    ENGINE_FAILED = "the engine could not bound this network"
    JUDGE_REJECTED = "the judge did not prove the claim"
    NOT_ENOUGH_SAMPLES = "the confidence bounds do not reach the required margin"
    NOT_EXECUTED = "the process ended, or ran out of memory, on this input"


Verdict = Literal["certified", "attackable", "open", "refuted"]


@dataclass(frozen=True, eq=False)
class Attack:
    """A point in the domain, at most `radius` away, at which `rival` beats `predicted`, the mix's class at the input.

    Ensures: containment was checked in rational arithmetic and the classes by rigorous evaluation (attacks.confirm), so
    that no certificate can reach `radius`. radius: raw units; point: (*shape) float32.
    """

    radius: float
    predicted: int
    rival: int
    point: NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Certified:
    """`predicted` is the mix's class on the whole ball; `line` is the certificate's bytes.

    robust, standard, input, alpha_network: what the judge needs to check `line` (see `certmix.check`). proposed_radius:
    what was asked of the judge first; the difference is the price of counting every rounding error. float32_only: a
    point of the ball where the float32 models disagree although rigorous evaluation does not, if the attack met one.
    attack: the nearest point found outside the ball that changes the class, where it was looked for.
    """

    predicted: int
    radius: float
    norm: Norm
    alpha: float
    method: Method
    class_of: ClassOf
    line: bytes
    robust: PlainNetwork | ModelFile
    standard: PlainNetwork | ModelFile | None
    input: NDArray[np.float32]
    proposed_radius: float
    float32_only: NDArray[np.float32] | None = None
    alpha_network: PlainNetwork | None = None
    attack: Attack | None = None

    @property
    def verdict(self) -> Verdict:
        return "certified"

    def __repr__(self) -> str:
        return (
            f"Certified(class {self.predicted} within {self.norm} radius {lower(self.radius)}, "
            f"alpha {exact(self.alpha)}, {self.method})"
        )


@dataclass(frozen=True, repr=False)
class Abstained:
    """No certificate; `advice` says what was found and what would help. `radius`: the one asked for, if one was.
    attack: a point within that radius (the nearest found, where none was asked for) that changes the mix's class."""

    predicted: int
    radius: float | None
    norm: Norm
    alpha: float
    method: Method
    class_of: ClassOf
    reason: Reason
    advice: str
    attack: Attack | None = None

    @property
    def verdict(self) -> Verdict:
        """attackable: a certificate cannot exist (or only below the attack's radius); open: nobody knows."""
        return "open" if self.attack is None else "attackable"

    def __repr__(self) -> str:
        return _short(f"Abstained({self.reason.name}, class {self.predicted}, alpha {exact(self.alpha)}: {self.advice}")


@dataclass(frozen=True, eq=False, repr=False)
class Falsified:
    """An input inside the ball that changes the mix's class. `confirmed`: by exact or rigorous evaluation;
    otherwise only the float32 models say so."""

    predicted: int
    radius: float
    norm: Norm
    alpha: float
    method: Method
    class_of: ClassOf
    counterexample: NDArray[np.float32]
    confirmed: bool
    advice: str

    @property
    def verdict(self) -> Verdict:
        return "refuted"

    def __repr__(self) -> str:
        by = "confirmed" if self.confirmed else "by the float32 models only"
        return _short(
            f"Falsified({by}, class {self.predicted} within {self.norm} radius {exact(self.radius)}, "
            f"alpha {exact(self.alpha)}: {self.advice}"
        )


Outcome = Certified | Abstained | Falsified


def _short(text: str) -> str:
    return (text if len(text) < REPR else text[: REPR - 1] + "…") + ")"


class Outcomes(list[Outcome]):
    """The outcomes of a batch, in its order: a list that a notebook shows as a table."""

    def counts(self) -> dict[str, int]:
        """How many are certified, abstained, falsified."""
        kinds = Counter(type(outcome).__name__.lower() for outcome in self)
        return {name: kinds[name] for name in ("certified", "abstained", "falsified")}

    def records(self) -> list[dict[str, Any]]:
        """`records` of this module."""
        return records(self)

    def to_dataframe(self) -> Any:
        """`to_dataframe` of this module."""
        return to_dataframe(self)

    def __repr__(self) -> str:
        return f"Outcomes({len(self)} inputs: {', '.join(f'{n} {name}' for name, n in self.counts().items())})"

    def _repr_html_(self) -> str:
        dicts = records(self[:SHOWN])
        names = ("index", "outcome", "predicted", "radius", "why")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{_cell(row, name)}</td>" for name in names) + "</tr>" for row in dicts)
        more = f"<p>the first {SHOWN}; to_dataframe() has all</p>" if len(self) > SHOWN else ""
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>{more}"


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return ""
    return lower(value) if name == "radius" else html.escape(str(value))


def records(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """One plain dict per outcome: index (its place), outcome, predicted, radius, norm, alpha, method, class_of, why.

    radius: certified, falsified, or the one asked for (None for the largest). why: of outcomes without a certificate.
    """
    dicts: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        row: dict[str, Any] = {"index": index, "outcome": type(outcome).__name__.lower()}
        for name in ("predicted", "radius", "norm", "alpha", "method", "class_of"):
            row[name] = getattr(outcome, name)
        row["why"] = None if isinstance(outcome, Certified) else outcome.advice
        dicts.append(row)
    return dicts


def to_dataframe(outcomes: Iterable[Outcome]) -> Any:
    """`records` as a pandas DataFrame. Raises UsageError where pandas is not installed."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise UsageError("to_dataframe needs pandas: pip install pandas, or use records(outcomes)") from None
    return pandas.DataFrame(records(outcomes), columns=list(COLUMNS))
