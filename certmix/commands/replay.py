"""Redo a random part of the noisy draws behind an audit's smoothing certificates, and compare the counts.

For each chosen certificate one block of its draws (a quarter) is drawn and run through the stored networks again.
Two tables of counts cannot show which draws differ; reported is the least number that must. Devices round
differently, so a small share may differ. Not part of the judge: it believes torch and this machine.

Exit 0: the share that differs is at most --share. 1: it is above. 2: bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from certmix.commands import arguments
from certmix.commands.parsing import file
from certmix.errors import UsageError
from proofs_check.certificate import MalformedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=file, metavar="DIR", help="the folder written by certmix audit --method smoothing"
    )
    parser.add_argument("--certificates", type=int, default=10, metavar="N", help="replay N, at random (default 10)")
    parser.add_argument(
        "--share", type=arguments.number, default=0.001, help="of draws that may differ (default 0.001)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the choice (default: from the system)")
    parser.add_argument(
        "--batch-size", type=int, default=512, metavar="N", help="noisy inputs run at once (default 512)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from certmix.runs.replay import replay

    if options.certificates < 1 or options.batch_size < 1:
        raise UsageError(f"certificates and batch-size must be >= 1, got {options.certificates}, {options.batch_size}")
    if not 0 <= options.share < 1:
        raise UsageError(f"share must lie in [0, 1), got {options.share}")
    device = arguments.device(options.device)
    choice = np.random.default_rng(options.seed)
    try:
        replays = replay(Path(options.folder), options.certificates, choice, device, options.batch_size)
    except MalformedError as error:
        raise UsageError(f"{options.folder}: {error}") from None
    draws, differing = sum(r.draws for r in replays), sum(r.differing for r in replays)
    console = Console()
    for r in (r for r in replays if r.differing):
        console.print(f"input {r.index}: of {r.draws} draws replayed at least {r.differing} differ")
    console.print(f"replayed {draws} draws of {len(replays)} certificates; at least {differing} differ")
    return 1 if differing > options.share * draws else 0
