"""Run an experiment of the paper: a table, a figure and a JSON file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from certmix.commands import arguments
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.mixing.parameters import check_alpha, check_temperature

if TYPE_CHECKING:
    from certmix.experiments.certified_curves import LogSource
    from certmix.experiments.pair import Pair

EXPERIMENTS = ("tradeoff", "accuracy-vs-alpha", "confidence", "certified-curves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment",
        choices=EXPERIMENTS,
        help="tradeoff: Figures 1, 4; accuracy-vs-alpha: Figure 2; confidence: Table 1; certified-curves: Figure 3",
    )
    arguments.add_config(parser)
    arguments.add_models(parser)
    arguments.add_data(parser)
    arguments.add_norm(parser)
    group = parser.add_argument_group("attack")
    group.add_argument("--radius", type=arguments.number, metavar="R", help="of the attacks, raw units, e.g. 8/255")
    group.add_argument("--steps", type=int, default=20, metavar="N", help="gradients per restart (default 20)")
    group.add_argument("--restarts", type=int, default=1, metavar="N", help="of the attacks on the mix (default 1)")
    group.add_argument(
        "--rivals", type=int, default=3, metavar="N", help="classes that targeted attacks try (default 3)"
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    group.add_argument("--batch-size", type=int, default=128, metavar="N", help="inputs attacked at once (default 128)")
    parser.add_argument("--out", type=file, metavar="DIR", help="where the files go (default out/experiments)")
    group = parser.add_argument_group("grids")
    group.add_argument("--alphas", type=arguments.number, nargs="+", metavar="A", help="accuracy-vs-alpha")
    group.add_argument("--gammas", type=float, nargs="+", metavar="G", help="tradeoff: odds of h, inf allowed")
    group.add_argument("--temperature", type=arguments.number, default=1.0, metavar="T", help="on h (default 1)")
    group = parser.add_argument_group("certified-curves: of runs, of logs, or of both")
    number = arguments.number
    group.add_argument("--run", type=file, nargs="+", metavar="DIR", help="folders of certmix audit --method smoothing")
    group.add_argument("--all-bounds", action="store_true", help="of the runs: draw again, for every bound's curve")
    group.add_argument("--log", type=file, metavar="H.tsv", help="certification log of the smoothed h in the mix")
    group.add_argument("--noise-std", type=number, metavar="S", help="σ of that log")
    group.add_argument("--alpha", type=number, metavar="A", help="weight of h in the mix, > 1/2")
    group.add_argument(
        "--baseline-log", type=file, metavar="B.tsv", help="log of a smoothed baseline to compare with (optional)"
    )
    group.add_argument("--baseline-noise-std", type=number, metavar="S")
    group.add_argument(
        "--match-clean",
        type=file,
        metavar="G.npz",
        help="in place of --alpha: the largest at which the mix is as accurate as the baseline; G.npz holds g's "
        "probabilities or logits (N, K) at the logs' inputs 0 … N - 1, the only ones that count then",
    )


def run(options: argparse.Namespace) -> int:
    from certmix.experiments import accuracy_vs_alpha, certified_curves, confidence, tradeoff

    out = Path(options.out or "out/experiments")
    check_temperature(options.temperature)
    if options.experiment == certified_curves.NAME:
        runs = [Path(given) for given in options.run or ()]
        predictions = Path(options.match_clean) if options.match_clean else None
        certified_curves.run(runs, options.all_bounds, _logs(options), predictions, out)
    elif options.experiment == tradeoff.NAME:
        tradeoff.run(_pair(options), options.gammas or tradeoff.GAMMAS, out)
    elif options.experiment == accuracy_vs_alpha.NAME:
        accuracy_vs_alpha.run(_pair(options), options.alphas or accuracy_vs_alpha.ALPHAS, options.temperature, out)
    else:
        confidence.run(_pair(options), options.temperature, out)
    return 0


def _pair(options: argparse.Namespace) -> Pair:
    from certmix.attacks.worst import Budget
    from certmix.experiments.pair import load_pair
    from certmix.models.model import about_probabilities

    sources = {name: str(arguments.required(options, name)) for name in ("standard", "robust", "data")}
    pair = load_pair(
        sources,
        options.limit,
        arguments.features(options) or arguments.domain(options),
        options.norm,
        float(arguments.required(options, "radius")),
        Budget(options.steps, options.restarts, options.rivals, options.seed),
        options.batch_size,
        arguments.device(options.device),
        options.allow_code,
        arguments.ends(options),
        options.labels,
    )
    models = {f"{name} ({sources[name]})": getattr(pair, name) for name in ("standard", "robust")}
    arguments.warn(about_probabilities(models, pair.inputs))
    return pair


def _logs(options: argparse.Namespace) -> list[LogSource]:
    """The mix's log and the baseline's; with --match-clean the mix's alpha is still to be found: 1/2 stands for it."""
    from certmix.experiments.certified_curves import LogSource

    if options.match_clean:
        if options.alpha is not None:
            raise UsageError(f"--match-clean chooses alpha: leave out --alpha {exact(options.alpha)}")
        for name in ("log", "baseline_log"):
            arguments.required(options, name)
    logs: list[LogSource] = []
    if options.log:
        alpha = 0.5 if options.match_clean else check_alpha(arguments.required(options, "alpha"))
        if alpha <= 0.5 and not options.match_clean:
            raise UsageError(f"certificates from a log need alpha > 1/2, got {alpha}")
        logs.append(LogSource(Path(options.log), arguments.required(options, "noise_std"), alpha))
    if options.baseline_log:
        std = arguments.required(options, "baseline_noise_std")
        logs.append(LogSource(Path(options.baseline_log), std, 1.0))
    return logs
