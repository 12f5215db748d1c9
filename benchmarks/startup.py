"""How long the command line takes to answer where there is nothing to compute: help, a mistake, a short run judged.

    python benchmarks/startup.py [--repeats 7]

Per command the fastest of so many runs, each a process of its own: seconds until it ends, and of the processor.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from common import ROOT, save

from certmix import __main__ as certmix

RUN = ROOT / "tests" / "proofs_check" / "accepted" / "margin_linf"
COMMANDS = (
    ("--help",),
    ("--version",),
    ("chekc",),
    *((name, "--help") for name in certmix.COMMANDS),
    ("audit", "--apha", "0.75"),
    ("check", str(RUN.relative_to(ROOT))),
)


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Of one process with its children: until it ended, and of the processor."""
    before, started = _processor(), time.perf_counter()
    command = [sys.executable, "-m", "certmix", *arguments]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    repeats = parser.parse_args().repeats
    figures: list[dict[str, object]] = []
    for arguments in COMMANDS:
        seconds(arguments)  # fills the caches
        wall, processor = (min(found) for found in zip(*(seconds(arguments) for _ in range(repeats)), strict=True))
        shown = " ".join(("certmix", *arguments))
        print(f"{wall:6.3f} s, {processor:6.3f} s of the processor: {shown}")
        figures.append({"command": shown, "seconds": round(wall, 3), "processor_seconds": round(processor, 3)})
    save("startup", figures)


if __name__ == "__main__":
    main()
