"""One batch of inputs -> Certified | Abstained | Falsified, each."""

from __future__ import annotations

import dataclasses
import enum
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, checked
from certmix.models.model import Model, about_probabilities, from_module
from certmix.models.preprocess import Preprocess
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
    device: str | Unset = UNSET,
    batch_size: int | Unset = UNSET,
    eps: float | str | Unset | None = UNSET,
    bounds: tuple[float, float] | Unset | None = UNSET,
    preprocessing: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> Outcomes:
    """Certify the mix log((1 - alpha) softmax(standard) + alpha softmax(temperature * robust)) at every input.

    x: (N, *input_shape), a tensor or an array, in raw units; float64 is rounded to float32, and certificates speak of
    the rounded input. norm: Linf (default), L2, L1, or inf, 2, 1. radius: in `norm` and raw units, also "2/255"; None
    (default) for the largest provable, at most the domain's diameter. temperature: default 1. domain: default (0, 1).
    device, batch_size: of the engine, as in Settings. eps: another name of radius; bounds: of domain.
    preprocessing: dict(mean=…, std=…, axis=-3), as foolbox takes it, of both modules; for models that were loaded say
    it where they are loaded. settings: all else (engine, method, …); what is given beside it must be what it says.

    Ensures: every Certified outcome's line was accepted by the judge; its claim is certificate.Claim. Warns of models
    that give probabilities. Raises UsageError for misuse. Source: Lemma 3.2 of the paper, docs/maths.md 2 and 3.
    """
    radius, domain = one_of(radius=radius, eps=eps), one_of(domain=domain, bounds=bounds)
    given = {"alpha": alpha, "norm": norm, "radius": radius, "temperature": temperature, "domain": domain}
    given |= {"device": device, "batch_size": batch_size}
    call_settings = merge({name: value for name, value in given.items() if value is not UNSET}, settings)
    inputs = as_inputs(x, robust.input_shape if isinstance(robust, Model) else None)
    shape = tuple(inputs.shape[1:])
    smoothed = call_settings.method == "smoothing"  # its claims can name any model by a file
    named = smoothed and call_settings.use_standard, smoothed
    front = as_preprocess(preprocessing, shape, standard, robust)
    g, h = (
        m if isinstance(m, Model) else from_module(m, shape, preprocess=front, name_it=by_file)
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


def one_of(**named: Any) -> Any:
    """The value of an argument with two names. Raises UsageError where both are given."""
    given = {name: value for name, value in named.items() if value is not UNSET}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'{n}={v!r}' for n, v in given.items())} are two names of one: leave one out")
    return next(iter(given.values()), UNSET)


def as_preprocess(
    said: Mapping[str, Any] | None, shape: tuple[int, ...], *models: Model | nn.Module
) -> Preprocess | None:
    """dict(mean, std, axis) of modules of inputs (N, *shape). Raises UsageError: other keys, an axis that is not that
    of the channels, models that were loaded and have their first layers already."""
    if said is None:
        return None
    if any(isinstance(m, Model) for m in models):
        raise UsageError("preprocessing is for modules; of a loaded model say preprocess=… where it is loaded")
    if unknown := sorted(set(said) - {"mean", "std", "axis"}):
        raise UsageError(f"preprocessing takes mean, std and axis, got {', '.join(map(repr, unknown))}")
    mean, std = ([float(v) for v in np.ravel(np.asarray(said.get(k, v)))] for k, v in (("mean", 0.0), ("std", 1.0)))
    channels, axis = max(len(mean), len(std)), said.get("axis")
    along = 0 if shape[0] == channels else len(shape) - 1  # as `Preprocess` takes them
    if channels > 1 and axis is not None and axis != along - len(shape):
        raise UsageError(
            f"preprocessing: {channels} numbers along axis {axis} of inputs {shape}, whose channels are "
            f"axis {along - len(shape)}; axes count from the end"
        )
    return Preprocess(tuple(mean), tuple(std))


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
