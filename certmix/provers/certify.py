"""One batch of inputs -> Certified | Abstained | Falsified, each."""

from __future__ import annotations

import dataclasses
import enum
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, checked
from certmix.models.model import Model, about_probabilities, from_module
from certmix.provers.adaptive import adaptive_settings, prove_adaptive
from certmix.provers.limits import with_attacks
from certmix.provers.lipschitz import certify_lipschitz
from certmix.provers.margin.prover import prove_margin
from certmix.provers.problem import ProverProblem
from certmix.provers.refute import refute
from certmix.provers.session import Session, open_session
from certmix.provers.smoothing.prover import prove_smoothing
from certmix.records.outcomes import Method, Outcome, Outcomes
from certmix.settings import Settings
from proofs_check.certificate import Norm

FLOATING = "pixels as integers have no unit here; for the domain [0, 1] divide them by 255"
Prover = Callable[[ProverProblem, Session], list[Outcome]]

PROVERS: dict[Method, Prover] = {
    "margin": prove_margin,
    "lipschitz": certify_lipschitz,
    "smoothing": prove_smoothing,
    "adaptive": prove_adaptive,
}


def prove(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Outcomes of all inputs of `problem`: proven, judged, attacked inside every certified ball and beyond."""
    outcomes = PROVERS[problem.settings.method](problem, session)
    return with_attacks(problem, refute(problem, outcomes))


class Unset(enum.Enum):
    """Stands for an argument that was not given."""

    UNSET = "not given"


UNSET = Unset.UNSET


def certify(
    standard: Model | nn.Module,
    robust: Model | nn.Module,
    x: Tensor | NDArray[Any],
    *,
    alpha: float | Unset = UNSET,
    norm: Norm | float | str | Unset = UNSET,
    radius: float | str | Unset | None = UNSET,
    temperature: float | Unset = UNSET,
    domain: tuple[float, float] | Unset | None = UNSET,
    settings: Settings | None = None,
) -> Outcomes:
    """Certify the mix log((1 - alpha) softmax(standard) + alpha softmax(temperature * robust)) at every input.

    x: (N, *input_shape), a tensor or an array, in raw units; float64 is rounded to float32, and certificates speak of
    the rounded input. norm: Linf (default), L2, L1, or inf, 2, 1. radius: in `norm` and raw units, also "2/255"; None
    (default) for the largest provable, at most the domain's diameter. temperature: default 1. domain: default (0, 1).
    settings: everything else (engine, method, …); what is given beside it must be what it says.

    Ensures: every Certified outcome's line was accepted by the judge; its claim is certificate.Claim. Warns of models
    that give probabilities. Raises UsageError for misuse. Source: Lemma 3.2 of the paper, docs/maths.md 2 and 3.
    """
    given = {"alpha": alpha, "norm": norm, "radius": radius, "temperature": temperature, "domain": domain}
    call_settings = merge({name: value for name, value in given.items() if value is not UNSET}, settings)
    inputs = as_inputs(x, robust.input_shape if isinstance(robust, Model) else None)
    shape = tuple(inputs.shape[1:])
    smoothed = call_settings.method == "smoothing"  # its claims can name any model by a file
    named = smoothed and call_settings.use_standard, smoothed
    g, h = (
        m if isinstance(m, Model) else from_module(m, shape, name_it=by_file)
        for m, by_file in zip((standard, robust), named, strict=True)
    )
    count = len(inputs)
    problem = ProverProblem(g, h, inputs, tuple(range(count)), (-1,) * count, call_settings)
    for text in about_probabilities({g.named("standard"): g.module, h.named("robust"): h.module}, inputs):
        warnings.warn(text, stacklevel=2)
    return Outcomes(prove(problem, open_session(problem)))


def certify_adaptive(
    standard: Model, robust: Model, x: Tensor | NDArray[Any], mix: AdaptiveMix, settings: Settings
) -> Outcomes:
    """Certify a mix whose alpha depends on the input, or whose robust logits are transformed, at every input.

    x: as for `certify`. settings.alpha: that of the mix; where it depends on the input it is not read. Ensures: every
    Certified outcome's line was accepted by the judge; its claim is certificate.Claim, whose alpha is a lower bound of
    alpha(x') on the ball. Raises UsageError for misuse. Source: docs/maths.md 8.
    """
    checked(robust.input_shape, robust.classes, mix)
    inputs = as_inputs(x, robust.input_shape)
    count, mix_settings = len(inputs), adaptive_settings(mix, settings)
    problem = ProverProblem(standard, robust, inputs, tuple(range(count)), (-1,) * count, mix_settings, adaptive=mix)
    return Outcomes(prove(problem, open_session(problem)))


def merge(given: dict[str, Any], settings: Settings | None) -> Settings:
    """The settings of a call: `settings`, or the arguments given. Raises UsageError where the two say different."""
    if settings is None:
        if "alpha" not in given:
            raise UsageError("alpha is missing: pass alpha, or settings")
        return Settings(**given)
    asked = dataclasses.replace(settings, **given)
    for name in given:
        argument, setting = getattr(asked, name), getattr(settings, name)
        if argument != setting:
            raise UsageError(f"{name} is given twice, {argument} and settings.{name} = {setting}: leave one out")
    return settings


def as_inputs(x: Tensor | NDArray[Any], input_shape: tuple[int, ...] | None = None) -> Tensor:
    """(N, …) float32 on the CPU from a tensor or array of floating point numbers, float64 rounded to float32.

    input_shape: the model's, if known. Raises UsageError: another dtype, no batch axis, no entries."""
    if isinstance(x, np.ndarray):
        if x.dtype.kind != "f":
            raise UsageError(f"x has dtype {x.dtype}, needs float32 in raw units: {FLOATING}")
        with np.errstate(over="ignore"):
            x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if not isinstance(x, Tensor):
        raise UsageError(f"x must be a tensor or a NumPy array, got {type(x).__name__}")
    if not x.is_floating_point():
        raise UsageError(f"x has dtype {x.dtype}, needs float32 in raw units: {FLOATING}")
    shape = tuple(x.shape)
    if input_shape is not None and shape == input_shape and shape[1:] != input_shape:
        raise UsageError(f"x of shape {shape} is one input without a batch axis: pass x[None]")
    if x.ndim < 2 or len(x) == 0:
        raise UsageError(f"x must be a batch (N, …) with N >= 1, got shape {shape}")
    return x.detach().to("cpu", torch.float32)
