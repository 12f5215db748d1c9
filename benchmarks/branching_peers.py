"""Plain robustness of h, alpha = 1, which every verifier decides: time per decided input of branching and of peers.

    PEERS=DIR python benchmarks/branching_peers.py [--inputs N] [--seconds S]

DIR/venv, if it is there, holds vibecheck-nn (GPL-3.0, a peer only, with pins of its own):

    python -m venv DIR/venv && DIR/venv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    DIR/venv/bin/pip install vibecheck-nn

DIR/alpha-beta-CROWN, if it is there, is a checkout of that repository; DIR/abcrown/bin/python, or the python at hand,
has what it requires. It is asked one instance after the other, by a file of settings of its own, and its start counts.

The Kolter-Wong net on CIFAR-10 at 2/255, the inputs that it classifies right. Both on one thread, the model loaded
anew for every input by vibecheck, as its interface has it, and once by certmix; processor seconds of the process that
decides. certmix's proofs are judged, and that is counted; the peer leaves none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import need_data, save

import certmix
from certmix.settings import Settings

RADIUS = 2 / 255
DRIVER = """
import json, sys, time
from vibecheck import verify
for line in sys.stdin:
    asked = json.loads(line)
    begun = time.process_time()
    try:
        verdict = verify(net=asked["net"], spec=asked["spec"], timeout=asked["seconds"], device="cpu").verdict
    except Exception as error:
        verdict = f"error: {error}"
    print("ANSWER " + json.dumps([verdict, time.process_time() - begun]), flush=True)
"""
WORDS = {"unsat": "proven", "sat": "refuted"}


def vnnlib(x: np.ndarray[Any, Any], y: int, classes: int) -> str:
    """Some other logit is at least that of y somewhere in the ball cut by [0, 1]."""
    lower, upper = np.maximum(x.astype(float).ravel() - RADIUS, 0), np.minimum(x.astype(float).ravel() + RADIUS, 1)
    names = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    names += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    box = [
        f"(assert (>= X_{i} {a!r}))\n(assert (<= X_{i} {b!r}))"
        for i, (a, b) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
    ]
    wrong = " ".join(f"(and (>= Y_{j} Y_{y}))" for j in range(classes) if j != y)
    return "\n".join([*names, *box, f"(assert (or {wrong}))"])


def by_vibecheck(venv: Path, net: Path, specs: list[str], seconds: float) -> Iterator[tuple[str, float]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    driver = subprocess.Popen(
        [str(venv / "bin" / "python"), "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    if driver.stdin is None or driver.stdout is None:
        raise SystemExit("no pipes")
    for spec in specs:
        driver.stdin.write(json.dumps({"net": str(net), "spec": spec, "seconds": seconds}) + "\n")
        driver.stdin.flush()
        line = next(line for line in driver.stdout if line.startswith("ANSWER "))
        verdict, spent = json.loads(line.removeprefix("ANSWER "))
        yield WORDS.get(verdict, str(verdict)), spent
    driver.stdin.close()
    driver.wait()


def by_abcrown(checkout: Path, python: str, net: Path, specs: list[str], seconds: float) -> Iterator[tuple[str, float]]:
    """Its answers, by `abcrown.py --config`: JSON is YAML."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    for spec in specs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "instance.vnnlib").write_text(spec)
            asked = {
                "general": {"device": "cpu", "results_file": str(folder / "results.txt")},
                "model": {"onnx_path": str(net.resolve())},
                "specification": {"vnnlib_path": str(folder / "instance.vnnlib")},
                "bab": {"timeout": seconds},
            }
            (folder / "config.yaml").write_text(json.dumps(asked))
            command = [python, "abcrown.py", "--config", str(folder / "config.yaml")]
            begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            ran = subprocess.run(
                command,
                cwd=checkout / "complete_verifier",
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun
            results = folder / "results.txt"
            said = results.read_text().split() if results.exists() else []
            error = (ran.stderr.strip().splitlines() or ["no results"])[-1]
            yield (WORDS.get(said[0], said[0]) if said else f"error: {error}"), spent


def by_certmix(robust: certmix.Model, x: torch.Tensor, seconds: float) -> tuple[str, float]:
    settings = Settings(1.0, "Linf", RADIUS, domain=(0.0, 1.0), curves=False, branch=seconds)
    begun = time.process_time()
    (outcome,) = certmix.certify(robust, robust, x[None], settings=settings)
    spent = time.process_time() - begun
    if isinstance(outcome, certmix.Certified):
        return "proven", spent
    return "refuted" if outcome.verdict == "attackable" else "open", spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each input")
    options = parser.parse_args()
    if "PEERS" not in os.environ:
        sys.exit("PEERS is absent: set it to the folder whose venv/ holds vibecheck-nn (see --help)")
    peers, folder = Path(os.environ["PEERS"]), need_data() / "cifar10"
    torch.set_num_threads(1)
    net = folder / "robust_kw_base.onnx"
    robust, data = certmix.load_model(net), certmix.load_data(folder / "test_100.npz", options.inputs)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    with torch.no_grad():
        logits = robust.module(x)
    right = (logits.argmax(1) == labels).nonzero().flatten().tolist()
    specs = [vnnlib(data.inputs[k], int(labels[k]), logits.shape[1]) for k in right]
    answers: dict[str, list[tuple[str, float]]] = {
        "certmix, judged": [by_certmix(robust, x[k], options.seconds) for k in right],
    }
    if (peers / "venv").is_dir():
        answers["vibecheck-nn"] = list(by_vibecheck(peers / "venv", net, specs, options.seconds))
    if (peers / "alpha-beta-CROWN").is_dir():
        own = peers / "abcrown" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        answers["alpha-beta-CROWN"] = list(by_abcrown(peers / "alpha-beta-CROWN", python, net, specs, options.seconds))
    figures: list[dict[str, Any]] = []
    for name, given in answers.items():
        decided = [spent for verdict, spent in given if verdict in WORDS.values()]
        figures.append({
            "verifier": name, "inputs": len(given),
            **{word: sum(v == word for v, _ in given) for word in WORDS.values()},
            "others": sorted({v for v, _ in given} - set(WORDS.values())),
            "seconds per decided input": sum(decided) / max(1, len(decided)),
            "median seconds": float(np.median(decided)) if decided else None,
        })  # fmt: skip
        print(json.dumps(figures[-1], indent=1), flush=True)
    given = list(zip(*answers.values(), strict=True))
    conflicts = [k for k, of_k in zip(right, given, strict=True) if {"proven", "refuted"} <= {v for v, _ in of_k}]
    if conflicts:
        sys.exit(f"one verifier proves what the other refutes: inputs {conflicts}")
    if options.inputs == parser.get_default("inputs"):
        save("branching_peers", figures)


if __name__ == "__main__":
    main()
