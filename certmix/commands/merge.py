"""Put the parts of one audit together that were proven in different folders, here or on other machines.

Every machine runs the same `certmix audit` with a --shard I/N of its own, to an --out of its own. What is merged must
be the same run: models, inputs, settings. Lines are copied as they are; `certmix check` judges them all the same.

Exit 0: merged; if inputs are missing the result is an unfinished run, which certmix audit goes on with. 2: bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.commands import arguments
from certmix.commands.parsing import file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder that certmix audit wrote")
    parser.add_argument("--out", type=file, metavar="DIR", help="folder to write; new")


def run(options: argparse.Namespace) -> int:
    from certmix.runs.merge import merge

    out = Path(arguments.required(options, "out"))
    merged = merge(options.folders, out)
    if len(merged.versions) > 1:
        arguments.warn((f"the parts are of certmix {' and '.join(merged.versions)}",))
    missing = sum(map(len, merged.missing))
    print(f"{merged.count - missing} of {merged.count} inputs of {len(options.folders)} folders: {out}")
    if missing:
        shown = ", ".join(f"{r.start} to {r.stop - 1}" for r in merged.missing[:5])
        more = ", …" if len(merged.missing) > 5 else ""
        print(f"missing: inputs {shown}{more}; certmix audit, with the same options and --out {out}, goes on with them")
    else:
        print(f"next: certmix check {out}; certmix report {out}")
    return 0
