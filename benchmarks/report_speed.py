"""How long the page of a large run takes, and how large it is: 10,000 inputs in under 10 s and 3 MB.

    python benchmarks/report_speed.py [--inputs 10000]

Proves the first inputs of the digits example, repeats their lines, inputs and attacks, and makes the page of what then
looks like a large run. The judge is not asked: its time is its own (benchmarks/judge_speed.py). Prints seconds and
bytes; exit 1 if either is over.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from certmix.__main__ import main as certmix
from certmix.records import attack_archive
from certmix.reports import page, summary
from certmix.reports.judged import Judged, Verdict
from certmix.reports.reading import read
from certmix.runs.store import Store, dataset_sha256
from proofs_check.reading import parse

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
PROVEN = 40
SECONDS, BYTES = 10.0, 3_000_000


def enlarge(folder: Path, count: int) -> None:
    """Repeat the run's inputs until there are `count`. Its certificates then no longer name the right inputs."""
    lines = [json.loads(line) for line in (folder / "certificates.jsonl").read_bytes().splitlines()]
    many = [{**lines[k % len(lines)], "index": k} for k in range(count)]
    (folder / "certificates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in many))
    with np.load(folder / "inputs.npz") as stored:
        places = np.arange(count) % len(lines)
        inputs, labels = stored["inputs"][places], stored["labels"][places]
    np.savez(folder / "inputs.npz", inputs=inputs, labels=labels)
    attacks = attack_archive.read(folder)
    repeated = {k: attacks[k % len(lines)] for k in range(count) if k % len(lines) in attacks}
    attack_archive.write(folder, 0, repeated)
    header = json.loads((folder / "run.json").read_bytes())
    del header["sha256"]
    header |= {"count": count, "dataset": dataset_sha256(inputs, labels)}
    (folder / "run.json").write_bytes(parse.seal(json.dumps(header, separators=(",", ":")).encode()[:-1]))


def measure(folder: Path) -> tuple[float, int]:
    """Seconds and bytes of the page."""
    states = [json.loads(line)["outcome"] for line in (folder / "certificates.jsonl").read_bytes().splitlines()]
    found = {k: Verdict("accepted" if state == "certified" else state, None) for k, state in enumerate(states)}
    verdict = Judged(0, found, ("as if accepted",), (), {})
    started = time.perf_counter()
    report = read(folder, verdict, 0)
    Store(folder).write_json("summary.json", summary.as_json(report))
    path = page.write(report)
    return time.perf_counter() - started, path.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    count = parser.parse_args().inputs
    slow = 0
    with tempfile.TemporaryDirectory() as parent:
        for name, more in (("largest radii", []), ("one radius", ["--radius", "0.15"])):
            out = Path(parent) / name.replace(" ", "-")
            models = ["--standard", str(DIGITS / "standard.onnx"), "--robust", str(DIGITS / "robust.onnx")]
            given = ["audit", *models, "--data", str(DIGITS / "audit.npz"), "--alpha", "0.75", *more]
            if certmix([*given, "--limit", str(PROVEN), "--out", str(out)]) != 0:
                return 1
            enlarge(out, count)
            seconds, size = measure(out)
            slow |= seconds > SECONDS or size > BYTES
            print(f"{name}: {count} inputs, {seconds:.1f} s, {size / 1e6:.2f} MB")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
