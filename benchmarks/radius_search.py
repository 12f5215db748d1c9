"""Largest certified radii by the native engine: bisection from nothing, with slopes kept, and the incremental search.

    python benchmarks/radius_search.py [--limit 20] [--case NAME]

Same inputs, engine, tolerance and judge. The first two are what the search was made of before: every trial bounds all
layers and tunes the last passes, from default slopes or from those of the trial before. The third follows the slack
instead of halving, keeps the layers' bounds of radii that failed, and tunes only where the slopes at hand do not
certify. "layers": inputs whose layers were bounded by backward passes. "tuned": inputs whose last passes were tuned.
The attack and the curves are left out; the judge's time is not.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from common import ROOT, need_data, save
from torch import Tensor

import certmix
from certmix.provers.judging import judge_session
from certmix.provers.margin.engine_oracle import AskedBalls, EngineOracle
from certmix.provers.margin.oracle import MarginBound, MarginOracle
from certmix.provers.margin.prover import MarginProver
from certmix.provers.problem import ProverProblem
from certmix.provers.session import EngineSession
from certmix.settings import Settings
from verifiers.crown.engine import Crown
from verifiers.crown.network import CrownNetwork
from verifiers.engine import Bounds, Query, WarmStart

CASES: dict[str, tuple[str, str, str, Settings]] = {
    "digits Linf": ("standard.onnx", "robust.onnx", "audit.npz", Settings(0.75, norm="Linf")),
    "digits L2": ("standard.onnx", "robust.onnx", "audit.npz", Settings(0.75, norm="L2")),
    "mnist Linf": ("mnist/standard.onnx", "mnist/robust.onnx", "mnist/test_1000.npz", Settings(0.75)),
    "cifar10 kw Linf": (
        "cifar10/standard_resnet20.onnx", "cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", Settings(0.9)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Counting(Crown):
    """The engine, with a count of what it was asked."""

    asked: Counter[str] = field(default_factory=Counter)

    def bound(self, state: CrownNetwork, query: Query, warm_start: WarmStart | None = None) -> tuple[Bounds, WarmStart]:
        if not query.upper_only:  # those are of the exponential form
            if (warm_start is None or warm_start.layers is None) and not query.constraints.final:
                self.asked["layers"] += len(query.balls)
            self.asked["untuned" if query.steps == 0 else "tuned"] += len(query.balls)
        return super().bound(state, query, warm_start)


class Bisecting(EngineOracle):
    """Bounds everything at every trial, and shows the search only whether it passed."""

    keeps_slopes = True

    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        if witness:
            return super().bound(inputs, radii, True)
        if not self.keeps_slopes:
            self.memory.latest.clear()
        bound, _ = self.attempt(AskedBalls(inputs, radii, None), self.session.engine.steps, False)
        return replace(bound, slack=torch.where(bound.slack > 0, torch.inf, -torch.inf))


class Forgetting(Bisecting):
    """Also starts from default slopes at every trial; the last question starts from those that certified."""

    keeps_slopes = False


@dataclass(frozen=True)
class Row:
    """One way of searching one case."""

    case: str
    way: str
    inputs: int
    certified: int
    mean_radius: float
    layers: int
    tuned: int
    untuned: int
    processor_seconds: float


WAYS: dict[str, type[EngineOracle]] = {
    "bisection from nothing": Forgetting,
    "bisection, slopes kept": Bisecting,
    "incremental": EngineOracle,
}


def measure(case: str, way: str, folder: Path, limit: int) -> Row:
    standard_file, robust_file, images, settings = CASES[case]
    standard, robust = certmix.load_model(folder / standard_file), certmix.load_model(folder / robust_file)
    inputs = torch.from_numpy(certmix.load_data(folder / images, limit).inputs)
    count = len(inputs)
    problem = ProverProblem(standard, robust, inputs, tuple(range(count)), (-1,) * count, settings)
    engine = Counting(steps=settings.optimise)

    def oracle(own: ProverProblem, predicted: Tensor) -> MarginOracle:
        return WAYS[way](own, predicted, EngineSession(engine))

    start = time.process_time()
    found = MarginProver(problem, judge_session(problem.network, standard.network), oracle).prove()
    seconds = time.process_time() - start
    radii = [o.radius for o in found if isinstance(o, certmix.Certified)]
    mean, asked = sum(radii) / len(found), engine.asked
    return Row(case, way, len(found), len(radii), mean, asked["layers"], asked["tuned"], asked["untuned"], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--case", choices=tuple(CASES), default=None)
    options = parser.parse_args()
    rows: list[Row] = []
    heads = ("certified", "mean radius", "layers", "tuned", "untuned", "seconds")
    print(f"{'case':18}{'way':26}" + "".join(f"{name:>12}" for name in heads))
    for case in CASES if options.case is None else (options.case,):
        folder = ROOT / "examples" / "digits" if case.startswith("digits") else need_data()
        for way in WAYS:
            row = measure(case, way, folder, options.limit)
            counts = f"{row.layers:12}{row.tuned:12}{row.untuned:12}{row.processor_seconds:12.2f}"
            print(f"{case:18}{way:26}{row.certified:12}{row.mean_radius:12.6f}{counts}", flush=True)
            rows.append(row)
    save("radius_search", [asdict(r) for r in rows])


if __name__ == "__main__":
    main()
