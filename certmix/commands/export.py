"""What an audit says of each input, for other programs: CSV, JSON lines, Parquet, or JUnit for a pipeline.

The judge is asked first: a radius is written where he accepted its certificate, or, with --no-check, where nobody
judged. Several formats may be asked for at once. Radii are written exactly.

Exit 0: written. 1: at least one certificate rejected. 2: something malformed, or bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.errors import UsageError

FORMATS = ("csv", "jsonl", "parquet", "junit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder written by certmix audit")
    for name in FORMATS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} there")
    parser.add_argument("--no-check", action="store_true", help="do not judge the certificates")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of the judge (default 1)")


def run(options: argparse.Namespace) -> int:
    asked = {name: path for name in FORMATS if (path := getattr(options, name)) is not None}
    if not asked:
        raise UsageError(f"export needs a file to write: one of {', '.join(f'--{name} FILE' for name in FORMATS)}")
    from certmix.reports import export
    from certmix.reports.judged import judged
    from certmix.reports.reading import read
    from certmix.runs.store import FINAL

    if not (options.folder / FINAL).exists():
        raise UsageError(f"{options.folder} holds no finished audit: run certmix audit, again if it was interrupted")
    verdict = None if options.no_check else judged(options.folder, options.jobs)
    rows = export.rows(read(options.folder, verdict, attack_steps=0).inputs)
    for name, path in asked.items():
        export.WRITERS[name](rows, path)
        print(f"{len(rows)} inputs: {path}")
    return 0 if verdict is None else verdict.exit_code
