"""Judge every certificate of an audit: the same as `python -m proofs_check DIR`, in a process of its own.

Prints what was not accepted, what the accepted certificates claim, and how many there are. Inputs count from 0. With
--standard, --robust or --data it also says whether the run is about these models and these data. With --explain it
judges one certificate and shows what that rests on: the numbers, step by step, the theorems, and the judge's own lines.

Exit 0: all accepted. 1: at least one rejected. 2: at least one line, or the folder, malformed. 4: all accepted, but the
run is about other models or data than those given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from certmix.commands.arguments import add_allow_code
from certmix.errors import UsageError
from proofs_check import __main__ as judge
from proofs_check.certificate import MalformedError, RejectedError
from proofs_check.reading import folder, parse

DIFFERS = 4  # the exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    judge.add_arguments(parser)
    words = "judge on a Ray cluster: auto, HOST:PORT of its head, or local (default: here, by --jobs)"
    parser.add_argument("--ray", metavar="ADDRESS", help=words)
    parser.add_argument("index", type=int, nargs="?", metavar="INDEX", help="with --explain: of the input, from 0 "
                        "(default: the first that is certified)")  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="show what the certificate of one input rests on")
    add_own_files(parser)


def add_own_files(parser: argparse.ArgumentParser) -> None:
    """--standard, --robust, --data, --limit: files to compare a run with."""
    group = parser.add_argument_group("your own files, compared with those that the run speaks of")
    group.add_argument("--standard", type=Path, metavar="S.onnx", help="the model that should be g")
    group.add_argument("--robust", type=Path, metavar="R.onnx", help="the model that should be h")
    group.add_argument("--data", type=Path, metavar="D", help="the inputs and labels that should have been audited")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N of --data should have been")
    words = "as of certmix audit, where the run does not remember it"
    group.add_argument("--labels", metavar="NAME", help=words)
    add_allow_code(group)


def run(options: argparse.Namespace) -> int:
    from certmix.runs.store import Store

    flags = [f"--{name}" for name in ("json", "quiet", "verbose") if getattr(options, name)]
    if Store(options.folder).unfinished():
        raise UsageError(f"{options.folder} holds an unfinished audit: run certmix audit again, it goes on")
    given = options.standard, options.robust, options.data, options.limit, options.labels
    if options.explain:
        if any(g is not None for g in (*given, options.ray)) or flags:
            raise UsageError("--explain speaks of one certificate: it takes DIR and INDEX, and no other option")
        return _explain(options)
    if options.index is not None:
        raise UsageError(f"INDEX ({options.index}) is for --explain; without it, all inputs are judged")
    if given == (None,) * len(given):
        code = _judged(options, flags)
        _say_units(options)
        return code

    from certmix.runs import own_files  # loads torch and onnx where a model is given, never in the judge's process

    # First: a path that is wrong shows before anything is judged.
    comparisons = own_files.compare(options.folder, *given, options.allow_code)
    code = _judged(options, flags)
    _say_units(options)
    if options.json:
        print(
            json.dumps(
                {"files": [dataclasses.asdict(f) for f in comparisons], "yours": own_files.all_same(comparisons)}
            )
        )
    else:
        print("\n".join(own_files.verdict(comparisons)))
    return code or (0 if own_files.all_same(comparisons) else DIFFERS)


def _judged(options: argparse.Namespace, flags: list[str]) -> int:
    """The exit code of the judge, in a process of its own or on a cluster."""
    if options.ray is None:
        command = [sys.executable, "-m", "proofs_check", str(options.folder), "--jobs", str(options.jobs), *flags]
        return subprocess.run(command, check=False).returncode
    from certmix.runs.cluster_judge import ClusterJudge

    code = judge.judge(options, ClusterJudge(options.ray))
    if not (options.json or options.quiet):
        print(f"this is the word of the machines of the Ray cluster ({options.ray}); without --ray it is judged here")
    return code


def _say_units(options: argparse.Namespace) -> None:
    """Of a run whose inputs are scaled, unless only the judge's own words are wanted."""
    from certmix.runs.store import scaling

    if options.json or options.quiet:
        return
    try:
        features = scaling(parse.run_header(folder.header_bytes(options.folder)).settings)
    except (MalformedError, OSError):
        return  # the judge has said so
    if features is not None:
        print(f"By the run's header each network {features.note}.")


def _explain(options: argparse.Namespace) -> int:
    from certmix.reports.explained.text import explain

    try:
        code, lines = explain(options.folder, options.index)
    except MalformedError as error:
        code, lines = 2, [judge.printable(f"malformed {error.place}: {error.reason}")]
    except RejectedError as error:  # a network beyond the judge's range
        code, lines = 1, [judge.printable(f"rejected {error.step}: {error.reason}")]
    print("\n".join(lines))
    return code
