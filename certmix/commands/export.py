"""What an audit says of each input, for other programs: CSV, JSON lines, Parquet, or JUnit for a pipeline.

The judge is asked first: a radius is written where he accepted its certificate, or, with --no-check, where nobody
judged. Several formats may be asked for at once. Radii are written exactly.

--vnnlib writes what was asked, for other verifiers: h as ONNX and two VNN-LIB properties of each input, of which one,
unsatisfiable, says that h has the margin that is required, and the other, satisfiable, that it has not.

Exit 0: written. 1: at least one certificate rejected. 2: something malformed, or bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.commands import arguments
from certmix.errors import UsageError

FORMATS = ("csv", "jsonl", "parquet", "junit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder written by certmix audit")
    for name in FORMATS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} there")
    parser.add_argument("--vnnlib", type=Path, metavar="FOLDER", help="write h and its margin questions there; new")
    words = "of --vnnlib: the radius to ask at (default: the audit's, or the certified one of each input)"
    parser.add_argument("--radius", type=arguments.number, metavar="R", help=words)
    parser.add_argument("--no-check", action="store_true", help="do not judge the certificates")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of the judge (default 1)")


def run(options: argparse.Namespace) -> int:
    asked = {name: path for name in FORMATS if (path := getattr(options, name)) is not None}
    if not asked and options.vnnlib is None:
        offered = ", ".join(f"--{name} FILE" for name in FORMATS)
        raise UsageError(f"export needs something to write: one of {offered}, or --vnnlib FOLDER")
    if options.radius is not None and options.vnnlib is None:
        raise UsageError("--radius is of the questions that --vnnlib FOLDER writes")
    from certmix.runs.store import FINAL

    if not (options.folder / FINAL).exists():
        raise UsageError(f"{options.folder} holds no finished audit: run certmix audit, again if it was interrupted")
    if options.vnnlib is not None:
        from certmix.reports import vnnlib

        count = vnnlib.write(options.folder, options.vnnlib, options.radius)
        print(f"{count} inputs, two properties each: {options.vnnlib / 'instances.csv'}")
    return _written(options, asked) if asked else 0


def _written(options: argparse.Namespace, asked: dict[str, Path]) -> int:
    from certmix.reports import export
    from certmix.reports.judged import judged
    from certmix.reports.reading import read

    verdict = None if options.no_check else judged(options.folder, options.jobs)
    rows = export.rows(read(options.folder, verdict, attack_steps=0).inputs)
    for name, path in asked.items():
        export.WRITERS[name](rows, path)
        print(f"{len(rows)} inputs: {path}")
    return 0 if verdict is None else verdict.exit_code
