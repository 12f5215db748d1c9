"""The audits of the real MNIST and CIFAR-10 mixes, by the engine's word and as re-derived by the judge.

python benchmarks/audits.py [--only NAME] [--limit N] [--engine NAME]
Prints, per run: clean accuracy of g, h, mix; certified-and-correct share with ENGINE_TRUSTED and with no
assumption; seconds of the audit and of `certmix check --jobs 2`; the audit's peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import need_data, save

MNIST = ("mnist/standard.onnx", "mnist/robust.onnx", "mnist/test_1000.npz")
KW = ("cifar10/standard_resnet20.onnx", "cifar10/robust_kw_base.onnx", "cifar10/test_100.npz")
RESNET = ("cifar10/standard_resnet20.onnx", "cifar10/robust_resnet4b.onnx", "cifar10/test_100.npz")
# name: (models and data, radius, alpha, temperature, number of inputs or None for all)
RUNS: dict[str, tuple[tuple[str, str, str], str, float, float, int | None]] = {
    "cifar kw 2/255, alpha .75": (KW, "2/255", 0.75, 1.0, None),
    "cifar kw 2/255, alpha .9": (KW, "2/255", 0.9, 1.0, None),
    "cifar kw 2/255, alpha .55, T 4": (KW, "2/255", 0.55, 4.0, None),
    "mnist 0.1, alpha .75": (MNIST, "0.1", 0.75, 1.0, None),
    "mnist 0.3, alpha .75": (MNIST, "0.3", 0.75, 1.0, None),
    "mnist 0.3, alpha .9": (MNIST, "0.3", 0.9, 1.0, None),
    "cifar resnet4b 1/255, alpha .75": (RESNET, "1/255", 0.75, 1.0, 30),
    "cifar resnet4b 2/255, alpha .75": (RESNET, "2/255", 0.75, 1.0, 30),
}


def timed(command: list[str]) -> tuple[str, float, float]:
    """Standard output, seconds and peak resident memory in MB of a command that must succeed."""
    started = time.monotonic()
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(command, stdout=output)
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.05)
        code = process.wait()
        output.seek(0)
        text = output.read()
    if code != 0:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{text}")
    return text, time.monotonic() - started, peak / 2**20


def measure(name: str, out: Path, extra: list[str]) -> dict[str, Any]:
    models, radius, alpha, temperature, limit = RUNS[name]
    standard, robust, data = (str(need_data() / m) for m in models)
    base = [sys.executable, "-m", "certmix"]
    given = ["--standard", standard, "--robust", robust, "--data", data, "--radius", radius, "--alpha", str(alpha)]
    given += ["--temperature", str(temperature), *(["--limit", str(limit)] if limit else []), *extra]
    found: dict[str, Any] = {"run": name}
    for evidence in ("engine", "network"):
        folder = out / f"{evidence}-{name.replace(' ', '_').replace('/', '-')}"
        engine = ["--engine", "auto_lirpa"] if evidence == "engine" else []
        command = [*base, "audit", *given, "--evidence", evidence, *engine, "--out", str(folder)]
        _, seconds, peak = timed(command)
        text, judged, _ = timed([*base, "check", str(folder), "--jobs", "2"])
        timed([*base, "report", str(folder)])
        summary = json.loads((folder / "summary.json").read_text())
        found |= {"n": summary["n"], "clean": summary["clean_accuracy"]}
        found |= {f"{evidence}_certified_correct": summary["certified_correct"], f"{evidence}_seconds": seconds}
        found |= {f"{evidence}_check_seconds": judged, f"{evidence}_peak_mb": peak}
        found[f"{evidence}_verdict"] = text.splitlines()[-2:]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(RUNS))
    parser.add_argument("--limit")
    parser.add_argument("--engine")
    options = parser.parse_args()
    extra = [f for name in ("limit", "engine") if (v := getattr(options, name)) for f in (f"--{name}", v)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as out:
        for name in [options.only] if options.only else RUNS:
            row = measure(name, Path(out), extra)
            rows.append(row)
            clean = "/".join(f"{row['clean'][m]:.1f}" for m in ("standard", "robust", "mix"))
            print(
                f"{name:34s} n {row['n']:4d}  clean g/h/mix {clean}  certified and correct: "
                f"engine trusted {row['engine_certified_correct']:.1f}, judged {row['network_certified_correct']:.1f}  "
                f"audit {row['network_seconds']:.0f} s, check {row['network_check_seconds']:.0f} s, "
                f"peak {row['network_peak_mb']:.0f} MB  [{'; '.join(row['network_verdict'])}]",
                flush=True,
            )
            save("audits", rows)


if __name__ == "__main__":
    main()
