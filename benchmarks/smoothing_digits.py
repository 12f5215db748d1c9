"""All smoothing bounds on the digits example, from the same draws: (5b), (5a), Theorems 3.7 and 3.5; soft and hard.

Usage: smoothing_digits.py [--limit N] [--samples N] [--noise-std S] [--alpha A …]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import ROOT, save

from certmix.data.dataset import load_data
from certmix.models.model import load_model
from certmix.provers.judging import judge_session
from certmix.provers.problem import ProverProblem
from certmix.provers.smoothing.evaluation import compare, mix_predictions
from certmix.provers.smoothing.plan import BOUNDS, MIX_BOUNDS
from certmix.settings import Settings, SmoothingSettings

DIGITS = ROOT / "examples" / "digits"


def radii(options: argparse.Namespace, alpha: float, base: str, both: bool) -> dict[str, object]:
    """Per bound: share of inputs certified (%), mean certified radius over all inputs, and the wins of "best"."""
    standard, robust = load_model(DIGITS / "standard.onnx"), load_model(DIGITS / "smoothed.onnx")
    data = load_data(DIGITS / "audit.npz", options.limit)
    smoothing = SmoothingSettings(noise_std=options.noise_std, samples=options.samples, base=base, grid=256)
    settings = Settings(
        alpha, norm="L2", method="smoothing", domain=(0.0, 1.0), use_standard=both, smoothing=smoothing, seed=1
    )
    labels = tuple(int(v) for v in data.labels)
    problem = ProverProblem(standard, robust, torch.from_numpy(data.inputs), tuple(range(len(data))), labels, settings)
    found = compare(problem, judge_session(problem.network, standard.network))
    clean = float(np.mean(mix_predictions(problem, 100) == data.labels))
    title = "both networks smoothed" if both else "h smoothed, any g"
    print(f"\nalpha {alpha:g}, {base}, {title}: mix correct on {100 * clean:.1f} % (h estimated by 100 draws)")
    figures: dict[str, object] = {"clean accuracy of the mix, h estimated": clean}
    for bound in MIX_BOUNDS if both else BOUNDS:
        values = np.array([row[bound] for row in found])
        figures[bound] = {
            "certified": 100 * float(np.mean(values > 0)),
            "mean radius": float(values.mean()),
            "median radius": float(np.median(values)),
            "largest radius": float(values.max()),
        }
        print(
            f"  {bound:18s} certified {100 * np.mean(values > 0):5.1f} %   mean radius {values.mean():.4f}   "
            f"median {np.median(values):.4f}   largest {values.max():.4f}"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--noise-std", type=float, default=0.5)
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.6, 0.76, 0.9])
    options = parser.parse_args()
    figures = {
        f"alpha {alpha:g}, {base}{', both' if both else ''}": radii(options, alpha, base, both)
        for alpha in options.alpha
        for base, both in (("soft", False), ("hard", False), ("soft", True))
    }
    save("smoothing_digits", {"settings": vars(options), **figures})


if __name__ == "__main__":
    main()
