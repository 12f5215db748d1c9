"""Figure 3: certified accuracy over the radius, of a mix and of a smoothed baseline, from certification logs.

Radii in a log come from confidence bounds, which the certificates need; the published figure took the empirical
mean of 10,000 draws as exact.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certmix import arguments
from certmix.certify_log import Log, accuracy, mix_radii, read_log
from certmix.errors import UsageError
from certmix.experiments.output import Line, plot, write
from certmix.mixing import check_alpha

NAME = "certified-curves"
TITLES = {
    "theorem_3_5_paper": "Theorem 3.5, constant √(2/πσ²)",
    "theorem_3_5": "Theorem 3.5, constant 1/(σ√(2π))",
    "theorem_3_7": "Theorem 3.7",
    "direct": "direct margin bound",
}
POINTS = 41


@dataclass(frozen=True)
class CertifiedCurve:
    """accuracy[k] percent of inputs: correct and certified at a radius strictly above radii[k]."""

    name: str
    radii: tuple[float, ...]
    accuracy: tuple[float, ...]


def measure(log: Log, alpha: float, name: str, radii: tuple[float, ...]) -> list[CertifiedCurve]:
    """The curve of every theorem. alpha = 1 is the smoothed model alone."""
    return [
        CertifiedCurve(f"{name}: {TITLES[theorem]}", radii, tuple(accuracy(found, log.correct, r) for r in radii))
        for theorem, found in mix_radii(log, alpha).items()
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("certified-curves")
    number = arguments.number
    group.add_argument("--log", metavar="H.tsv", help="certification log of the smoothed h in the mix")
    group.add_argument("--noise-std", type=number, metavar="S", help="σ of that log")
    group.add_argument("--alpha", type=number, metavar="A", help="weight of h in the mix, > 1/2")
    group.add_argument("--baseline-log", metavar="B.tsv", help="log of a smoothed baseline to compare with (optional)")
    group.add_argument("--baseline-noise-std", type=number, metavar="S")


def run(options: argparse.Namespace, out: Path) -> None:
    alpha = check_alpha(arguments.required(options, "alpha"))
    if alpha <= 0.5:
        raise UsageError(f"certificates from a log need alpha > 1/2, got {alpha}")
    folder = Path(options.config).parent if options.config else None
    log = read_log(_path(arguments.required(options, "log"), folder), arguments.required(options, "noise_std"))
    logs = [(log, alpha, f"mix, alpha {alpha:g}, σ {log.noise_std:g}")]
    if options.baseline_log:
        std = arguments.required(options, "baseline_noise_std")
        logs.append((read_log(_path(options.baseline_log, folder), std), 1.0, f"baseline, σ {std:g}"))
    reach = max(float(np.max(np.where(np.isfinite(found.radius), found.radius, 0))) for found, _, _ in logs)
    radii = tuple(float(r) for r in np.linspace(0, reach, POINTS))
    curves = [curve for each in logs for curve in measure(*each, radii)]
    lines = [Line(c.name, c.radii, c.accuracy, "-" if c.name.startswith("mix") else "--") for c in curves]
    plot(out / f"{NAME}.png", lines, "ℓ2 radius", "certified accuracy (%)", "certified accuracy, any standard model")
    shown = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    rows = [[curve.name, *curve.accuracy] for each in logs for curve in measure(*each, shown)]
    settings = {
        "alpha": alpha,
        "logs": [{"file": f.source, "noise_std": f.noise_std, "inputs": len(f.radius)} for f, _, _ in logs],
        "curves": [{"name": c.name, "radii": c.radii, "accuracy": c.accuracy} for c in curves],
    }
    write(out, NAME, settings, "certified accuracy in percent at radius", ("curve", *map(str, shown)), rows)


def _path(given: str, folder: Path | None) -> Path:
    """A path from a configuration file is relative to that file."""
    path = Path(given)
    return folder / path if folder is not None and not path.is_absolute() and (folder / path).exists() else path
