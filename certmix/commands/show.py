"""One input of an audit on the terminal: verdict, the radius by every method, the nearest attack, the judge's steps.

The input's line is judged here, and the methods that the run did not use are tried on it. Exit 0: shown. 1: its
certificate is rejected, or an attack contradicts it. 2: bad input, or the line is malformed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.commands.parsing import file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=file, metavar="DIR", help="the folder written by certmix audit")
    parser.add_argument("index", metavar="INDEX", type=int, help="of the input, from 0")
    parser.add_argument("--quick", action="store_true", help="do not try the methods that the run did not use")


def run(options: argparse.Namespace) -> int:
    from certmix.reports.judged import Judged
    from certmix.reports.one_input import lines, said_of
    from certmix.reports.reading import read
    from certmix.runs.finished import opened
    from certmix.runs.one_input import by_other_methods, judged_line
    from certmix.runs.store import digests

    path = Path(options.folder)
    run = opened(path)
    judged = judged_line(path, run, options.index)
    verdict = said_of(judged)
    code = {"rejected": 1, "malformed": 2}.get(verdict.state, 0)
    report = read(path, Judged(code, {options.index: verdict}, (), (), digests(path)), 0)
    others = {} if options.quick else by_other_methods(run, options.index)
    print("\n".join(lines(report, report.inputs[options.index], judged, others)))
    return code or (1 if options.index in report.refuted else 0)
