"""Throughput of noisy sampling against the base model's own forward pass at the same batch size, and memory.

Runs the two alternately in one process, several rounds, and compares the medians. Usage: sampling_speed.py [--draws N]
[--batch-size N] [--device cpu|cuda] [--model M.onnx] (default: CIFAR-10 ResNet-20 from CERTMIX_DATA)
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from common import need_data, save

from certmix.models.model import load_model
from certmix.provers.smoothing.plan import choose, lower_bounds
from verifiers.smoothing import confidence, sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job

ROUNDS = 5


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def forward_seconds(base: Base, batch: torch.Tensor, batches: int) -> float:
    """The base model on resident inputs, nothing else."""
    with torch.inference_mode():
        synchronise(base.device)
        start = time.perf_counter()
        for _ in range(batches):
            base.robust(batch)
        synchronise(base.device)
        return time.perf_counter() - start


def sampling_seconds(base: Base, noise: GridNoise, centres: np.ndarray, draws: int, batch_size: int) -> float:
    """Noise, forward pass, base outputs and counting against 40 thresholds."""
    outputs = np.random.default_rng(0).dirichlet(np.ones(10), 1000)
    plan = choose(outputs, "distributional", draws, 0.001, 0.76, 0.3)
    jobs = [Job(0, 0, 0, draws)]
    start = time.perf_counter()
    for _, found in sampling.sample(base, noise, centres, jobs, 1, sampling.CERTIFYING, batch_size):
        for statistic in plan.statistics:
            statistic.counts(found, plan.predicted)
    return time.perf_counter() - start


def arithmetic_seconds() -> float:
    """From counts to confidence bounds for the largest kind of plan at 100,000 draws."""
    outputs = np.random.default_rng(0).dirichlet(np.ones(10), 100_000)
    plan = choose(outputs[:1000], "distributional", 100_000, 0.001, 0.76, 0.3)
    counts = [s.counts(outputs, plan.predicted) for s in plan.statistics]
    start = time.perf_counter()
    lower_bounds(plan, counts, 100_000, confidence.split(0.001, plan.statements))
    return time.perf_counter() - start


def peak_bytes(base: Base, noise: GridNoise, centres: np.ndarray, draws: int, batch_size: int) -> int:
    """Peak of Python-visible memory (numpy included) while sampling."""
    tracemalloc.start()
    for _ in sampling.sample(base, noise, centres, [Job(0, 0, 0, draws)], 1, 1, batch_size):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default=None)
    options = parser.parse_args()
    path = options.model or need_data() / "cifar10" / "standard_resnet20.onnx"
    model = load_model(path)
    base = Base(model.module.to(options.device), device=options.device)
    noise = GridNoise(0.5, 255)
    centres = np.random.default_rng(0).integers(0, 256, (1, *model.input_shape))
    batch = torch.rand(options.batch_size, *model.input_shape, device=options.device)
    batches = max(1, options.draws // options.batch_size)
    draws = batches * options.batch_size
    forward_seconds(base, batch, 1)
    sampling_seconds(base, noise, centres, options.batch_size, options.batch_size)
    rounds = [
        (
            forward_seconds(base, batch, batches),
            sampling_seconds(base, noise, centres, draws, options.batch_size),
        )
        for _ in range(ROUNDS)
    ]
    raw, full = (float(np.median([r[k] for r in rounds])) for k in (0, 1))
    peaks = [peak_bytes(base, noise, centres, k * options.batch_size, options.batch_size) for k in (2, 8)]
    figures = {
        "model": Path(path).name,
        "batch size": options.batch_size,
        "device": options.device,
        "forward passes per second": draws / raw,
        "samples per second": draws / full,
        "share of raw throughput": raw / full,
        "peak bytes at 2 and at 8 batches": peaks,
        "seconds of certifying arithmetic per input": arithmetic_seconds(),
    }
    for name, value in figures.items():
        print(f"{name:46s} {value}")
    save("sampling_speed", figures)


if __name__ == "__main__":
    main()
