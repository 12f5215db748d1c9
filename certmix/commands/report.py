"""What an audit found, for a reviewer: tables, DIR/summary.json, and DIR/report.html, one page to hand on.

The judge is asked anew, accuracies are worked out again from the networks and inputs in the folder. "certified": the
judge accepted a certificate; "certified and correct": of the label's class.

With --fail-under P: exit 1 or 2 where the judge rejects a certificate or cannot read the folder, 3 where fewer than P
percent of the inputs are certified and correct. Exit 1 also where an attack refutes a certificate. With --standard,
--robust or --data the page also says whether the run is about these files; exit 4 where it is not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from certmix.commands import arguments, check
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.runs.store import FINAL, Store

CONSTANTS = "lipschitz.json"
EVALUATION_DRAWS = 1_000
ATTACK_STEPS = 10
ATTACKED = 1_000  # inputs at most, unless --attack-steps is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=file, metavar="DIR", help="the folder written by certmix audit (or lipschitz --out)"
    )
    all_bounds = "of a smoothing run: draw again and show every smoothing bound side by side"
    parser.add_argument("--all-bounds", action="store_true", help=all_bounds)
    parser.add_argument("--no-check", action="store_true", help="do not judge the certificates; the page says so")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of the judge (default 1)")
    steps = f"of attacks on g and h alone, 0 for none (default {ATTACK_STEPS}, above {ATTACKED} inputs 0)"
    parser.add_argument("--attack-steps", type=int, metavar="N", help=steps)
    words = "also write DIR/statement.md: what the run certifies and what not, with blanks for a reviewer"
    parser.add_argument("--statement", action="store_true", help=words)
    arguments.add_gate(parser)
    check.add_own_files(parser)


def run(options: argparse.Namespace) -> int:
    store = Store(Path(options.folder))
    if options.fail_under is not None and options.no_check:
        raise UsageError("--fail-under counts what the judge accepts: leave out --no-check")
    if options.statement and options.no_check:
        raise UsageError("--statement says what the judge accepts: leave out --no-check")
    if options.attack_steps is not None and options.attack_steps < 0:
        raise UsageError(f"--attack-steps must be >= 0, got {options.attack_steps}")
    arguments.gate(options.fail_under, 1, 1)  # misuse shows before anything runs
    if (store.path / CONSTANTS).exists():
        _show_constants(store.path)
        return 0
    if not (store.path / FINAL).exists():
        raise UsageError(f"{store.path} holds no finished audit: run certmix audit, again if it was interrupted")
    from rich.console import Console

    from certmix.reports import page, statement, summary
    from certmix.reports.judged import judged
    from certmix.reports.reading import read
    from certmix.runs import own_files

    console = Console()
    given = options.standard, options.robust, options.data, options.limit, options.labels
    comparisons = () if given == (None,) * len(given) else own_files.compare(store.path, *given, options.allow_code)
    verdict = None if options.no_check else judged(store.path, options.jobs)
    if options.fail_under is not None and all(line["label"] < 0 for line in store.lines()):
        raise UsageError(f"--fail-under counts inputs certified as their label, and those of {store.path} have none")
    steps = options.attack_steps
    if steps is None:
        steps = ATTACK_STEPS if sum(1 for _ in store.lines()) <= ATTACKED else 0
    report = read(store.path, verdict, steps)
    figures = summary.as_json(report)
    store.write_json("summary.json", figures)
    summary.show(report, console)
    if verdict is None:
        console.print("nobody judged these certificates (--no-check)", style="bold red")
    else:
        console.print("\n".join(verdict.lines), style="green" if verdict.exit_code == 0 else "bold red", markup=False)
    if comparisons:
        style = "green" if own_files.all_same(comparisons) else "bold red"
        console.print("\n".join(own_files.verdict(comparisons)), style=style, markup=False)
    for index in report.refuted:
        console.print(f"REFUTED: an attack leaves the class certified for input {index}", style="bold red")
    print(f"summary in {store.path / 'summary.json'}, page in {page.write(report, comparisons)}")
    if options.statement:
        print(f"statement, to be filled in, in {statement.write(report)}")
    if options.all_bounds:
        _show_all_bounds(Path(options.folder))
    if report.refuted:
        return 1
    if not own_files.all_same(comparisons):
        return check.DIFFERS
    if options.fail_under is None or verdict is None:
        return 0
    return verdict.exit_code or arguments.gate(options.fail_under, figures["certified_correct_count"], report.n)


def _show_constants(path: Path) -> None:
    """The table and the plot of `certmix lipschitz --out DIR`."""
    from certmix.reports import lipschitz_tables

    try:
        record = json.loads((path / CONSTANTS).read_bytes())
        lipschitz_tables.show(record)
        lipschitz_tables.draw(record, path / "lipschitz.png")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{path / CONSTANTS} was not written by certmix lipschitz: {error!r}") from None


def _show_all_bounds(path: Path) -> None:
    """The run's own draws are repeated: they depend on nothing but its seed."""
    import numpy as np
    import torch

    from certmix.commands.smoothing_bounds import show_bounds
    from certmix.provers.problem import ProverProblem
    from certmix.runs.finished import open_inputs

    settings, standard, robust, data = open_inputs(path)
    if settings.method != "smoothing":
        raise UsageError(f"{path} is no smoothing run but {settings.method}: leave out --all-bounds")
    inputs = torch.from_numpy(np.ascontiguousarray(data.inputs))
    labels = tuple(int(v) for v in data.labels)
    problem = ProverProblem(standard, robust, inputs, tuple(range(len(labels))), labels, settings)
    show_bounds(problem, EVALUATION_DRAWS)
