"""A first look: audits a bundled pair of models (handwritten digits), judges every certificate, reports.

The same as `certmix audit`, `certmix check` and `certmix report`, which are shown as they are run. Exit codes are
theirs: of the first that is not 0.
"""

from __future__ import annotations

import argparse
import shlex

from certmix.commands import audit, check, report
from certmix.commands.parsing import Parser, file, parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=file, default="certmix-demo", metavar="DIR", help="folder to write (default certmix-demo)"
    )
    words = "only the first N of 200 digits: seconds instead of a minute or two"
    parser.add_argument("--limit", default=200, type=int, metavar="N", help=words)


def run(options: argparse.Namespace) -> int:
    from certmix.installation.bundled import digits

    config = str(digits() / "audit.toml")
    limit = str(options.limit)
    steps = (
        (audit, ["audit", "--config", config, "--limit", limit, "--out", options.out]),
        (check, ["check", options.out]),
        (report, ["report", options.out]),
    )
    for module, words in steps:
        print(f"\n$ {shlex.join(['certmix', *words])}", flush=True)
        parser = Parser(prog=f"certmix {words[0]}", allow_abbrev=False)
        module.add_arguments(parser)
        if code := module.run(parse(parser, words[1:])):
            return code
    print(f"\n{options.out} is what you hand on: certmix check {options.out} judges it anywhere")
    return 0
