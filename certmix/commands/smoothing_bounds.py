"""Every smoothing bound side by side on the same noise draws, and the accuracy of the mix as it would be deployed.

Each row holds by itself with the whole failure probability; "best" is what an audit would certify. Nothing is
written but the optional figures: certificates come from certmix audit --method smoothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from certmix.commands import arguments
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.formatting import lower, percent_down, percent_nearest
from certmix.records import assumptions

if TYPE_CHECKING:
    from certmix.provers.problem import ProverProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_certification(parser)
    parser.set_defaults(method="smoothing", norm="L2")
    parser.add_argument("--prediction-samples", type=int, default=1000, metavar="N", help="draws of the deployed mix")
    parser.add_argument("--json", type=file, metavar="FILE", help="write all radii there")


def run(options: argparse.Namespace) -> int:
    import torch

    from certmix.models.model import about_probabilities, load_pair
    from certmix.provers.problem import ProverProblem

    settings = arguments.settings(options)
    if settings.method != "smoothing":
        raise UsageError(f"this compares smoothing bounds: leave out --method {settings.method}")
    if settings.alpha <= 0.5 and not settings.use_standard:
        raise UsageError(f"smoothing h alone needs alpha > 1/2, got {settings.alpha}: raise it, or --use-standard")
    files = arguments.required(options, "standard"), arguments.required(options, "robust")
    data = arguments.data(options, settings.domain)
    data.require_labels("the table ends with the share of right answers")
    ends, allowed = arguments.ends(options), options.allow_code
    standard, robust = load_pair(*files, data.inputs.shape[1:], False, ends, allowed)
    data.require(robust.input_shape, robust.classes, settings.domain)
    labels = tuple(int(v) for v in data.labels)
    inputs = torch.from_numpy(np.ascontiguousarray(data.inputs))
    models = {m.named(role): m.module for role, m in (("standard", standard), ("robust", robust))}
    arguments.warn(about_probabilities(models, inputs))
    problem = ProverProblem(standard, robust, inputs, tuple(range(len(data))), labels, settings)
    radii, correct = show_bounds(problem, options.prediction_samples)
    if options.json:
        record = {bound: values.tolist() for bound, values in radii.items()}
        Path(options.json).write_text(json.dumps({"radii": record, "correct": correct.tolist()}) + "\n")
    return 0


def show_bounds(problem: ProverProblem, draws: int) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Print the table of all bounds on the problem's own draws; the radii (N,) per bound, and where the mix, with h
    estimated by `draws` draws, is right."""
    from certmix.provers.judging import judge_session
    from certmix.provers.smoothing.evaluation import compare, mix_predictions

    input_radii = compare(problem, judge_session(problem.stated, problem.stated_standard))
    radii: dict[str, NDArray[np.float64]] = {
        bound: np.array([row[bound] for row in input_radii]) for bound in input_radii[0]
    }
    correct = mix_predictions(problem, draws) == np.array(problem.labels)
    _show(radii, correct, draws)
    return radii, correct


def _show(radii: dict[str, NDArray[np.float64]], correct: NDArray[np.bool_], draws: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from certmix.reports.tables import print_table

    table = Table(title=f"{len(correct)} inputs, the same draws for every bound; radii over all inputs, 0 if none")
    for heading in ("bound", "certified %", "mean radius", "median", "largest"):
        table.add_column(heading, justify="left" if heading == "bound" else "right", no_wrap=True)
    for bound, values in radii.items():
        exact = [Fraction(float(v)) for v in values]
        figures = sum(exact, Fraction(0)) / len(exact), statistics.median(exact), max(exact)
        certified = percent_down(sum(v > 0 for v in exact), len(exact))
        table.add_row(bound, certified, *(lower(figure, 4) for figure in figures))
    console = Console()
    print_table(console, table)
    console.print(
        f"radii rest on {assumptions.words(assumptions.SMOOTHING)}: floats that certmix audit has the judge prove"
    )
    right = percent_nearest(int(correct.sum()), len(correct))
    console.print(f"the deployed mix, h estimated by {draws} draws, is right on {right} %")
