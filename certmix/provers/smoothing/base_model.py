"""From a problem's settings to the base model and the noise of its smoothing, or a UsageError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, cast

from certmix.errors import UsageError
from certmix.models.runtime import differentiable
from certmix.provers.problem import ProverProblem
from certmix.provers.smoothing import plan as planning
from certmix.settings import Settings, choose
from verifiers.norms import NORMS
from verifiers.smoothing import confidence, sampling
from verifiers.smoothing.sampling import Base, GridNoise

T = TypeVar("T")


def check(problem: ProverProblem) -> None:
    """Raise UsageError where these settings can never certify, or the models do not fit them."""
    s = problem.settings
    choose("bound", s.smoothing.bound, planning.BOUNDS)
    choose("base", s.smoothing.base, ("soft", "hard"))
    choose("precision", s.smoothing.precision, ("float32", "bfloat16"))
    if not NORMS[s.norm].euclidean:
        raise UsageError(f"Gaussian smoothing certifies l2 balls: pass norm L2, got {s.norm}")
    if s.semantics != "real":
        raise UsageError(f"smoothing certifies the real semantics only, got {s.semantics}")
    for model in (problem.robust, *([problem.standard] if s.use_standard else [])):
        if s.smoothing.precision != "float32" and not differentiable(model.module):
            raise UsageError(
                f"{model.source} runs in onnxruntime, as it is ({model.no_network}): leave out precision "
                f"{s.smoothing.precision}"
            )
    if s.use_standard and s.smoothing.bound not in planning.MIX_BOUNDS:
        raise UsageError(
            f"both networks smoothed: bound must be one of {', '.join(planning.MIX_BOUNDS)}, got {s.smoothing.bound}"
        )
    if not s.smoothing.looks:
        _check_any_time(s)
    share = s.smoothing.failure_probability / max(1, len(s.smoothing.looks))
    if s.alpha > 0.5:
        needed = confidence.samples_needed(s.alpha, share)
        if s.smoothing.samples < needed:
            raise UsageError(
                f"samples = {s.smoothing.samples} cannot certify anything at alpha {s.alpha} and failure_probability "
                f"{s.smoothing.failure_probability}: take at least {needed}"
            )


def _check_any_time(s: Settings) -> None:
    if s.radius is None:
        raise UsageError("looks any stops where a radius is reached: give the radius, or leave looks out")
    if s.smoothing.bound not in ("best", "direct"):
        raise UsageError(f"looks any counts means: bound must be best or direct, got {s.smoothing.bound}")


def noise_of(problem: ProverProblem) -> GridNoise:
    """The settings' noise, on the settings' grid."""
    s = problem.settings.smoothing
    return usable(lambda: GridNoise(s.noise_std, s.grid))


def base_of(problem: ProverProblem) -> Base:
    """The base output to smooth: the models as torch modules, on the settings' device."""
    s = problem.settings
    standard = problem.standard.module.to(s.device) if s.use_standard else None
    return Base(
        robust=problem.robust.module.to(s.device),
        kind=cast("Literal['soft', 'hard']", s.smoothing.base),
        temperature=s.temperature,
        standard=standard,
        alpha=s.alpha,
        precision=cast("Literal['float32', 'bfloat16']", s.smoothing.precision),
        device=s.device,
    )


def usable(call: Callable[[], T]) -> T:
    """`call()`, with what the sampler cannot use turned into a UsageError."""
    try:
        return call()
    except sampling.SamplingError as error:
        raise UsageError(str(error)) from error
