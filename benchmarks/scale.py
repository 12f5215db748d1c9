"""What a large audit costs beside its proofs, and that nothing is lost on the way.

    python benchmarks/scale.py [--case "store"] [--inputs 10000]

store: 100,000 inputs that a prover answers at once: the part of the time that writing and telling take, memory beyond
that of the inputs, seconds of check and report. jobs: MNIST images by one process, by two, and by Ray's two workers.
night: 10,000 MNIST images, repeated with noise, proven as two parts in two processes each, killed and resumed, merged,
judged, reported; its transcript stands in docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, before, need_data, save

from certmix.data.dataset import Dataset
from certmix.models.model import load_model
from certmix.provers.problem import ProverProblem
from certmix.provers.session import Session
from certmix.records.outcomes import Outcome, Reason
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings

DIGITS = ROOT / "examples" / "digits"
STORED = 100_000
PAIRED = 1_500
NIGHT = 10_000
KILLED_AFTER = 60.0  # seconds, of the first part of the night


def at_once(problem: ProverProblem, _: Session) -> list[Outcome]:
    """The trivial prover: nothing is certified."""
    return [problem.abstained(0, Reason.NO_THEOREM, "not looked at") for _ in problem.indices]


class Stopwatch(Store):
    """A store that knows how long it took."""

    seconds = 0.0

    def add(self, start: int, lines: Any) -> None:
        began = time.perf_counter()
        super().add(start, lines)
        self.seconds += time.perf_counter() - began


def repeated(images: np.ndarray[Any, Any], count: int, noise: float) -> np.ndarray[Any, Any]:
    """`count` images: those given, and again with noise, inside [0, 1]."""
    rng = np.random.default_rng(0)
    many = images[np.arange(count) % len(images)].astype(np.float32)
    many[len(images) :] += rng.normal(0, noise, many[len(images) :].shape).astype(np.float32)
    return many.clip(0, 1)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def store(count: int) -> dict[str, Any]:
    """The time beside the proofs."""
    with np.load(DIGITS / "audit.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    many = repeated(images, count, 0.05)
    data = Dataset(many, labels[np.arange(count) % len(labels)].astype(np.int64), "digits, repeated")
    standard, robust = (load_model(DIGITS / f"{name}.onnx") for name in ("standard", "robust"))
    settings = Settings(alpha=0.75, radius=0.1, attack_steps=0, curves=False)
    with tempfile.TemporaryDirectory() as parent:
        out = Stopwatch(Path(parent) / "run")
        held, began = peak_mb(), time.perf_counter()
        if Audit(standard, robust, data, settings, out, prover=at_once).run():
            sys.exit("the audit did not end with 0")
        seconds, memory = time.perf_counter() - began, peak_mb() - held
        checked, reported = (timed("certmix", command, str(out.path)) for command in ("check", "report"))
        page = (out.path / "report.html").stat().st_size
    return {"case": "store", "inputs": count, "seconds": seconds, "writing_seconds": out.seconds,
            "memory_mb": memory, "inputs_mb": many.nbytes / 2**20, "check_seconds": checked,
            "report_seconds": reported, "page_bytes": page}  # fmt: skip


def timed(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def mnist(count: int, path: Path) -> list[str]:
    """Words of an audit of so many MNIST images, kept in `path`."""
    folder = need_data() / "mnist"
    with np.load(folder / "test_1000.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    scaled = images.astype(np.float32) / np.float32(255)
    np.savez(path, images=repeated(scaled, count, 0.02), labels=labels[np.arange(count) % len(labels)])
    models = ["--standard", str(folder / "standard.onnx"), "--robust", str(folder / "robust.onnx")]
    return ["certmix", "audit", *models, "--data", str(path), "--alpha", "0.75", "--radius", "0.1"]


def jobs(count: int) -> dict[str, Any]:
    """Seconds of one process, of two, and of Ray with two workers, alternating; whether their lines are the same."""
    ways = {"one process": ["--jobs", "1"], "two processes": ["--jobs", "2"], "Ray, two workers": ["--ray", "local"]}
    with tempfile.TemporaryDirectory() as parent:
        words, seconds = mnist(count, Path(parent) / "images.npz"), {way: [0.0] * 0 for way in ways}
        runs = [(way, k) for k in range(2) for way in ways]
        for way, k in runs:
            seconds[way].append(timed(*words, *ways[way], "--out", f"{parent}/{way}{k}"))
        lines = {(Path(parent) / f"{way}{k}" / "certificates.jsonl").read_bytes() for way, k in runs}
    fastest = {way: min(s) for way, s in seconds.items()}
    return {"case": "jobs", "inputs": count, "seconds": fastest, "same": len(lines) == 1}


def night(count: int) -> dict[str, Any]:
    """The script of a night: every command with what it said."""
    transcript: list[str] = []

    def say(*words: str, seconds: float | None = None) -> None:
        shown = " ".join(words).replace(str(parent) + "/", "").replace(str(need_data()) + "/", "")
        transcript.append(f"$ {shown}")
        command = [sys.executable, "-m", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                text, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                text, _ = process.communicate()
                text += f"(killed after {seconds:g} s)\n"
        lines = [line for line in text.splitlines() if not re.match(r"certifying: ", line)]
        transcript.extend(line.replace(str(parent) + "/", "") for line in lines)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as parent:
        words = [*mnist(count, Path(parent) / "images.npz"), "--jobs", "2"]
        first = [*words, "--shard", "1/2", "--out", f"{parent}/first"]
        say(*first, seconds=KILLED_AFTER)
        kept = len(list((Path(parent) / "first" / "shards").glob("*.jsonl")))
        transcript.append(f"({kept} shards are on the disk)")
        say(*first)
        say(*words, "--shard", "2/2", "--out", f"{parent}/second")
        say("certmix", "merge", f"{parent}/first", f"{parent}/second", "--out", f"{parent}/run")
        say("certmix", "check", f"{parent}/run", "--jobs", "2")
        say("certmix", "report", f"{parent}/run", "--jobs", "2")
        size = (Path(parent) / "run" / "report.html").stat().st_size
        lines = (Path(parent) / "run" / "certificates.jsonl").read_bytes().splitlines()
        whole = [json.loads(line)["index"] for line in lines] == list(range(count))
    return {"case": "night", "inputs": count, "seconds": time.perf_counter() - began, "page_bytes": size,
            "every_input_once": whole, "transcript": transcript}  # fmt: skip


CASES = {"store": (store, STORED), "jobs": (jobs, PAIRED), "night": (night, NIGHT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="only this one (default: all)")
    parser.add_argument("--inputs", type=int, metavar="N", help="of each case (default: as said above)")
    asked = parser.parse_args()
    for name in CASES if asked.case is None else [asked.case]:
        case, count = CASES[name]
        found = case(asked.inputs or count)
        kept = [figure for figure in before("scale") if figure["case"] != name]
        save("scale", [*kept, found])
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
