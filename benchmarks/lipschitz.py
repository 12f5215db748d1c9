"""Lipschitz constants: certified local against the estimate, LipSDP's time, radii against attacks, CPU against GPU.

python benchmarks/lipschitz.py [--count N] [--only digits|mnist|cifar|lipsdp|device]
Models of DATA are skipped with a message where they are absent. eclipse-nn is compared with if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, ROOT, save

from certmix.data import load_data
from certmix.lipschitz import Request, global_pairs, measure
from certmix.models import load_model
from proofs_check import bounds
from proofs_check import certificate as c
from proofs_check.rules.lipsdp import need_constants
from verifiers.jacobian import unrestricted_slopes
from verifiers.jacobian_constants import difference_rows
from verifiers.linear_maps import LinearMaps
from verifiers.lipschitz_estimate import Search, estimate
from verifiers.lipsdp import LipSDP
from verifiers.plain import build
from verifiers.value_bounds import Balls

DIGITS = ROOT / "examples" / "digits"
CASES = {
    "digits": (DIGITS / "robust.onnx", DIGITS / "audit.npz", {"Linf": 0.1, "L2": 0.3, "L1": 0.5}),
    "mnist": (DATA / "mnist" / "robust.onnx", DATA / "mnist" / "test_1000.npz", {"Linf": 0.1, "L2": 0.3, "L1": 1.0}),
    "cifar": (
        DATA / "cifar10" / "robust_kw_base.onnx",
        DATA / "cifar10" / "test_100.npz",
        {"Linf": 2 / 255, "L2": 0.1, "L1": 0.5},
    ),
}


def attack_radius(network: c.PlainNetwork, x: torch.Tensor, norm: c.Norm, largest: float) -> list[float]:
    """Per input the smallest of 14 radii up to `largest` at which gradient descent on d_j changes the class."""
    maps = LinearMaps(network)
    y = maps.exact(x.double()).argmax(dim=1)
    best = [float("inf")] * len(x)
    for share in np.geomspace(0.01, 1.0, 14)[::-1]:
        balls = Balls(x.double(), torch.full((len(x),), largest * share, dtype=torch.float64), norm, (0.0, 1.0))
        rows = difference_rows(network.classes, y)
        found = estimate(maps, balls, rows, Search(20, 2))
        hit = maps.exact(found.points.flatten(0, 1)).argmax(dim=1).reshape(found.points.shape[:2]) != y[:, None]
        best = [largest * share if h else b for h, b in zip(hit.any(dim=1).tolist(), best, strict=True)]
    return best


def constants(name: str, count: int) -> dict[str, Any]:
    """Ratio certified local / estimate, and radii by every theorem, at one radius per norm."""
    model, data, radii = CASES[name]
    if not Path(model).exists():
        print(f"{name}: skipped, no {model}")
        return {}
    network = load_model(model).network
    if network is None:
        raise TypeError(f"{model} has no plain network")
    x = torch.from_numpy(load_data(data, count).inputs)
    maps, figures = LinearMaps(network), {}
    for norm, radius in radii.items():
        request = Request(norm, radius, alpha=0.75, lipsdp=False, search=Search(20, 3))
        overall = global_pairs(maps, request)
        start = time.perf_counter()
        parts = [measure(maps, x[i : i + 4], request, overall) for i in range(0, count, 4)]
        seconds = (time.perf_counter() - start) / count
        ratios = torch.cat([p.local / p.estimate for p in parts]).tolist()
        radius_of = {k: statistics.median(torch.cat([p.radii[k] for p in parts]).tolist()) for k in parts[0].radii}
        attacked = attack_radius(network, x, norm, 8 * radius)
        paper = torch.cat([p.radii["local, paper"] for p in parts]).tolist()
        shares = [p / a for p, a in zip(paper, attacked, strict=True) if a < float("inf")]
        figures[norm] = {
            "radius": radius,
            "local / estimate, median": statistics.median(ratios),
            "local / estimate, largest": max(ratios),
            "global / local, median": statistics.median(torch.cat([p.overall / p.local for p in parts]).tolist()),
            "seconds per input": seconds,
            "median radii": radius_of,
            "Theorem 3.5 / attack radius, median": float(statistics.median(shares)) if shares else None,
        }
        print(name, norm, figures[norm], flush=True)
    return figures


def random_mlp(widths: tuple[int, ...]) -> c.PlainNetwork:
    g = np.random.default_rng(0)
    nodes: list[c.Node] = [c.Input((widths[0],))]
    for n, (a, b) in enumerate(itertools.pairwise(widths)):
        weight = (g.normal(size=(b, a)) / np.sqrt(a)).astype(np.float32)
        nodes.append(c.Linear((len(nodes) - 1,), weight, np.zeros(b, np.float32)))
        if n < len(widths) - 2:
            nodes.append(c.Relu((len(nodes) - 1,)))
    return build(nodes)


def lipsdp() -> dict[str, Any]:
    """Seconds and constants of one pair of classes, by descent, by SCS, and the judge's seconds."""
    figures: dict[str, Any] = {}
    row = np.eye(10)[:1] - np.eye(10)[1:2]
    for widths in ((784, 64, 10), (784, 128, 10), (784, 64, 64, 10)):
        network = random_mlp(widths)
        maps, line = LinearMaps(network), {}
        solvers = {
            "descent": LipSDP(),
            "SCS, jointly for all pairs": LipSDP(solver="scs", descent_steps=0),
            "per layer": LipSDP(multipliers="layer"),
        }
        for name, solver in solvers.items():
            start = time.perf_counter()
            found = solver.bounds(maps, row, unrestricted_slopes(maps))[0]
            line[name] = {"constant": found.constant, "seconds": time.perf_counter() - start}
        best = LipSDP().bounds(maps, row, unrestricted_slopes(maps))[0]
        stated = np.where(np.arange(10) == 0, best.constant, 1e9)
        stated[1] = 0.0
        prepared = bounds.prepare(network)
        start = time.perf_counter()
        need_constants(prepared, 1, stated, np.tile(best.multipliers.astype(np.float64), (10, 1)))
        line["judge, all 9 pairs"] = {"seconds": time.perf_counter() - start}
        if importlib.util.find_spec("eclipse_nn") is not None:
            line |= eclipse(network, row)
        figures["-".join(map(str, widths))] = line
        print(widths, line, flush=True)
    return figures


def eclipse(network: c.PlainNetwork, row: np.ndarray) -> dict[str, Any]:
    """eclipse-nn's fast global constant of the same row of the logits: an outside reference, from PyPI."""
    from eclipse_nn.LipConstEstimator import LipConstEstimator  # type: ignore[import-not-found]

    matrices = [n.weight.astype(np.float64) for n in network.nodes if isinstance(n, c.Linear)]
    matrices[-1] = row @ matrices[-1]
    start = time.perf_counter()
    value = LipConstEstimator(weights=[torch.from_numpy(m) for m in matrices]).estimate(method="ECLipsE_Fast")
    return {"eclipse-nn": {"constant": float(value), "seconds": time.perf_counter() - start}}


def device(count: int) -> dict[str, Any]:
    """The estimate on the CPU and on a GPU where there is one."""
    model, data, _ = CASES["mnist"]
    if not Path(model).exists() or not torch.cuda.is_available():
        print("device: skipped, needs the MNIST model and a GPU")
        return {}
    network = load_model(model).network
    x = torch.from_numpy(load_data(data, count).inputs).double()
    seconds = {}
    for name in ("cpu", "cuda", "cuda"):  # the first run on the GPU warms it up
        maps = LinearMaps(network, name)  # type: ignore[arg-type]
        balls = Balls(x.to(name), torch.full((count,), 0.1, dtype=torch.float64, device=name), "Linf", (0.0, 1.0))
        rows = difference_rows(10, maps.exact(balls.center).argmax(dim=1))
        start = time.perf_counter()
        found = estimate(maps, balls, rows, Search(20, 10))
        found.best.sum().item()
        seconds[name] = time.perf_counter() - start
    return {"inputs": count, "seconds": seconds, "speed-up": seconds["cpu"] / seconds["cuda"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="inputs per model, a multiple of 4")
    parser.add_argument("--only", choices=(*CASES, "lipsdp", "device"))
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in CASES:
        if options.only in (None, name):
            figures[name] = constants(name, options.count)
    if options.only in (None, "lipsdp"):
        figures["lipsdp"] = lipsdp()
    if options.only in (None, "device"):
        figures["device"] = device(options.count)
    save("lipschitz" if options.only is None else f"lipschitz_{options.only}", figures)


if __name__ == "__main__":
    main()
