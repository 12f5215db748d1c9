"""Judge every certificate of an audit: the same as `python -m proofs_check DIR`, in a process of its own.

Exit 0: all accepted. 1: at least one rejected. 2: at least one line, or the folder, malformed. The closing lines are
kept in DIR/verdict.json, beside the digests of what they speak of, for `certmix report`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import deque
from pathlib import Path

from certmix.runs.store import VERDICT, digests

CLOSING = 2  # lines: the counts, and what they rest on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder written by certmix audit")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default 1)")


def run(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "proofs_check", options.folder, "--jobs", str(options.jobs)]
    closing: deque[str] = deque(maxlen=CLOSING)
    before = _digests(Path(options.folder))
    with subprocess.Popen([*command, "--json"] if options.json else command, stdout=subprocess.PIPE) as judge:
        for line in judge.stdout or ():
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            closing.append(line.decode(errors="replace").rstrip("\n"))
    if before is not None and before == _digests(Path(options.folder)):
        _keep(Path(options.folder), before, judge.returncode, list(closing)[-1 if options.json else 0 :])
    return judge.returncode


def _digests(folder: Path) -> dict[str, str] | None:
    try:
        return digests(folder)
    except OSError:  # the judge says what is missing
        return None


def _keep(folder: Path, judged: dict[str, str], code: int, lines: list[str]) -> None:
    verdict = {"judged": judged, "exit_code": code, "lines": lines}
    try:
        (folder / VERDICT).write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    except OSError as error:  # a folder that may only be read can be judged all the same
        print(f"certmix: the verdict is not kept: {error}", file=sys.stderr)
