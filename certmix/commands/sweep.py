"""Every alpha and temperature from one audit: clean, certified and attacked accuracy, with no new verification.

Reads the bounds that certmix audit kept in DIR/curves (method margin, Lemma 3.2), prints and plots all pairs, and
writes DIR/sweep.json and DIR/sweep.png. "attacked" is an upper limit of robust accuracy: each mix is evaluated on one
common pool of adversarial points. --certify ALPHA,T turns one pair into a run of full certificates in --out.

Exit 0: done. 1: a point of the pool refutes what the bounds say, which must not happen. 2: bad input.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from certmix.commands import arguments
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.runs.store import Store

if TYPE_CHECKING:
    from certmix.runs.finished import FinishedRun

DEFAULT_RADII = (0.25, 0.5, 0.75)  # quantiles of the certified radii


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=file, metavar="DIR", help="a finished audit")
    add_grid(parser)
    parser.add_argument(
        "--radius", metavar="R[,R…]", help="radii to answer for (default: the audit's, or quartiles of its radii)"
    )
    parser.add_argument("--attack-steps", type=int, default=20, metavar="N", help="per point of the pool; 0: no attack")
    parser.add_argument("--certify", metavar="ALPHA,T", help="turn this pair into full certificates, in --out")
    parser.add_argument("--out", type=file, metavar="DIR2", help="new folder for --certify")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """--alpha and --temperature as lists."""
    parser.add_argument(
        "--alpha", default="0.5:1:0.01", metavar="LOW:HIGH:STEP", help="or a list A,A,… (default 0.5:1:0.01)"
    )
    parser.add_argument("--temperature", default="1,2,4,8", metavar="T,T,…", help="(default 1,2,4,8)")


def run(options: argparse.Namespace) -> int:
    from certmix.commands.terminal import Terminal
    from certmix.reports.sweep_tables import plot, show
    from certmix.runs.finished import open_run
    from certmix.runs.from_curves import certify_point
    from certmix.runs.sweep import sweep

    run = open_run(Path(options.folder))
    radii = radii_of(options.radius, run)
    if options.certify is not None:
        alpha, temperature = pair(options.certify)
        given = None if options.radius is None else radii
        return certify_point(run, alpha, temperature, given, Path(arguments.required(options, "out")), Terminal())
    if options.attack_steps < 0:
        raise UsageError(f"--attack-steps must be >= 0, got {options.attack_steps}")
    alphas = arguments.grid(options.alpha, "--alpha", check_alpha)
    temperatures = arguments.grid(options.temperature, "--temperature", check_temperature)
    swept = sweep(run, alphas, temperatures, radii, options.attack_steps)
    record = {"of": str(run.path), "norm": run.settings.norm, "n": len(run.data), "refuted": swept.refuted}
    Store(run.path).write_json("sweep.json", {**record, "points": [asdict(p) for p in swept.points]})
    plot(run.path / "sweep.png", swept.points, run.settings.norm)
    show(swept.points, len(run.data), run.settings.norm)
    for text in swept.refuted:
        print(f"REFUTED: {text}")
    print(f"written to {run.path}: sweep.json, sweep.png")
    return 1 if swept.refuted else 0


# ---------------------------------------------------------------- what was asked


def pair(text: str) -> tuple[float, float]:
    """ALPHA,T."""
    try:
        alpha, temperature = (float(Fraction(part)) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"--certify must be ALPHA,T such as 0.6,4, got {text!r}") from None
    return check_alpha(alpha), check_temperature(temperature)


def radii_of(text: str | None, found: FinishedRun) -> tuple[float, ...]:
    """Those asked for; else the audit's; else quartiles of the radii it certified."""
    if text is not None:
        return arguments.grid(text, "--radius", _radius)
    if found.settings.radius is not None:
        return (found.settings.radius,)
    radii = [r["radius"] for r in found.certified]
    if not radii:
        raise UsageError("the audit certified no radius: say which ones with --radius")
    return tuple(sorted({float(np.quantile(radii, q, method="lower")) for q in DEFAULT_RADII}))


def _radius(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"--radius must be >= 0 and finite, got {value}")
    return value
