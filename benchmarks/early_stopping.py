"""How many draws stopping at any of them saves, at equal claims: the smoothed digits model, at a radius asked for.

Usage: early_stopping.py [--limit N] [--samples N]
Three ways to spend the same failure probability: all draws; three looks (a tenth, three tenths, all), which share it;
and any draw, by bets, which may take half as many draws more, for bets prove less where a radius is only just reached.
Prints certified inputs, and draws per input of all inputs, hopeless ones included. Writes a figure for docs.
How bets are made (`confidence.bets_against`, the draws more) was settled on the first 40 digits of the audit's split:
what is measured here are others.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import ROOT, save

from certmix.data.dataset import load_data
from certmix.experiments.output import Line, Panel, plot
from certmix.models.model import load_model
from certmix.provers.judging import judge_session
from certmix.provers.problem import ProverProblem
from certmix.provers.smoothing.prover import SmoothingProver
from certmix.records.outcomes import Certified
from certmix.settings import Settings, SmoothingSettings

FIRST = 100  # of the inputs measured: those before it may have been looked at when bets were settled
DIGITS = ROOT / "examples" / "digits"
RADII = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
WAYS: dict[str, tuple[tuple[float, ...], float]] = {
    "all draws": ((1.0,), 1.0),
    "three looks": ((0.1, 0.3, 1.0), 1.0),
    "any draw": ((), 1.5),
}


class Counted:
    """Draws taken, by what a prover reports: of each stream the number done so far."""

    def __init__(self) -> None:
        self.total = self.last = 0

    def __call__(self, done: int, _: int) -> None:
        self.total += done - (self.last if done > self.last else 0)
        self.last = done


def measure(options: argparse.Namespace, base: str, radius: float, way: str) -> dict[str, Any]:
    looks, more = WAYS[way]
    standard, robust = load_model(DIGITS / "standard.onnx"), load_model(DIGITS / "smoothed.onnx")
    data = load_data(DIGITS / "audit.npz", FIRST + options.limit)
    inputs, classes = data.inputs[FIRST:], data.labels[FIRST:]
    count, samples = len(inputs), round(more * options.samples)
    smoothing = SmoothingSettings(0.5, samples, base=base, bound="direct", looks=looks)
    settings = Settings(0.76, norm="L2", radius=radius, method="smoothing", smoothing=smoothing, seed=1)
    x, labels, places = torch.from_numpy(inputs), tuple(map(int, classes)), tuple(range(FIRST, FIRST + count))
    problem = ProverProblem(standard, robust, x, places, labels, settings)
    counted = Counted()
    outcomes = SmoothingProver.of(problem, judge_session(problem.network, standard.network), counted).prove()
    certified = [n for n, o in enumerate(outcomes) if isinstance(o, Certified)]
    draws = (counted.total - count * smoothing.selection_samples) / count
    print(f"{base}, radius {radius:g}, {way}: {len(certified)} of {count} certified, {draws:.0f} draws per input")
    return {"base": base, "radius": radius, "way": way, "certified": certified, "draws": draws, "inputs": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    rows = [measure(options, base, r, way) for base in ("hard", "soft") for r in RADII for way in WAYS]
    panels = []
    for base in ("hard", "soft"):
        lines = [
            Line(way, RADII, tuple(r["draws"] for r in rows if (r["base"], r["way"]) == (base, way)), style)
            for way, style in zip(WAYS, ("s--", "^-.", "o-"), strict=True)
        ]
        panels.append(
            Panel(f"draws per input, {base} votes" if base == "hard" else "draws per input, soft", tuple(lines))
        )
    path = ROOT / "docs" / "experiments" / "digits" / "early-stopping.png"
    plot(path, panels, "ℓ2 radius asked for", "draws until a radius is certified or given up", columns=3)
    save("early_stopping", rows)


if __name__ == "__main__":
    main()
