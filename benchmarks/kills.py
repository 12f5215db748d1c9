"""Processes of an audit killed at random: no certificate is lost, doubled or different.

    python benchmarks/kills.py [--case NAME] [--kills N] [--seed S]

Audits of the bundled digits, in one process, in two, and by Ray's workers, are sent SIGKILL at random moments: the
process that was started, which is then started again, or one that proves for it, which is replaced. Every audit that
ends is compared with one that nobody disturbed, byte by byte, and the next begins, until enough kills have been made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT, before, save

from certmix.runs.store import FINAL

DIGITS = ROOT / "examples" / "digits"
INPUTS, LONGEST = 60, 4.0  # of an audit; seconds from one kill to the next
MAIN_SHARE = 0.25  # of the kills, of the process that was started, where others prove for it
DEADLINE = 120.0  # seconds that orphans may take to end
# name -> options, the number of kills, what the command line of a process that proves holds
CASES: dict[str, tuple[list[str], int, str | None]] = {
    "one process": ([], 400, None),
    "two processes": (["--jobs", "2"], 400, "spawn_main"),
    "Ray, two workers": (["--ray", "local"], 200, "ray::_prove"),
}


def command(out: Path, options: list[str]) -> list[str]:
    models = ["--standard", str(DIGITS / "standard.onnx"), "--robust", str(DIGITS / "robust.onnx")]
    data = ["--data", str(DIGITS / "audit.npz"), "--limit", str(INPUTS), "--batch-size", "2", "--engine", "crown"]
    return [sys.executable, "-m", "certmix", "audit", *models, *data, "--alpha", "0.75", "--out", str(out), *options]


def descendants(process: int) -> Iterator[tuple[int, str]]:
    """Every process below this one, with its command line."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    left = parents.get(process, [])
    while left:
        one = left.pop()
        left += parents.get(one, [])
        with contextlib.suppress(OSError):
            yield one, Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def disturbed(out: Path, options: list[str], proves: str | None, rng: random.Random, left: int) -> Counter[str]:
    """One session of an audit, killed up to `left` times; what was killed."""
    killed: Counter[str] = Counter()
    with subprocess.Popen(command(out, options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while killed.total() < left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, LONGEST))
                break
            others = list(descendants(process.pid))
            provers = [pid for pid, words in others if proves is not None and proves in words]
            if proves is None or rng.random() < MAIN_SHARE:
                process.kill()
                process.wait()
                gone([pid for pid, _ in others])
                killed["the process that was started"] += 1
                return killed
            if provers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(provers), signal.SIGKILL)
                    killed["a process that proves"] += 1
    if process.returncode:
        sys.exit(f"the audit ended with {process.returncode}: {' '.join(command(out, options))}")
    return killed


def gone(processes: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.monotonic() > deadline:
            sys.exit(f"processes of an audit that was killed live on: {processes}")
        time.sleep(0.05)


def measure(name: str, kills: int, seed: int) -> dict[str, Any]:
    options, _, proves = CASES[name]
    rng, killed, runs, lines = random.Random(seed), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as parent:
        whole = Path(parent) / "undisturbed"
        subprocess.run(command(whole, []), check=True, stdout=subprocess.DEVNULL)
        expected = (whole / FINAL).read_bytes()
        while killed.total() < kills:
            out = Path(parent) / str(runs)
            while not (out / FINAL).exists():
                killed += disturbed(out, options, proves, rng, kills - killed.total())
            if (out / FINAL).read_bytes() != expected:
                sys.exit(f"{name}, seed {seed}: the lines of run {runs} differ, after {dict(killed)}")
            runs, lines = runs + 1, lines + len(expected.splitlines())
            print(f"{name}: {killed.total()} kills, {runs} audits", flush=True)
    return {"case": name, "seed": seed, "kills": dict(killed), "audits": runs, "lines, each as undisturbed": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default=None)
    parser.add_argument("--kills", type=int, default=None, help="of each case (default: 1,000 in all)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name in CASES if asked.case is None else [asked.case]:
        row = measure(name, asked.kills or CASES[name][1], asked.seed)
        print(row, flush=True)
        save("kills", [*(r for r in before("kills") if r["case"] != name), row])


if __name__ == "__main__":
    main()
