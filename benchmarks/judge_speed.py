"""Time and peak memory of one certificate's bounds: the judge beside auto_LiRPA's float32 CROWN on the same question.

    python benchmarks/judge_speed.py [--limit 5]

One input at a time, one thread, CPU seconds; each of the two in a process of its own, whose peak resident memory is
reported with and without what importing its libraries took. The first input is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, need_data, save

CASES: dict[str, tuple[str, str, float]] = {
    "digits": ("examples/digits/robust.onnx", "examples/digits/audit.npz", 0.05),
    "mnist": ("mnist/robust.onnx", "mnist/test_1000.npz", 0.3),
    "kw_base": ("cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", 2 / 255),
    "resnet4b": ("cifar10/robust_resnet4b.onnx", "cifar10/test_100.npz", 1 / 255),
}
WAYS = ("judge", "auto_lirpa")


def case_paths(name: str) -> tuple[Path, Path, float]:
    model, images, radius = CASES[name]
    base = ROOT if model.startswith("examples") else need_data()
    return base / model, base / images, radius


def load_inputs(path: Path, shape: tuple[int, ...], limit: int) -> np.ndarray:
    images = np.load(path)["images"][: limit + 1]
    scaled = images / np.float32(255) if images.dtype == np.uint8 else images
    return scaled.reshape(-1, *shape).astype(np.float32)


def peak_mib() -> float:
    """Peak resident memory of this process. On Linux getrusage would also count the parent's, before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def judge_seconds(network_bytes: Path, inputs: np.ndarray, classes: list[int], radius: float) -> dict[str, Any]:
    """Imports numpy and the judge only."""
    from proofs_check.kernel import bounds
    from proofs_check.reading import parse

    before = peak_mib()
    prepared = bounds.prepare(parse.network(network_bytes.read_bytes()))
    seconds, worst = [], []
    for x, y in zip(inputs, classes, strict=True):
        start = time.process_time()
        _, upper = bounds.difference_bounds(prepared, bounds.Ball(x, radius, "Linf", (0.0, 1.0)), y, None)
        seconds.append(time.process_time() - start)
        worst.append(float(np.delete(upper, y).max()))
    return {"seconds": seconds[1:], "worst": worst[1:], "peak": peak_mib(), "before": before}


def engine_seconds(network_bytes: Path, inputs: np.ndarray, classes: list[int], radius: float) -> dict[str, Any]:
    import torch

    from proofs_check.reading import parse
    from verifiers.auto_lirpa.engine import AutoLirpa
    from verifiers.engine import MarginQuery

    torch.set_num_threads(1)
    network = parse.network(network_bytes.read_bytes())
    engine = AutoLirpa(methods=("CROWN",))
    state = engine.prepare(network)
    before, seconds, worst = peak_mib(), [], []
    for x, y in zip(inputs, classes, strict=True):
        radii, chosen = torch.tensor([radius], dtype=torch.float64), torch.tensor([y])
        start = time.process_time()
        found = engine.bounds(MarginQuery(network, torch.tensor(x)[None], "Linf", radii, (0.0, 1.0), chosen), state)
        seconds.append(time.process_time() - start)
        worst.append(float(np.delete(found.upper[0].numpy(), y).max()))
    return {"seconds": seconds[1:], "worst": worst[1:], "peak": peak_mib(), "before": before}


def question(name: str, limit: int, folder: Path) -> Path:
    """Everything both ways need, written where their processes find it."""
    import torch

    from certmix.models.model import load_model
    from verifiers.network.module import PlainModule

    model, images, radius = case_paths(name)
    network = load_model(model).network
    inputs = load_inputs(images, network.input_shape, limit)
    classes = PlainModule(network)(torch.tensor(inputs)).argmax(1).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network").write_bytes(network.data)
    np.save(folder / "inputs.npy", inputs)
    (folder / "question.json").write_text(json.dumps({"classes": classes, "radius": radius}))
    return folder


def answer(way: str, folder: Path) -> dict[str, Any]:
    """Runs in the child process."""
    asked = json.loads((folder / "question.json").read_text())
    function = judge_seconds if way == "judge" else engine_seconds
    return function(folder / "network", np.load(folder / "inputs.npy"), asked["classes"], asked["radius"])


def measure(name: str, limit: int, scratch: Path) -> dict[str, Any]:
    folder = question(name, limit, scratch / name)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    figures: dict[str, Any] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--answer", way, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        figures[way] = json.loads(done.stdout.splitlines()[-1])
    seconds = {way: float(np.median(figures[way]["seconds"])) for way in WAYS}
    gaps = np.subtract(figures["judge"]["worst"], figures["auto_lirpa"]["worst"])
    row = {f"{way}_seconds": seconds[way] for way in WAYS} | {"ratio": seconds["judge"] / seconds["auto_lirpa"]}
    row |= {f"{way}_peak_mib": figures[way]["peak"] for way in WAYS}
    row |= {f"{way}_own_mib": figures[way]["peak"] - figures[way]["before"] for way in WAYS}
    row["largest_excess_of_judge_bound"] = float(gaps.max())
    print(name, " ".join(f"{k}={v:.4g}" for k, v in row.items()), flush=True)
    return row


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=5, help="timed inputs per network")
    parser.add_argument("--answer", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        print(json.dumps(answer(arguments.answer[0], Path(arguments.answer[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        save("judge_speed", {name: measure(name, arguments.limit, Path(scratch)) for name in CASES})


if __name__ == "__main__":
    main()
