"""What certification of one input can end in: frozen values, never a sentinel radius."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from proofs_check.certificate import ClassOf, Norm, PlainNetwork

Method = Literal["margin", "lipschitz", "smoothing"]


class Reason(enum.Enum):
    """Why no certificate was issued."""

    NO_THEOREM = "no theorem applies at this alpha"
    TIE = "the two largest outputs tie at the input"
    MARGIN_TOO_SMALL = "the margin at the input itself is below the required margin"
    RADIUS_NOT_REACHED = "the bounds do not reach the requested radius"
    ENGINE_FAILED = "the engine could not bound this network"
    JUDGE_REJECTED = "the judge did not prove the claim"
    NOT_ENOUGH_SAMPLES = "the confidence bounds do not reach the required margin"


@dataclass(frozen=True, eq=False)
class Certified:
    """`predicted` is the mix's class on the whole ball; `line` is the certificate's bytes.

    robust, standard, input, alpha_network: what the judge needs to check `line` (see `certmix.check`). proposed_radius:
    what was asked of the judge first; the difference is the price of counting every rounding error. float32_only: a
    point of the ball where the float32 models disagree although rigorous evaluation does not, if the attack met one.
    """

    predicted: int
    radius: float
    norm: Norm
    alpha: float
    method: Method
    class_of: ClassOf
    line: bytes
    robust: PlainNetwork
    standard: PlainNetwork | None
    input: NDArray[np.float32]
    proposed_radius: float
    float32_only: NDArray[np.float32] | None = None
    alpha_network: PlainNetwork | None = None


@dataclass(frozen=True)
class Abstained:
    """No certificate; `advice` says what was found and what would help. `radius`: the one asked for, if one was."""

    predicted: int
    radius: float | None
    norm: Norm
    alpha: float
    method: Method
    class_of: ClassOf
    reason: Reason
    advice: str


@dataclass(frozen=True, eq=False)
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


Outcome = Certified | Abstained | Falsified
