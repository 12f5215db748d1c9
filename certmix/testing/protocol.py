"""What a certifier is to the suite: one function, the protocol it answers, the norms it is asked about."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certmix.errors import UsageError

PROTOCOLS: dict[str, str] = {
    "mix": "certify(standard, robust, x, alpha, norm='Linf') -> [radius | None]: on the open ball the mix's strict "
    "argmax is the one at x; optional keywords temperature, domain, radius",
    "robust": "certify(robust, x, norm='Linf') -> [radius | None]: the same for the robust classifier alone",
    "logits": "bounds(robust, x, radius, norm='Linf') -> (lower, upper), (N, K) each: of the logits on the ball",
    "probabilities": "bounds(robust, x, radius, norm='Linf') -> (lower, upper), (N, K) each: of softmax(logits)",
    "lipschitz": "constants(robust, x, radius, norm='Linf') -> (N, K): "
    "|softmax_i(x') - softmax_i(x)| <= L_i |x' - x| on the ball",
    "counts": "certify(selection, counts, alpha, noise_std=…, failure_probability=…) -> [(class, radius) | None]: "
    "l2 radius of the mix with the smoothed classifier from two (N, K) tables of votes",
    "smoothed": "certify(base, x, alpha, noise_std=…, failure_probability=…) -> [(class, radius) | None]: the same, "
    "drawing its own votes of `base`",
}
OPTIONAL = ("temperature", "domain", "radius", "norm", "noise_std", "failure_probability")


class ProtocolError(UsageError):
    """The certifier answered something that its protocol does not allow: the suite cannot run."""


@dataclass(frozen=True)
class Certifier:
    """`function` answers `protocol`; `accepts`: the optional keywords it takes; `demands`: those without default.

    tolerance: answers are weakened by this relative amount before they are judged. 0 (the default) counts rounding
    errors as the lies they are; 1e-6 lets certifiers pass that round without care but are right otherwise.
    """

    name: str
    function: Callable[..., Any]
    protocol: str
    norms: tuple[str, ...]
    accepts: frozenset[str]
    demands: frozenset[str]
    tolerance: float = 0.0

    def takes(self, keyword: str) -> bool:
        """Whether the function has this optional keyword."""
        return keyword in self.accepts


def certifier(
    function: Callable[..., Any],
    name: str = "",
    protocol: str | None = None,
    norms: Sequence[str] | None = None,
    tolerance: float = 0.0,
) -> Certifier:
    """Describe a function to the suite.

    protocol and norms default to the function's attributes `certmix_protocol` and `certmix_norms`, then to "mix"
    and Linf, L2, L1. Raises UsageError for an unknown protocol or something that is not callable.
    """
    protocol = protocol or getattr(function, "certmix_protocol", "mix")
    norms = tuple(norms or getattr(function, "certmix_norms", ("Linf", "L2", "L1")))
    name = name or getattr(function, "__name__", type(function).__name__)
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    if not callable(function):
        raise UsageError(f"{name} is not callable: a certifier is a function, {PROTOCOLS[protocol]}")
    parameters = inspect.signature(function).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    accepts = {p.name for p in parameters} if not anything else set(OPTIONAL)
    demands = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return Certifier(name, function, protocol, norms, frozenset(accepts & set(OPTIONAL)), frozenset(demands), tolerance)


def load(
    spec: str, protocol: str | None = None, norms: Sequence[str] | None = None, tolerance: float = 0.0
) -> Certifier:
    """The certifier named "module:function" (the function may be a dotted path inside the module).

    Raises UsageError, naming the part that is missing, where it cannot be imported.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise UsageError(f"--certifier must be module:function, got {spec!r}")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise UsageError(f"module {module_name!r} has no {path!r}")
        target = getattr(target, part)
    return certifier(target, spec, protocol, norms, tolerance)


def radii(answer: object, count: int) -> list[float | None]:
    """An answer as radii, one per input. NaN stays NaN (it claims nothing; a quality law names it).

    Raises ProtocolError unless it is a sequence of `count` numbers or Nones.
    """
    entries = _sequence(answer, count, "a radius (float) or None per input")
    return [_number(entry) for entry in entries]


def selections(answer: object, count: int) -> list[tuple[int, float] | None]:
    """An answer of the smoothing protocols, one (class, radius) or None per row."""
    entries = _sequence(answer, count, "a pair (class, radius) or None per row")
    result: list[tuple[int, float] | None] = []
    for entry in entries:
        if entry is None:
            result.append(None)
            continue
        if not isinstance(entry, Sequence) or len(entry) != 2:
            raise ProtocolError(f"an answer must be (class, radius) or None, got {entry!r}")
        radius = _number(entry[1])
        result.append(None if radius is None else (int(entry[0]), radius))
    return result


def table(answer: object, shape: tuple[int, ...]) -> np.ndarray:
    """An answer that is a (N, K) table, as float64. Raises ProtocolError for another shape."""
    array = np.asarray(_plain(answer), np.float64)
    if array.shape != shape:
        raise ProtocolError(f"expected a table of shape {shape}, got {array.shape}")
    return array


def _plain(answer: Any) -> Any:
    """Tensors as numpy arrays; everything else unchanged."""
    return answer.detach().cpu().double().numpy() if hasattr(answer, "detach") else answer


def _sequence(answer: Any, count: int, what: str) -> list[Any]:
    answer = _plain(answer)
    if isinstance(answer, (str, bytes)) or not hasattr(answer, "__len__") or not hasattr(answer, "__getitem__"):
        raise ProtocolError(f"the certifier must return {what}, got {type(answer).__name__}")
    if len(answer) != count:
        raise ProtocolError(
            f"the certifier was given {count} inputs and must return as many answers, got {len(answer)}"
        )
    return list(answer)


def _number(entry: Any) -> float | None:
    if entry is None:
        return None
    if isinstance(entry, (bool, str, bytes)):
        raise ProtocolError(f"a radius must be a number or None, got {entry!r}")
    try:
        return float(entry)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a radius must be a number or None, got {entry!r}") from error


def claimed(radius: float | None) -> bool:
    """Whether a radius claims anything: the open ball of radius 0 is empty, NaN is no radius."""
    return radius is not None and not math.isnan(radius) and radius > 0
