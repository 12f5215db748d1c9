"""Figure 3: certified accuracy over the radius, of mixes and smoothed baselines, from smoothing runs or logs.

Radii in a log come from confidence bounds, which the certificates need, and so do those of an audit; the published
figure took the empirical mean of 10,000 draws as exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.experiments.output import Column, Line, plot, shares, write
from certmix.experiments.smoothing_run import SmoothingRun, of_every_bound, read_run
from certmix.formatting import exact, percent_down
from certmix.records.smoothing_log import accuracy, mix_radii, read_log

NAME = "certified-curves"
TITLES = {
    "theorem_3_5_paper": "Theorem 3.5, constant √(2/πσ²)",
    "theorem_3_5": "Theorem 3.5, constant 1/(σ√(2π))",
    "theorem_3_7": "Theorem 3.7",
    "direct": "direct margin bound",
    "distributional": "distributional margin bound",
    "best": "best bound, chosen beforehand",
}
SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, eq=False)
class Radii:
    """One curve before it is drawn. radius: (N,) certified, of all inputs, ≤ 0 or −∞ where there is no certificate;
    correct: (N,) the class certified is the label. baseline: a smoothed model alone, drawn dashed."""

    name: str
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    baseline: bool

    def at(self, radii: tuple[float, ...]) -> tuple[float, ...]:
        """Percent of inputs that are correct and certified at a radius strictly above each of `radii`."""
        return tuple(accuracy(self.radius, self.correct, r) for r in radii)

    def steps(self) -> tuple[float, ...]:
        """0 and every radius at which `at` falls, increasing: it keeps its value from each of them to the next."""
        return (0.0, *np.unique(self.radius[self.correct & (self.radius > 0)]).tolist())


def of_log(path: str | Path, noise_std: float, alpha: float) -> list[Radii]:
    """The radii of every theorem. alpha = 1 is the smoothed model alone."""
    log = read_log(path, noise_std)
    who = f"baseline, σ {exact(noise_std)}" if alpha == 1 else f"mix, alpha {exact(alpha)}, σ {exact(noise_std)}"
    return [
        Radii(f"{who}: {TITLES[theorem]}", radius, log.correct, alpha == 1)
        for theorem, radius in mix_radii(log, alpha).items()
    ]


def of_run(run: SmoothingRun, all_bounds: bool) -> list[Radii]:
    """The run's certificates; with all_bounds also every bound on the same draws, which are made again."""
    baseline = run.alpha == 1
    who = (
        f"baseline, σ {exact(run.noise_std)}"
        if baseline
        else f"mix, alpha {exact(run.alpha)}, σ {exact(run.noise_std)}"
    )
    curves = [Radii(f"{who}: certificates of {run.path.name}", run.radius, run.correct, baseline)]
    if all_bounds:
        curves += [Radii(f"{who}: {TITLES[b]}", *each, baseline) for b, each in of_every_bound(run).items()]
    return curves


def run(runs: Sequence[Path], all_bounds: bool, logs: Sequence[tuple[Path, float, float]], out: Path) -> None:
    """Draw the curves of smoothing audits and of logs (file, σ, alpha); writes `out`/certified-curves.json and .png.

    Raises UsageError, also where there is nothing to draw.
    """
    if not (runs or logs):
        raise UsageError("nothing to draw: give --run DIR (a smoothing audit), or --log with --noise-std and --alpha")
    sources: list[dict[str, Any]] = []
    curves: list[Radii] = []
    for path in runs:
        run = read_run(path)
        curves += of_run(run, all_bounds)
        sources.append(run.settings())
    for path, noise_std, alpha in logs:
        curves += of_log(path, noise_std, alpha)
        sources.append({"log": str(path), "noise_std": noise_std, "alpha": alpha, "inputs": len(curves[-1].radius)})
    _draw(curves, sources, out)


def _draw(curves: list[Radii], sources: list[dict[str, Any]], out: Path) -> None:
    lines = [Line(c.name, c.steps(), c.at(c.steps()), "--" if c.baseline else "-", steps=True) for c in curves]
    plot(out / f"{NAME}.png", lines, "ℓ2 radius", "certified accuracy (%)", "certified accuracy")
    settings = {
        "sources": sources,
        "curves": [{"name": line.name, "radii": line.x, "accuracy": line.y} for line in lines],
    }
    rows = [[c.name, *c.at(SHOWN)] for c in curves]
    columns = [Column("curve"), *(shares(str(r), percent_down) for r in SHOWN)]
    write(out, NAME, settings, "certified accuracy in percent at radius", columns, rows)
