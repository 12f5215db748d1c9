"""How a run is executed and told: --jobs, --ray, --shard, --quiet, --json."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

from certmix.errors import UsageError
from certmix.runs.shards import WHOLE, Part

if TYPE_CHECKING:
    from certmix.runs.batches import Executor
    from certmix.runs.listener import Listener


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """--jobs, --ray, --gpus-per-worker: what `executor` reads."""
    group = parser.add_mutually_exclusive_group()
    words = "processes, each with its own --threads and copy of the models; auto: one per core (default 1)"
    group.add_argument("--jobs", type=_jobs, default=1, metavar="N", help=words)
    words = "a Ray cluster: HOST:PORT, auto: the one that runs here, local: one of this machine alone (certmix[ray])"
    group.add_argument("--ray", metavar="ADDRESS", help=words)
    words = "with --ray: of each task, also a part of one (default 0)"
    parser.add_argument("--gpus-per-worker", type=float, default=0.0, metavar="F", help=words)


def add_shard(parser: argparse.ArgumentParser) -> None:
    words = "prove only the I-th of N parts, in this --out; certmix merge puts them together (default: all)"
    parser.add_argument("--shard", type=_shard, default=WHOLE, metavar="I/N", help=words)


def _jobs(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be auto, or a number of processes >= 1, got {text!r}")
    return int(text)


def _shard(text: str) -> Part:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, such as 2/8, got {text!r}")
    return Part(int(found[1]), int(found[2]))


def add_telling(parser: argparse.ArgumentParser) -> None:
    """--quiet and --json."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help="say nothing but warnings and refutations")
    group.add_argument("--json", action="store_true", help="tell the run as events, a JSON object a line")


def listener(options: argparse.Namespace) -> Listener:
    """Who is told of the run."""
    from certmix.commands.terminal import Events, Quiet, Terminal

    return Events() if options.json else Quiet() if options.quiet else Terminal()


def executor(options: argparse.Namespace, listener: Listener) -> Executor:
    """What executes the tasks of a run; one process needs no others. Raises UsageError."""
    from certmix.runs.batches import here
    from certmix.runs.cluster import Cluster
    from certmix.runs.processes import Processes

    if options.jobs < 1:
        raise UsageError(f"jobs must be >= 1, got {options.jobs}")
    if options.ray is not None:
        return Cluster(options.ray, options.gpus_per_worker)
    if options.gpus_per_worker != 0:
        raise UsageError("--gpus-per-worker is of the tasks on a cluster: give --ray, too, or leave it out")
    return here if options.jobs == 1 else Processes(options.jobs, listener.pursued)
