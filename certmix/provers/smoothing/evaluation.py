"""All smoothing bounds side by side on the same draws, and the mix as it would be deployed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.provers.judging import JudgeSession
from certmix.provers.problem import ProverProblem
from certmix.provers.smoothing import plan as planning
from certmix.provers.smoothing.base_model import base_of, noise_of
from certmix.provers.smoothing.plan import Bound
from certmix.provers.smoothing.prover import Progress, SmoothingProver
from verifiers.smoothing import sampling
from verifiers.smoothing.sampling import Job

ESTIMATION_STAGE = 2  # of the draws behind mix_predictions


def compare(problem: ProverProblem, judge: JudgeSession, progress: Progress | None = None) -> list[dict[Bound, float]]:
    """The radius of every bound, per input, all from the same draws; 0 where a bound certifies nothing.

    Each number holds with the whole failure probability on its own; the best of a row does not, except "best",
    which was chosen on the selection draws.
    """
    prover = SmoothingProver.of(problem, judge, progress)
    if prover.any_time:
        raise UsageError("bounds are compared at equal draws: looks any does not go with that, leave it out")
    bounds = planning.MIX_BOUNDS if problem.settings.use_standard else planning.BOUNDS
    tallies = prover.select(bounds)
    draws = prover.looks[-1]
    prover.count(tallies, 0, draws)
    return [
        {bound: max(0.0, prover.radius(tally, k, prover.lower(tally, k, draws))) for k, bound in enumerate(bounds)}
        for tally in tallies
    ]


def mix_predictions(problem: ProverProblem, draws: int) -> NDArray[np.int64]:
    """Classes (N,) of the deployable mix: g(x) itself with h(x) estimated by the mean of `draws` draws.

    An evaluation: the estimate may differ from the exact h of the certificates where their classes are close. The
    draws are a third stream, independent of selection and certification.
    """
    if draws < 1:
        raise UsageError(f"draws must be >= 1, got {draws}")
    s = problem.settings
    noise = noise_of(problem)
    base = base_of(problem)
    centres = sampling.grid_points(problem.inputs.numpy(), noise.grid)
    jobs = [Job(batch_index, index, 0, draws) for batch_index, index in enumerate(problem.indices)]
    total = np.zeros((len(jobs), problem.robust.classes))
    batch = s.smoothing.draw_batch
    for part, outputs in sampling.sample(base, noise, centres, jobs, s.seed, ESTIMATION_STAGE, batch):
        total[part.row] += sampling.on_processor(outputs).sum(axis=0)
    mean = total / draws
    if not s.use_standard:
        with torch.no_grad():
            g = problem.standard.module(problem.inputs.to(s.device)).double().cpu().numpy()
        mean = (1 - s.alpha) * sampling.softmax(g) + s.alpha * mean
    return mean.argmax(axis=1)
