"""`certmix soundness`: point the suite at a certifier and learn whether it can be made to lie."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from certmix.errors import UsageError
from certmix.formatting import nearest
from certmix.testing.protocol import PROTOCOLS, load

if TYPE_CHECKING:
    from certmix.testing.runner import SuiteReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's arguments."""
    parser.add_argument("--certifier", required=False, help="module:function, called by the protocol's signature")
    protocols = "; ".join(f"{name}: {text}" for name, text in PROTOCOLS.items())
    parser.add_argument(
        "--protocol", choices=sorted(PROTOCOLS), help=f"what the function answers ({protocols})".replace("%", "%%")
    )
    parser.add_argument("--budget", default="5m", help="time in all, as 90, 90s, 5m or 1h (default 5m)")
    parser.add_argument("--norms", help="comma-separated, of Linf, L1, L2, L3, … (default: the certifier's)")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="weaken answers by this relative amount (default 0)"
    )
    parser.add_argument("--laws", help="comma-separated names of laws to try (default: all of the protocol)")
    parser.add_argument("--looser", help="module:function of a looser certifier, whose radii must be contained")
    parser.add_argument("--out", help="folder for one runnable script per broken law")
    parser.add_argument("--list", action="store_true", help="list the laws with their sources and stop")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: every soundness law held; 1: one broke; 2: the certifier could not be run (UsageError raised)."""
    import torch

    from certmix.testing.laws import LAWS
    from certmix.testing.laws.quality import contains
    from certmix.testing.runner import run as run_suite
    from certmix.testing.runner import run_law
    from certmix.testing.words import line, seconds

    if arguments.list:
        for law in LAWS:
            print(f"{law.kind:9} {law.name}\n          {law.meaning}\n          [{law.source}; "
                  f"{', '.join(sorted(law.protocols))}]")  # fmt: skip
        return 0
    if not arguments.certifier:
        raise UsageError("--certifier module:function is required (or --list)")
    sys.path.insert(0, str(Path.cwd()))
    norms = arguments.norms.split(",") if arguments.norms else None
    certifier = load(arguments.certifier, arguments.protocol, norms, arguments.tolerance)
    only = tuple(arguments.laws.split(",")) if arguments.laws else ()
    budget = seconds(arguments.budget)
    torch.set_num_threads(1)
    start = time.monotonic()
    print(f"{certifier.name}: protocol {certifier.protocol}, norms {', '.join(certifier.norms)}, seed {arguments.seed}")
    report = run_suite(certifier, budget, arguments.seed, only, progress=lambda result: print(line(result), flush=True))
    if arguments.looser:
        looser = load(arguments.looser, certifier.protocol, certifier.norms)
        print(line(run_law(contains(looser), certifier, 0.1 * budget, arguments.seed, 5.0)))
    finish(report, time.monotonic() - start, arguments.out)
    return report.exit_code


def finish(report: SuiteReport, elapsed: float, folder: str | None) -> None:
    """The summary, and the scripts of broken laws: into `folder`, or the smallest one printed."""
    from certmix.testing.reproduce import script

    counterexamples = [r.broken for r in report.results if r.broken is not None]
    silent = [r for r in report.results if r.law.kind == "soundness" and r.status == "no claims"]
    laws_held = sum(1 for r in report.results if r.status == "held")
    print(
        f"{laws_held} laws held, {len(report.broken)} soundness laws broken, {report.points} points, "
        f"{nearest(elapsed, 3)} s"
    )
    if silent:
        print(f"nothing was claimed, so nothing was tested, by {', '.join(r.law.name for r in silent)}")
    if report.exit_code == 2:
        dead = next(r for r in report.results if r.status == "could not run")
        raise UsageError(f"the certifier answered no question of {dead.law.name}: {dead.crash}")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for broken in counterexamples:
            path = Path(folder) / f"{broken.law}.py"
            path.write_text(script(report.certifier, broken))
            print(f"wrote {path}")
    elif report.broken:
        smallest = min((r.broken for r in report.broken if r.broken is not None), key=lambda broken: broken.size)
        print(f"\nthe smallest counterexample, as a script:\n\n{script(report.certifier, smallest)}")
