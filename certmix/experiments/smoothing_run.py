"""A finished audit with randomised smoothing, as certified-curves reads it: radii, classes, and other bounds again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.provers.judging import judge_session
from certmix.provers.problem import ProverProblem
from certmix.provers.smoothing.evaluation import compare, mix_predictions
from certmix.provers.smoothing.plan import Bound
from certmix.runs.finished import open_inputs
from certmix.runs.store import FINAL, Store

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
CLEAN_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class SmoothingRun:
    """radius: (N,) certified radii of all inputs, −∞ where there is no certificate. correct: (N,) the predicted class
    of the line is the label."""

    path: Path
    alpha: float
    noise_std: float
    radius: Array
    correct: Flags

    def settings(self) -> dict[str, Any]:
        """What the experiment's JSON says of it."""
        return {
            "run": str(self.path),
            "noise_std": self.noise_std,
            "alpha": self.alpha,
            "inputs": len(self.radius),
            "certified": int(np.isfinite(self.radius).sum()),
        }


def read_run(path: Path) -> SmoothingRun:
    """The finished run in `path`. Raises UsageError: no finished run, not smoothing, or audited at one radius."""
    store = Store(path)
    try:
        settings = json.loads((path / "run.json").read_bytes())["settings"]
        method, radius, alpha = settings["method"], settings["radius"], float(settings["alpha"])
        noise_std = float(settings["smoothing"]["noise_std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no run of certmix audit: {error!r}") from None
    if method != "smoothing":
        raise UsageError(f"{path} is a run with --method {method}: certified curves need --method smoothing")
    if radius is not None:
        raise UsageError(f"{path} was audited at the one radius {radius}: a curve needs an audit without --radius")
    if not (path / FINAL).exists():
        raise UsageError(f"{path} holds an unfinished audit: run certmix audit again to go on")
    lines = list(store.lines())
    radii = [line["radius"] if line["outcome"] == "certified" else -np.inf for line in lines]
    correct = np.array([line["predicted"] == line["label"] for line in lines], dtype=np.bool_)
    return SmoothingRun(path, alpha, noise_std, np.array(radii, dtype=np.float64), correct)


def of_every_bound(run: SmoothingRun) -> dict[Bound, tuple[Array, Flags]]:
    """(radius, correct) of every bound. The run's own draws are repeated: they depend on its seed alone.

    Correctness is that of the run: all bounds speak of the class that the selection draws named.
    """
    problem = _problem(run)
    input_radii = compare(problem, judge_session(problem.stated, problem.stated_standard))
    return {bound: (np.array([row[bound] for row in input_radii]), run.correct) for bound in input_radii[0]}


def estimated_clean_accuracy(run: SmoothingRun) -> float:
    """Percent of inputs that the mix gets right, h estimated by `CLEAN_DRAWS` draws of their own."""
    problem = _problem(run)
    return 100.0 * float(np.mean(mix_predictions(problem, CLEAN_DRAWS) == np.array(problem.labels)))


def _problem(run: SmoothingRun) -> ProverProblem:
    settings, standard, robust, data = open_inputs(run.path)
    inputs = torch.from_numpy(np.ascontiguousarray(data.inputs))
    labels = tuple(int(v) for v in data.labels)
    return ProverProblem(standard, robust, inputs, tuple(range(len(labels))), labels, settings)
