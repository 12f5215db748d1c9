"""Run an experiment of the paper: a table, a figure and a JSON file."""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.commands import arguments
from certmix.experiments import accuracy_vs_alpha, certified_curves, confidence, pair, tradeoff
from certmix.mixing.mixed import check_temperature

ON_A_PAIR = {
    tradeoff.NAME: tradeoff.run,
    accuracy_vs_alpha.NAME: accuracy_vs_alpha.run,
    confidence.NAME: confidence.run,
}
EXPERIMENTS = (*ON_A_PAIR, certified_curves.NAME)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment",
        choices=EXPERIMENTS,
        help="tradeoff: Figures 1, 4; accuracy-vs-alpha: Figure 2; confidence: Table 1; certified-curves: Figure 3",
    )
    arguments.add_config(parser)
    pair.add_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="where the files go (default out/experiments)")
    group = parser.add_argument_group("grids")
    group.add_argument("--alphas", type=arguments.number, nargs="+", metavar="A", help="accuracy-vs-alpha")
    group.add_argument("--gammas", type=float, nargs="+", metavar="G", help="tradeoff: odds of h, inf allowed")
    group.add_argument("--temperature", type=arguments.number, default=1.0, metavar="T", help="on h (default 1)")
    certified_curves.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    out = Path(options.out or "out/experiments")
    check_temperature(options.temperature)
    if options.experiment == certified_curves.NAME:
        certified_curves.run(options, out)
    else:
        ON_A_PAIR[options.experiment](pair.load_pair(options), options, out)
    return 0
