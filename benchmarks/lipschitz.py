"""Lipschitz constants: certified local against the estimate, LipSDP's time, radii against attacks, CPU against GPU.

python benchmarks/lipschitz.py [--count N]
    [--only digits|mnist|cifar|resnet4b|bounds|judged|lipsdp|device|upstream|design|layers|mix|rules]
Results are merged part by part into benchmarks/results/lipschitz.json. Models of DATA are skipped with a message where
they are absent; eclipse-nn (PyPI) and upstream auto_LiRPA are compared with where Python finds them.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib.util
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import DATA, RESULTS, ROOT, save

from certmix.data.dataset import load_data
from certmix.models.model import load_model
from certmix.provers.certify import prove
from certmix.provers.lipschitz import LipschitzProver, Proposals
from certmix.provers.lipschitz_constants import GlobalPairs, Request, global_pairs, measure
from certmix.provers.lipschitz_relaxed import askers
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.records.outcomes import Certified
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.lipschitz.layer_norms import node_constants
from proofs_check.rules.lipschitz.lipsdp import need_constants
from verifiers.auto_lirpa.jacobian import load as upstream_jacobian
from verifiers.auto_lirpa.jacobian import upstream_gradient_bounds
from verifiers.engine import EngineError
from verifiers.lipschitz.constants import difference_forms, local_bounds
from verifiers.lipschitz.estimate import Search, estimate
from verifiers.lipschitz.jacobian import gradient_bounds, slope_intervals, unrestricted_slopes
from verifiers.lipschitz.jacobian_linked import linked_dual_norms
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls

DIGITS, LIPSCHITZ = ROOT / "examples" / "digits", ROOT / "examples" / "lipschitz"
PARTS = ("bounds", "judged", "lipsdp", "device", "upstream", "design", "layers", "mix", "rules")
CASES: dict[str, tuple[Path, Path, dict[c.Norm, float]]] = {
    "digits": (DIGITS / "robust.onnx", DIGITS / "audit.npz", {"Linf": 0.1, "L2": 0.3, "L1": 0.5}),
    "mnist": (DATA / "mnist" / "robust.onnx", DATA / "mnist" / "test_1000.npz", {"Linf": 0.1, "L2": 0.3, "L1": 2.0}),
    "cifar": (
        DATA / "cifar10" / "robust_kw_base.onnx",
        DATA / "cifar10" / "test_100.npz",
        {"Linf": 2 / 255, "L2": 0.1, "L1": 0.5},
    ),
    "resnet4b": (
        DATA / "cifar10" / "robust_resnet4b.onnx",
        DATA / "cifar10" / "test_100.npz",
        {"Linf": 0.25 / 255, "L2": 0.0125},
    ),
}


SEARCHED = ("digits", "mnist", "cifar")  # where radii are looked for
COUNTS = {"digits": 40, "mnist": 16, "cifar": 4, "resnet4b": 2}
ALPHA = 0.75
THEOREMS = {"Theorem 3.5": "local, paper", "closed form": "local, closed form", "(4a)": "local, bisected"}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)


def attack_radius(network: c.PlainNetwork, x: torch.Tensor, norm: c.Norm, largest: float) -> list[float]:
    """Per input the smallest of 14 radii up to `largest` at which gradient descent on d_j changes the class."""
    maps = LinearMaps(network)
    y = maps.exact(x.double()).argmax(dim=1)
    best = [float("inf")] * len(x)
    for share in np.geomspace(0.01, 1.0, 14)[::-1]:
        balls = Balls(x.double(), torch.full((len(x),), largest * share, dtype=torch.float64), norm, (0.0, 1.0))
        rows = difference_forms(network.classes, y)
        found = estimate(maps, balls, rows, Search(20, 2))
        hit = maps.exact(found.points.flatten(0, 1)).argmax(dim=1).reshape(found.points.shape[:2]) != y[:, None]
        best = [largest * share if h else b for h, b in zip(hit.any(dim=1).tolist(), best, strict=True)]
    return best


def at_fixed_points(
    maps: LinearMaps, x: torch.Tensor, norm: c.Norm, attacked: list[float], overall: GlobalPairs
) -> dict[str, list[float]]:
    """Per input and theorem, the largest radius over balls of several shares of its attack radius.

    Anchored constants of a ball of radius eps certify min(r, eps).
    """
    best = {name: [0.0] * len(x) for name in THEOREMS}
    engines, _ = askers(maps.network, "crown", "cpu")
    for share in SHARES:
        for n, reach in enumerate(attacked):
            if reach == float("inf"):
                continue
            request = Request(norm, share * reach, alpha=ALPHA, lipsdp=False, search=Search(1, 1))
            found = measure(maps, x[n : n + 1], request, overall, engines).radii
            for name, kind in THEOREMS.items():
                best[name][n] = max(best[name][n], float(found[kind][0]))
    return best


def constants(name: str, count: int) -> dict[str, Any]:
    """Ratio certified local / estimate at one radius per norm, and radii by every theorem over attack radii."""
    model, data, radii = CASES[name]
    if not Path(model).exists():
        print(f"{name}: skipped, no {model}")
        return {}
    network = load_model(model).require_network()
    x = torch.from_numpy(load_data(data, count).inputs)
    maps, figures = LinearMaps(network), {}
    engines, _ = askers(network, "crown", "cpu")
    for norm, radius in radii.items():
        request = Request(norm, radius, alpha=ALPHA, lipsdp=False, search=Search(20, 3))
        overall = global_pairs(maps, request, list(range(maps.network.classes)))
        start = time.process_time()
        parts = [measure(maps, x[i : i + 4], request, overall, engines) for i in range(0, len(x), 4)]
        seconds = (time.process_time() - start) / len(x)
        plain = unlinked(maps, x, norm, radius)
        ratios, before = (
            torch.cat([v / p.estimate for v, p in zip(values, parts, strict=True)]).tolist()
            for values in ([p.local for p in parts], plain.split([len(p.local) for p in parts]))
        )
        figures[norm] = {
            "inputs": len(x),
            "radius": radius,
            "local / estimate, median": statistics.median(ratios),
            "local / estimate, largest": max(ratios),
            "the same without linking the layers, median": statistics.median(before),
            "global / local, median": statistics.median(torch.cat([p.overall / p.local for p in parts]).tolist()),
            "processor seconds per input": seconds,
        }
        if name in SEARCHED:
            attacked = attack_radius(network, x, norm, 8 * radius)
            best = at_fixed_points(maps, x, norm, attacked, overall)
            hit = [n for n, a in enumerate(attacked) if a < float("inf")]
            mean = statistics.mean(attacked[n] for n in hit) if hit else None
            figures[norm] |= {"inputs attacked with success": len(hit), "attack radius, mean": mean}
            for theorem, found in best.items():
                share = statistics.mean(found[n] for n in hit) / mean if mean else None
                figures[norm][f"{theorem}: mean radius / mean attack radius, alpha {ALPHA}"] = share
        print(name, norm, figures[norm], flush=True)
    return figures


def unlinked(maps: LinearMaps, x: torch.Tensor, norm: c.Norm, radius: float) -> torch.Tensor:
    """(N,) the largest constants that plain interval recursion gives, for comparison."""
    found: list[torch.Tensor] = []
    for part in x.split(4):
        known = local_bounds(maps, part, torch.full((len(part),), radius, dtype=torch.float64), norm, (0.0, 1.0))
        rows = difference_forms(maps.network.classes, maps.exact(part.double()).argmax(dim=1))
        found.append(gradient_bounds(maps, slope_intervals(maps, known.values), rows).dual_norm_upper(norm).amax(dim=1))
    return torch.cat(found)


def value_bounds_of_balls(count: int) -> dict[str, Any]:
    """What every local constant starts from: mean upper bound of d_j on l2 balls, and seconds, of engine and judge."""
    images = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    networks = {"random convolutions with tanh, 0.3": (random_tanh(), images, 0.3)}
    model, data, _ = CASES["mnist"]
    if model.exists():
        inputs = torch.from_numpy(load_data(data, count).inputs)
        networks["mnist, 0.5"] = (load_model(model).require_network(), inputs, 0.5)
    figures: dict[str, Any] = {}
    for name, (network, x, radius) in networks.items():
        maps, prepared, seconds = LinearMaps(network), bounds.prepare(network), {}
        y = maps.exact(x.double()).argmax(dim=1)
        start = time.process_time()
        ball_bounds = local_bounds(maps, x, torch.full((count,), radius, dtype=torch.float64), "L2", (0.0, 1.0))
        engine = ball_bounds.differences(y)[1].sum() / (count * (network.classes - 1))  # column y is zero
        seconds["engine"] = (time.process_time() - start) / count
        start = time.process_time()
        balls = [bounds.Ball(image.numpy(), radius, "L2", (0.0, 1.0)) for image in x]
        upper = [bounds.difference_bounds(prepared, b, int(c), None)[1] for b, c in zip(balls, y, strict=True)]
        seconds["judge"] = (time.process_time() - start) / count
        mean = float(np.sum(upper)) / (count * (network.classes - 1))
        figures[name] = {"engine": float(engine), "judge": mean, "processor seconds per input": seconds}
        print("bounds", name, figures[name], flush=True)
    return figures


def random_tanh() -> c.PlainNetwork:
    g = np.random.default_rng(0)

    def weights(*shape: int) -> c.Float32Array:
        return (g.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)

    nodes: list[c.Node] = [c.Input((1, 8, 8))]
    for channels in (1, 4):
        weight, bias = weights(4, channels, 3, 3), weights(4)
        nodes += [c.Conv2d((len(nodes) - 1,), weight, bias, (1, 1), (1, 1, 1, 1), (1, 1), 1), c.Tanh((len(nodes),))]
    return build([*nodes, c.Flatten((4,)), c.Linear((5,), 3 * weights(5, 256), weights(5))])


def judged(count: int) -> dict[str, Any]:
    """Mean radius that the judge accepts on the digits, by each kind of evidence alone and by the best of them."""
    standard, robust = (load_model(DIGITS / name) for name in ("standard.onnx", "robust.onnx"))
    x = torch.from_numpy(load_data(DIGITS / "audit.npz", count).inputs)
    figures: dict[str, Any] = {}
    for norm, kind in itertools.product(("Linf", "L2", "L1"), ("relaxed", "local", "layers", "all")):
        settings = Settings(ALPHA, norm=norm, method="lipschitz", attack_steps=0)
        problem = ProverProblem(standard, robust, x, tuple(range(count)), (0,) * count, settings)
        others = {"_relaxed", "_local", "_layers", "_global"} - {f"_{kind}"} if kind != "all" else set[str]()
        session = open_session(problem)
        table = session.global_table
        prover = type("OfOneKind", (LipschitzProver,), dict.fromkeys(others, _nothing))
        start = time.process_time()
        outcomes = prover(problem, session.judge, session.engine, table.maps, table).prove()
        certified = [o for o in outcomes if isinstance(o, Certified)]
        figures[f"{norm}, {kind}"] = {
            "inputs": count,
            "mean radius": sum(o.radius for o in certified) / count,
            "proposals that the judge cut": sum(o.radius < o.proposed_radius for o in certified),
            "processor seconds per input": (time.process_time() - start) / count,
        }
        print("judged", norm, kind, figures[f"{norm}, {kind}"], flush=True)
    return figures


def _nothing(_: LipschitzProver, __: Any, inputs: torch.Tensor) -> Proposals:
    return Proposals(torch.zeros(len(inputs), dtype=torch.float64))


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
            "best candidate, SCS for all pairs among them": LipSDP(max_cone_neurons=128, max_steps=0),
            "per layer": LipSDP(multipliers="layer"),
        }
        for name, solver in solvers.items():
            start = time.process_time()
            found = solver.bounds(maps, row, unrestricted_slopes(maps))[0]
            line[name] = {"constant": found.constant, "seconds": time.process_time() - start}
        rivals = np.eye(10)[[0, *range(2, 10)]] - np.eye(10)[1]
        start = time.process_time()
        proven = LipSDP().bounds(maps, rivals, unrestricted_slopes(maps))
        line["descent, all 9 pairs of class 1"] = {"seconds": time.process_time() - start}
        stated = np.insert([p.constant for p in proven], 1, 0.0)
        multipliers = np.insert(np.stack([p.multipliers.astype(np.float64) for p in proven]), 1, 0.0, axis=0)
        prepared = bounds.prepare(network)
        start = time.process_time()
        need_constants(prepared, 1, stated, multipliers)
        line["judge, all 9 pairs"] = {"seconds": time.process_time() - start}
        if importlib.util.find_spec("eclipse_nn") is not None:
            line |= eclipse(network, row)
        else:
            print("eclipse-nn is not installed: left out")
        figures["-".join(map(str, widths))] = line
        print(widths, line, flush=True)
    return figures


def eclipse(network: c.PlainNetwork, row: np.ndarray) -> dict[str, Any]:
    """eclipse-nn's fast global constant of the same row of the logits: an outside reference, from PyPI."""
    from eclipse_nn.LipConstEstimator import LipConstEstimator  # type: ignore[import-not-found]

    matrices = [n.weight.astype(np.float64) for n in network.nodes if isinstance(n, c.Linear)]
    matrices[-1] = row @ matrices[-1]
    start = time.process_time()
    value = LipConstEstimator(weights=[torch.from_numpy(m) for m in matrices]).estimate(method="ECLipsE_Fast")
    return {"eclipse-nn": {"constant": float(value), "seconds": time.process_time() - start}}


# ---------------------------------------------------------------- networks that are Lipschitz by design


def by_design(count: int) -> dict[str, Any]:
    """The 1-Lipschitz net of examples/lipschitz: mean l2 radius that the judge accepts, alone and in a mix at T = 100;
    and what its logits would give if its differences had the constant sqrt(2) exactly."""
    standard, robust = load_model(DIGITS / "standard.onnx"), load_model(LIPSCHITZ / "robust.onnx")
    x = torch.from_numpy(load_data(DIGITS / "audit.npz", count).inputs)
    network = robust.require_network()
    logits = PlainModule(network).double()(x.double())
    top = logits.topk(2, dim=1).values
    figures: dict[str, Any] = {
        "inputs": count,
        "h alone, constant sqrt(2)": float((top[:, 0] - top[:, 1]).mean() / 2**0.5),
    }
    for alpha in (1.0, 0.55):
        settings = Settings(alpha, temperature=100.0, norm="L2", method="lipschitz", attack_steps=0)
        problem = ProverProblem(standard, robust, x, tuple(range(count)), (0,) * count, settings)
        start, processor = time.perf_counter(), time.process_time()
        certified = [o for o in prove(problem, open_session(problem)) if isinstance(o, Certified)]
        figures[f"alpha {alpha}"] = {
            "mean radius": sum(o.radius for o in certified) / count,
            "rules": dict(collections.Counter(json.loads(o.line)["evidence"]["rule"] for o in certified)),
            "seconds": time.perf_counter() - start,
            "processor seconds": time.process_time() - processor,
        }
    print("design", figures, flush=True)
    return figures


def layered() -> dict[str, Any]:
    """Judged global l2 constants of two large nets with random weights, against power iteration layer by layer."""
    g = np.random.default_rng(0)
    figures: dict[str, Any] = {}
    for name, (network, steps) in {
        "ten delta-orthogonal": delta_orthogonal(g),
        "LiResNet-like": residual_net(g),
    }.items():
        prepared = bounds.prepare(network)
        start = time.process_time()
        found = node_constants(prepared, "L2")[0][-1]
        seconds = time.process_time() - start
        lower = math.prod(step.norm_below(g) for step in steps)
        figures[name] = {
            "judged": found,
            "power iteration": lower,
            "ratio": found / lower,
            "processor seconds": seconds,
        }
        print("layers", name, figures[name], flush=True)
    return figures


@dataclass(frozen=True)
class LinearStep:
    """x -> K x, or x + K x: a convolution, or a dense map of everything, of inputs of this shape."""

    weight: np.ndarray
    shape: tuple[int, ...]
    residual: bool = False
    stride: int = 1

    def norm_below(self, g: np.random.Generator, iterations: int = 200) -> float:
        """A lower bound of its norm: the largest |A v| / |v| of power iteration."""
        kernel = torch.from_numpy(self.weight.astype(np.float64))
        v = torch.from_numpy(g.normal(size=(1, *self.shape)))

        def apply(x: torch.Tensor) -> torch.Tensor:
            y = (
                F.conv2d(x, kernel, None, self.stride, kernel.shape[2] // 2)
                if kernel.dim() == 4
                else x.flatten(1) @ kernel.T
            )
            return x + y if self.residual else y

        for _ in range(iterations):
            v = (v / v.norm()).requires_grad_()
            y = apply(v)
            (v,) = torch.autograd.grad(y, v, y.detach())
        v = v / v.norm()
        return float(apply(v).norm())


def delta_orthogonal(g: np.random.Generator) -> tuple[c.PlainNetwork, list[LinearStep]]:
    """Ten convolutions of 64 channels on 32 x 32, an orthogonal matrix in the middle of the kernel, and ReLUs."""
    shape, nodes, steps = (64, 32, 32), [c.Input((64, 32, 32))], list[LinearStep]()
    for _ in range(10):
        weight = np.zeros((64, 64, 3, 3), np.float32)
        weight[:, :, 1, 1] = np.linalg.qr(g.normal(size=(64, 64)))[0]
        steps.append(_convolved(nodes, weight, shape))
        nodes.append(c.Relu((len(nodes) - 1,)))
    return _with_logits(nodes, np.eye(10, 65536), shape, steps)


def residual_net(g: np.random.Generator) -> tuple[c.PlainNetwork, list[LinearStep]]:
    """A stem, then twelve steps x + K x of 64 channels on 16 x 16, with Gaussian 3 x 3 kernels, MaxMin after each."""
    nodes: list[c.Node] = [c.Input((3, 32, 32))]
    shape, minus = (64, 16, 16), np.full((1, 1, 1), -1, np.float32)

    def emit(node: c.Node) -> int:
        nodes.append(node)
        return len(nodes) - 1

    def maxmin() -> None:
        x = len(nodes) - 1
        a, b = (emit(c.Slice((x,), (s, 0, 0), shape, (2, 1, 1))) for s in (0, 1))
        r = emit(c.Relu((emit(c.Add((a, emit(c.Scale((b,), minus))))),)))
        emit(c.Concat((emit(c.Add((b, r))), emit(c.Add((a, emit(c.Scale((r,), minus))))))))

    steps = [_convolved(nodes, (g.normal(size=(64, 3, 5, 5)) / 75**0.5).astype(np.float32), (3, 32, 32), 2)]
    maxmin()
    for _ in range(12):
        x, weight = len(nodes) - 1, (0.1 * g.normal(size=(64, 64, 3, 3)) / 24).astype(np.float32)
        step = _convolved(nodes, weight, shape)
        steps.append(dataclasses.replace(step, residual=True))
        emit(c.Add((x, len(nodes) - 1)))
        maxmin()
    return _with_logits(nodes, g.normal(size=(10, 16384)) / 128, shape, steps)


def _convolved(nodes: list[c.Node], weight: c.Float32Array, shape: tuple[int, ...], stride: int = 1) -> LinearStep:
    half = weight.shape[2] // 2
    bias = np.zeros(len(weight), np.float32)
    nodes.append(c.Conv2d((len(nodes) - 1,), weight, bias, (stride, stride), (half,) * 4, (1, 1), 1))  # type: ignore[arg-type]
    return LinearStep(weight, shape, stride=stride)


def _with_logits(
    nodes: list[c.Node], weight: np.ndarray, shape: tuple[int, ...], steps: list[LinearStep]
) -> tuple[c.PlainNetwork, list[LinearStep]]:
    weight = weight.astype(np.float32)
    nodes.append(c.Flatten((len(nodes) - 1,)))
    nodes.append(c.Linear((len(nodes) - 1,), weight, np.zeros(len(weight), np.float32)))
    return build(nodes), [*steps, LinearStep(weight, shape)]


METHODS: dict[str, dict[str, Any]] = {
    "lipschitz": {"method": "lipschitz"},
    "margin": {},
    "margin, 100 parts": {"branch_parts": 100},
    "lipschitz, g too": {"method": "lipschitz", "use_standard": True},
    "margin, g too": {"use_standard": True},
}
MIXES = ((0.55, 10.0), (0.75, 4.0), (0.75, 1.0), (0.45, 10.0))


def of_each_rule(count: int) -> dict[str, Any]:
    """Judged l2 radii of the mix with the net of examples/lipschitz by every method, input by input."""
    standard, robust = load_model(DIGITS / "standard.onnx"), load_model(LIPSCHITZ / "robust.onnx")
    x = torch.from_numpy(load_data(DIGITS / "audit.npz", count).inputs)
    figures: dict[str, Any] = {"inputs": count}
    for (alpha, temperature), (name, change) in itertools.product(MIXES, METHODS.items()):
        settings = Settings(alpha, temperature=temperature, norm="L2", attack_steps=0, curves=False, **change)
        if alpha <= 0.5 and not settings.use_standard:
            continue
        problem = ProverProblem(standard, robust, x, tuple(range(count)), (0,) * count, settings)
        start = time.process_time()
        radii = [o.radius if isinstance(o, Certified) else 0.0 for o in prove(problem, open_session(problem))]
        figures.setdefault(f"alpha {alpha}, T {temperature:g}", {})[name] = {
            "radii": radii,
            "mean radius": statistics.mean(radii),
            "processor seconds": time.process_time() - start,
        }
        print("rules", alpha, temperature, name, statistics.mean(radii), time.process_time() - start, flush=True)
    for of_mix in figures.values():
        for name in ("margin", "margin, 100 parts") if isinstance(of_mix, dict) and "margin" in of_mix else ():
            pairs = list(zip(of_mix["lipschitz"]["radii"], of_mix[name]["radii"], strict=True))
            of_mix[f"inputs at which lipschitz reaches no less than {name}"] = sum(a >= b for a, b in pairs)
            of_mix[f"smallest ratio of both, {name}"] = min((a / b for a, b in pairs if b > 0), default=None)
    return figures


def mix(count: int) -> dict[str, Any]:
    """Certified against clean accuracy of the mix with the net of examples/lipschitz, all certificates judged."""
    rows = subprocess.run(
        [sys.executable, str(LIPSCHITZ / "sweep.py"), "--limit", str(count)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    print("\n".join(rows), flush=True)
    return {"inputs": count, "alpha, T: clean, certified at .25, at .5": rows[1:]}


def device(count: int) -> dict[str, Any]:
    """The estimate on the CPU (wall-clock seconds), and on a GPU where there is one."""
    model, data, _ = CASES["mnist"]
    if not Path(model).exists():
        print("device: skipped, needs the MNIST model")
        return {}
    network = load_model(model).network
    x = torch.from_numpy(load_data(data, count).inputs).double()
    seconds: dict[str, float] = {}
    names = ("cpu", "cuda", "cuda") if torch.cuda.is_available() else ("cpu",)
    for name in names:  # the first run on the GPU warms it up
        maps = LinearMaps(network, name)  # type: ignore[arg-type]
        balls = Balls(x.to(name), torch.full((count,), 0.1, dtype=torch.float64, device=name), "Linf", (0.0, 1.0))
        rows = difference_forms(10, maps.exact(balls.center).argmax(dim=1))
        start, processor = time.perf_counter(), time.process_time()
        found = estimate(maps, balls, rows, Search(20, 10))
        found.best.sum().item()
        seconds[name] = time.perf_counter() - start
        seconds[f"{name}, processor"] = time.process_time() - processor
    figures = {"inputs": count, "steps": 20, "restarts": 10, "seconds": seconds}
    speed_up = seconds["cpu"] / seconds["cuda"] if "cuda" in seconds else None
    figures["GPU"] = torch.cuda.get_device_name() if "cuda" in seconds else "none at hand"
    print(figures | {"speed-up": speed_up})
    return figures | {"speed-up": speed_up}


def upstream() -> dict[str, Any]:
    """Upstream's example of local constants: its random 192-100-200-10 network, max_i of sup |grad z_i|_1 over a box.

    `its own`: JacobianOP and a 1-norm node, alpha-CROWN, as the example does; `entries`: JacobianOP's bounds of each
    entry by CROWN; ours; and the estimate.
    """
    try:
        lirpa = upstream_jacobian()
    except EngineError as error:
        print(f"upstream: left out, {error}")
        return {}
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b) for a, b in ((192, 100), (100, 200), (200, 10))]
    x = torch.randn(1, 3, 8, 8).double()
    nodes: list[c.Node] = [c.Input((3, 8, 8)), c.Flatten((0,))]
    for n, layer in enumerate(layers):
        nodes.append(c.Linear((len(nodes) - 1,), layer.weight.detach().numpy(), layer.bias.detach().numpy()))
        nodes += [c.Relu((len(nodes) - 1,))] if n < 2 else []
    network, eye = build(nodes), torch.eye(10, dtype=torch.float64)
    maps, figures = LinearMaps(network), {}
    for name, radius in (("0", 0.0), ("1/255", 1 / 255), ("4/255", 4 / 255)):
        balls = Balls(x, torch.tensor([radius], dtype=torch.float64), "Linf", None)
        known = local_bounds(maps, x, balls.radius, "Linf", None)
        slopes = slope_intervals(maps, known.values)
        line = {
            "its own": example(lirpa, torch.nn.Sequential(torch.nn.Flatten(), *interleaved(layers)), x.float(), radius),
            "entries": float(upstream_gradient_bounds(network, balls, eye).dual_norm_upper("Linf").max()),
            "ours, layers linked": float(linked_dual_norms(maps, slopes, eye[None], "Linf").max()),
            "ours, unlinked": float(gradient_bounds(maps, slopes, eye[None]).dual_norm_upper("Linf").max()),
        }
        if radius > 0:
            line["estimate"] = float(estimate(maps, balls, eye[None], Search(20, 5)).best.max())
        figures[f"eps {name}"] = line
        print("upstream", name, line, flush=True)
    return figures


def interleaved(layers: list[torch.nn.Linear]) -> list[torch.nn.Module]:
    return [layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]]


def example(lirpa: Any, model: torch.nn.Module, x: torch.Tensor, radius: float) -> float:
    """The largest local constant of a logit by upstream's own recipe."""
    from auto_LiRPA.jacobian import GradNorm, JacobianOP  # type: ignore[import-not-found]

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.size = model, GradNorm(norm=1)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.size(JacobianOP.apply(self.model(x).matmul(mask), x))

    mask = torch.eye(10)[:, :1].clone()
    bounded = lirpa.BoundedModule(Constant(), (lirpa.BoundedTensor(x), mask))
    ball = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(norm=np.inf, eps=radius))
    found: list[float] = []
    for i in range(10):
        mask.copy_(torch.eye(10)[:, i : i + 1])  # in place: the graph of the gradient keeps this very tensor
        found.append(float(bounded.compute_jacobian_bounds((ball, mask), bound_lower=False)[1]))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, help=f"inputs per model (default {COUNTS})")
    parser.add_argument("--only", choices=(*CASES, *PARTS))
    options = parser.parse_args()
    path = RESULTS / "lipschitz.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name in CASES:
        if options.only in (None, name):
            figures[name] = constants(name, options.count or COUNTS[name])
    if options.only in (None, "bounds"):
        figures["bounds"] = value_bounds_of_balls(options.count or 8)
    if options.only in (None, "judged"):
        figures["judged"] = judged(options.count or 20)
    if options.only in (None, "lipsdp"):
        figures["lipsdp"] = lipsdp()
    if options.only in (None, "device"):
        figures["device"] = device(options.count or 16)
    if options.only in (None, "design"):
        figures["design"] = by_design(options.count or 24)
    if options.only in (None, "layers"):
        figures["layers"] = layered()
    if options.only in (None, "mix"):
        figures["mix"] = mix(options.count or 200)
    if options.only in (None, "rules"):
        figures["rules"] = of_each_rule(options.count or 8)
    if options.only in (None, "upstream"):
        figures["upstream's example"] = upstream()
    save("lipschitz", figures)


if __name__ == "__main__":
    main()
