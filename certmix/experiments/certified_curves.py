"""Figure 3: certified accuracy over the radius, of mixes and smoothed baselines, from smoothing runs or logs.

Radii in a log come from confidence bounds, which the certificates need, and so do those of an audit; the published
figure took the empirical mean of 10,000 draws as exact.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.commands import arguments
from certmix.commands.certify_log import accuracy, mix_radii, read_log
from certmix.errors import UsageError
from certmix.experiments.output import Column, Line, plot, shares, write
from certmix.experiments.smoothing_run import SmoothingRun, of_every_bound, read_run
from certmix.formatting import exact, percent_down
from certmix.mixing.mixed import check_alpha

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
        Radii(f"{who}: {TITLES[theorem]}", found, log.correct, alpha == 1)
        for theorem, found in mix_radii(log, alpha).items()
    ]


def of_run(run: SmoothingRun, all_bounds: bool) -> list[Radii]:
    """The run's certificates; with all_bounds also every bound on the same draws, which are made again."""
    baseline = run.alpha == 1
    who = (
        f"baseline, σ {exact(run.noise_std)}"
        if baseline
        else f"mix, alpha {exact(run.alpha)}, σ {exact(run.noise_std)}"
    )
    found = [Radii(f"{who}: certificates of {run.path.name}", run.radius, run.correct, baseline)]
    if all_bounds:
        found += [Radii(f"{who}: {TITLES[b]}", *each, baseline) for b, each in of_every_bound(run).items()]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("certified-curves: of runs, of logs, or of both")
    number = arguments.number
    group.add_argument("--run", nargs="+", metavar="DIR", help="folders of certmix audit --method smoothing")
    group.add_argument("--all-bounds", action="store_true", help="of the runs: draw again, for every bound's curve")
    group.add_argument("--log", metavar="H.tsv", help="certification log of the smoothed h in the mix")
    group.add_argument("--noise-std", type=number, metavar="S", help="σ of that log")
    group.add_argument("--alpha", type=number, metavar="A", help="weight of h in the mix, > 1/2")
    group.add_argument("--baseline-log", metavar="B.tsv", help="log of a smoothed baseline to compare with (optional)")
    group.add_argument("--baseline-noise-std", type=number, metavar="S")


def run(options: argparse.Namespace, out: Path) -> None:
    folder = Path(options.config).parent if options.config else None
    if not (options.run or options.log or options.baseline_log):
        raise UsageError("nothing to draw: give --run DIR (a smoothing audit), or --log with --noise-std and --alpha")
    sources: list[dict[str, Any]] = []
    curves: list[Radii] = []
    for given in options.run or ():
        found = read_run(_path(given, folder))
        curves += of_run(found, options.all_bounds)
        sources.append(found.settings())
    for path, noise_std, alpha in _logs(options, folder):
        curves += of_log(path, noise_std, alpha)
        sources.append({"log": str(path), "noise_std": noise_std, "alpha": alpha, "inputs": len(curves[-1].radius)})
    _draw(curves, sources, out)


def _logs(options: argparse.Namespace, folder: Path | None) -> list[tuple[Path, float, float]]:
    """(file, σ, alpha) of the mix's log and of the baseline's."""
    logs: list[tuple[Path, float, float]] = []
    if options.log:
        alpha = check_alpha(arguments.required(options, "alpha"))
        if alpha <= 0.5:
            raise UsageError(f"certificates from a log need alpha > 1/2, got {alpha}")
        logs.append((_path(options.log, folder), arguments.required(options, "noise_std"), alpha))
    if options.baseline_log:
        std = arguments.required(options, "baseline_noise_std")
        logs.append((_path(options.baseline_log, folder), std, 1.0))
    return logs


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


def _path(given: str, folder: Path | None) -> Path:
    """A path from a configuration file is relative to that file."""
    path = Path(given)
    return folder / path if folder is not None and not path.is_absolute() and (folder / path).exists() else path
