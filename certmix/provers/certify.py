"""One batch of inputs -> Certified | Abstained | Falsified, each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.model import Model, from_module
from certmix.provers.judging import JudgeSession, judge_session
from certmix.provers.lipschitz import certify_lipschitz
from certmix.provers.margin.prover import prove_margin
from certmix.provers.problem import Problem
from certmix.provers.refute import refute
from certmix.provers.smoothing.prover import prove_smoothing
from certmix.records.outcomes import Method, Outcome
from certmix.settings import Settings
from proofs_check.certificate import Norm

Prover = Callable[[Problem, JudgeSession], list[Outcome]]

PROVERS: dict[Method, Prover] = {
    "margin": prove_margin,
    "lipschitz": certify_lipschitz,
    "smoothing": prove_smoothing,
}


def prove(problem: Problem, judge: JudgeSession) -> list[Outcome]:
    """Outcomes of all inputs of `problem`: proven, judged, and attacked inside every certified ball."""
    outcomes = PROVERS[problem.settings.method](problem, judge)
    return refute(problem, outcomes)


def certify(
    standard: Model | nn.Module,
    robust: Model | nn.Module,
    x: Tensor,
    *,
    alpha: float,
    norm: Norm = "Linf",
    radius: float | None = None,
    temperature: float = 1.0,
    domain: tuple[float, float] | None = (0.0, 1.0),
    settings: Settings | None = None,
) -> list[Outcome]:
    """Certify the mix log((1 - alpha) softmax(standard) + alpha softmax(temperature * robust)) at every input.

    x: (N, *input_shape) float32, raw units. radius: in `norm` and raw units; None for the largest provable, at
    most the domain's diameter. settings: everything else (engine, method, …); if given, it is used alone.

    Ensures: every Certified outcome's line was accepted by the judge; its claim is certificate.Claim.
    Raises UsageError for misuse. Source: Lemma 3.2 of the paper, docs/maths.md 2 and 3.
    """
    if settings is None:
        settings = Settings(alpha, norm=norm, radius=radius, temperature=temperature, domain=domain)
    if x.ndim < 2 or len(x) == 0:
        raise UsageError(f"x must be a batch (N, …) with N >= 1, got shape {tuple(x.shape)}")
    shape = tuple(x.shape[1:])
    g, h = (m if isinstance(m, Model) else from_module(m, shape) for m in (standard, robust))
    count = len(x)
    problem = Problem(g, h, x.detach().to("cpu"), tuple(range(count)), (-1,) * count, settings)
    return prove(problem, judge_session(problem.network, g.network))
