"""Figure 3: certified accuracy over the radius, of mixes and smoothed baselines, from smoothing runs or logs.

Radii in a log come from confidence bounds, which the certificates need, and so do those of an audit; the published
figure took the empirical mean of 10,000 draws as exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.experiments.match_clean import covered, matching_alpha, read_predictions
from certmix.experiments.output import COLORS, Column, Line, Mark, Panel, plot, say, shares, write
from certmix.experiments.smoothing_run import SmoothingRun, estimated_clean_accuracy, of_every_bound, read_run
from certmix.formatting import exact, percent_down, percent_nearest, ratio
from certmix.records.smoothing_log import Log, accuracy, mix_radii, read_log

NAME = "certified-curves"
BASELINE = "baseline"  # a smoothed model alone, drawn dashed
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
    """One curve before it is drawn. source, bound: whose radii, by which bound. radius: (N,) certified, of all inputs,
    ≤ 0 or −∞ where there is no certificate; correct: (N,) the class certified is the label."""

    source: str
    bound: str
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @property
    def name(self) -> str:
        return f"{self.source}: {self.bound}"

    def at(self, radii: tuple[float, ...]) -> tuple[float, ...]:
        """Percent of inputs that are correct and certified at a radius strictly above each of `radii`."""
        return tuple(accuracy(self.radius, self.correct, r) for r in radii)

    def steps(self) -> tuple[float, ...]:
        """0 and every radius at which `at` falls, increasing: it keeps its value from each of them to the next."""
        return (0.0, *np.unique(self.radius[self.correct & (self.radius > 0)]).tolist())


@dataclass(frozen=True)
class Curve:
    """One curve as it is drawn: source and bound as of `Radii`, its steps and what it is from each on."""

    source: str
    bound: str
    radii: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def baseline(self) -> bool:
        return self.source.startswith(BASELINE)

    @staticmethod
    def named(name: str, radii: Sequence[float], accuracy: Sequence[float]) -> Curve:
        """From what the JSON file says of it."""
        source, bound = name.split(": ", 1)
        return Curve(source, bound, tuple(radii), tuple(accuracy))


@dataclass(frozen=True)
class LogSource:
    """A certification log with its σ, in a mix at `alpha`; 1: the smoothed model alone."""

    path: Path
    noise_std: float
    alpha: float


def of_log(log: Log, alpha: float) -> list[Radii]:
    """The radii of every theorem. alpha = 1 is the smoothed model alone."""
    source = _who(alpha, log.noise_std)
    radii = mix_radii(log, alpha)
    return [Radii(source, TITLES[theorem], radius, log.correct) for theorem, radius in radii.items()]


def of_run(run: SmoothingRun, all_bounds: bool) -> list[Radii]:
    """The run's certificates; with all_bounds also every bound on the same draws, which are made again."""
    source = f"{_who(run.alpha, run.noise_std)} ({run.path.name})"
    curves = [Radii(source, "certificates of the audit", run.radius, run.correct)]
    if all_bounds:
        curves += [Radii(source, TITLES[b], *each) for b, each in of_every_bound(run).items()]
    return curves


def _who(alpha: float, noise_std: float) -> str:
    sigma = f"σ {exact(noise_std)}"
    return f"{BASELINE}, {sigma}" if alpha == 1 else f"mix, α {exact(alpha)}, {sigma}"


def _short(source: str) -> str:
    """Without the run's folder, for a legend."""
    return source.split(" (")[0]


def run(runs: Sequence[Path], all_bounds: bool, logs: Sequence[LogSource], predictions: Path | None, out: Path) -> None:
    """Draw the curves of smoothing audits and of logs; writes `out`/certified-curves.json and .png.

    predictions: g's, for the alpha of the first log at which its clean accuracy is the second's (match_clean); only the
    inputs that these cover count. Raises UsageError, also where there is nothing to draw.
    """
    if not (runs or logs):
        raise UsageError("nothing to draw: give --run DIR (a smoothing audit), or --log with --noise-std and --alpha")
    sources: list[dict[str, Any]] = []
    curves: list[Radii] = []
    clean: dict[str, float] = {}
    for path in runs:
        run = read_run(path)
        curves += of_run(run, all_bounds)
        sources.append(run.settings())
        if all_bounds:
            clean[curves[-1].source] = estimated_clean_accuracy(run)
    read = [read_log(one.path, one.noise_std) for one in logs]
    alphas = [one.alpha for one in logs]
    if predictions is not None:
        g = read_predictions(predictions)
        read = [covered(log, g) for log in read]
        alphas[0], of_mix, of_baseline = matching_alpha(read[0], g, read[1])
        clean[_who(alphas[0], read[0].noise_std)] = of_mix
        clean[_who(1.0, read[1].noise_std)] = of_baseline
    for log, alpha in zip(read, alphas, strict=True):
        curves += of_log(log, alpha)
        if alpha == 1:
            clean[curves[-1].source] = 100.0 * float(log.correct.mean())
        about = {"log": log.source, "noise_std": log.noise_std, "alpha": alpha, "inputs": len(log.radius)}
        sources.append(about if predictions is None else {**about, "standard_predictions": str(predictions)})
    drawn = [Curve(c.source, c.bound, c.steps(), c.at(c.steps())) for c in curves]
    draw(drawn, clean, out / f"{NAME}.png")
    settings = {
        "sources": sources,
        "clean_accuracy": clean,
        "curves": [{"name": f"{c.source}: {c.bound}", "radii": c.radii, "accuracy": c.accuracy} for c in drawn],
    }
    rows = [[c.name, *c.at(SHOWN)] for c in curves]
    columns = [Column("curve"), *(shares(str(r), percent_down) for r in SHOWN)]
    for source, accuracy_ in clean.items():
        say(f"clean accuracy, {source}: {percent_nearest(*ratio(accuracy_))} %")
    write(out, NAME, settings, "certified accuracy in percent at radius", columns, rows)


def draw(curves: Sequence[Curve], clean: Mapping[str, float], path: Path) -> None:
    """Colours tell bounds, dashes whose they are. At radius 0 stand clean accuracy, filled, and, empty, what the curve
    begins with where that is less: an h that is wrong certifies nothing, though the mix may be right."""
    bounds = list(dict.fromkeys(c.bound for c in curves))
    owners = {c.source: "--" if c.baseline else "-" for c in curves}
    lines = [Line(_short(source), (), (), style, color="gray") for source, style in owners.items()]
    marks: list[Mark] = []
    for c in curves:
        color = COLORS[bounds.index(c.bound) % len(COLORS)]
        lines.append(Line(c.bound, c.radii, c.accuracy, owners[c.source], steps=True, color=color))
        if c.source not in clean or clean[c.source] > c.accuracy[0]:
            marks.append(Mark("", 0.0, c.accuracy[0], color=color, filled=False))
    for source, accuracy_ in clean.items():
        marks.append(Mark(f"clean: {_short(source)}", 0.0, accuracy_, "D" if owners[source] == "-" else "s"))
    panel = Panel("certified accuracy (%)", tuple(lines), tuple(marks))
    plot(path, [panel], "ℓ2 radius", "certified accuracy over the radius")
