"""Certified-accuracy curves of a mix from a smoothed model's certification log: no model and no data needed.

The log is a tab-separated file in the style of Cohen et al. 2019: a header idx label predict radius correct time
and one line per input; radius = σ Φ⁻¹(lower confidence bound of h_y), predict −1 an abstention. Nothing is known of g:
the curves hold for every standard model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from certmix.commands import arguments
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.formatting import exact, lower, percent_down, ratio
from certmix.mixing.parameters import check_alpha

if TYPE_CHECKING:
    from certmix.records.smoothing_log import Log, LogCurve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=file, metavar="LOG.tsv", help="the log")
    parser.add_argument("--noise-std", type=arguments.number, required=True, metavar="S", help="σ of the log")
    parser.add_argument(
        "--alpha", type=arguments.number, required=True, metavar="A", help="weight of the smoothed model"
    )
    parser.add_argument("--radii", type=arguments.number, nargs="+", metavar="R", help="radii of the table's columns")
    parser.add_argument("--json", type=file, metavar="FILE", help="write the figures there too")


def run(options: argparse.Namespace) -> int:
    from certmix.records.smoothing_log import RADII, curves, read_log

    alpha = check_alpha(options.alpha)
    if alpha <= 0.5:
        raise UsageError(f"certificates from a log need alpha > 1/2, got {alpha}")
    radii = tuple(options.radii or RADII)
    if any(not (math.isfinite(r) and r >= 0) for r in radii):
        raise UsageError(f"radii must be >= 0 and finite, got {list(radii)}")
    log = read_log(options.log, options.noise_std)
    log_curves = curves(log, alpha, radii)
    _show(log, alpha, radii, log_curves)
    if options.json:
        bounds = {name: dataclasses.asdict(curve) for name, curve in log_curves.items()}
        record = {"log": log.source, "noise_std": log.noise_std, "alpha": alpha, "radii": radii, "bounds": bounds}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _show(log: Log, alpha: float, radii: tuple[float, ...], found: dict[str, LogCurve]) -> None:
    from rich.console import Console
    from rich.table import Table

    from certmix.reports.tables import print_table

    mix = f"alpha {exact(alpha)}, noise {exact(log.noise_std)}"
    title = f"certified accuracy (%) of the mix, {mix}, {len(log.radius)} inputs"
    table = Table(title=title, padding=(0, 0), pad_edge=False)
    for heading in ("bound", *map(exact, radii), "largest radius"):
        table.add_column(heading, justify="left" if heading == "bound" else "right", no_wrap=True)
    for name, curve in found.items():
        largest = "none" if curve.largest is None else lower(curve.largest, 4)
        table.add_row(name, *(percent_down(*ratio(share)) for share in curve.accuracy), largest)
    console = Console()
    print_table(console, table)
    digits, decimals = log.precision.significant, log.precision.decimals
    console.print(
        f"radii are read as printed with {digits} significant digits or {decimals} decimals, whichever is coarser, "
        "zeros at the end dropped"
    )
    console.print("all figures rest on the log's word for its radii, and are floats that no judge has proven")
    console.print(f"{int(np.isinf(log.radius).sum())} abstentions of the smoothed model count as not certified")
