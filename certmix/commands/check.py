"""Judge every certificate of an audit: the same as `python -m proofs_check DIR`, in a process of its own.

Exit 0: all accepted. 1: at least one rejected. 2: at least one line, or the folder, malformed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder written by certmix audit")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default 1)")


def run(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "proofs_check", options.folder, "--jobs", str(options.jobs)]
    return subprocess.run([*command, "--json"] if options.json else command, check=False).returncode
