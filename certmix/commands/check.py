"""Judge every certificate of an audit: the same as `python -m proofs_check DIR`, in a process of its own.

Prints what was not accepted, what the accepted certificates claim, and how many there are. Inputs count from 0.
Exit 0: all accepted. 1: at least one rejected. 2: at least one line, or the folder, malformed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from proofs_check import __main__ as judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    judge.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    flags = [f"--{name}" for name in ("json", "quiet", "verbose") if getattr(options, name)]
    command = [sys.executable, "-m", "proofs_check", str(options.folder), "--jobs", str(options.jobs), *flags]
    return subprocess.run(command, check=False).returncode
