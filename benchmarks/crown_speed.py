"""The native CROWN engine beside auto_LiRPA's CROWN and alpha-CROWN: seconds and tightness, in one process.

    python benchmarks/crown_speed.py [--limit 12] [--case NAME] [--alpha-crown]

With --case the other cases of the results file stay as they are.

Same inputs, balls and classes; the tightness is the mean upper bound of z_j - z_y over inputs and rivals (smaller is
tighter). auto_LiRPA is asked for all inputs in one batch, and in the small batches that suit it best on a processor
(verifiers/auto_lirpa/engine.py); the conversion of its network is not counted.
Processor seconds stand beside the wall clock, for machines that are shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import before, need_data, save
from queries import upper_bounds
from torch import Tensor

from certmix.models.model import load_model
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.engine import AutoLirpa
from verifiers.auto_lirpa.module import LoweredModule
from verifiers.crown.engine import Crown
from verifiers.engine import MarginQuery
from verifiers.network.module import PlainModule

CASES = {
    "mnist 0.3": ("mnist/robust.onnx", "mnist/test_1000.npz", 0.3),
    "cifar10 kw 2/255": ("cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", 2 / 255),
    "cifar10 resnet4b 1/255": ("cifar10/robust_resnet4b.onnx", "cifar10/test_100.npz", 1 / 255),
}


@dataclass(frozen=True)
class Row:
    """One way of bounding one case."""

    case: str
    way: str
    inputs: int
    mean_upper: float
    seconds: float
    processor_seconds: float


def load_query(data: Path, case: str, limit: int) -> MarginQuery:
    """The first `limit` images at the network's own classes."""
    model, images, radius = CASES[case]
    network = load_model(data / model).network
    if network is None:
        raise SystemExit(f"{model} has no plain network")
    pixels = np.load(data / images)["images"][:limit].reshape(-1, *network.input_shape)
    inputs = torch.from_numpy(pixels.astype(np.float32) / np.float32(255))
    predicted = PlainModule(network)(inputs).argmax(1)
    return MarginQuery(network, inputs, "Linf", torch.full((len(inputs),), radius).double(), (0.0, 1.0), predicted)


@dataclass
class Shipped:
    """auto_LiRPA with its own default options, asked for CROWN of the whole batch: none of this project's interval
    bounds and batch sizes. The model is the form it needs: weights as parameters, normalisation a 1x1 convolution."""

    bounded: Any = None
    network: Any = None

    def upper(self, query: MarginQuery) -> Tensor:
        lirpa = compat.load()
        if self.network is not query.network:
            module = LoweredModule(AutoLirpa().prepare(query.network).lowered).eval()
            self.bounded, self.network = compat.bounded_module(lirpa)(module, query.inputs[:1], {}), query.network
        classes = query.network.classes
        eye = torch.eye(classes)
        rivals = torch.tensor([[j for j in range(classes) if j != y] for y in query.predicted.tolist()])
        reach = query.radius.float().view(-1, 1, 1, 1)
        low, high = (query.inputs - reach).clamp(min=0.0), (query.inputs + reach).clamp(max=1.0)
        ball = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
        x = lirpa.BoundedTensor(query.inputs, ball)
        with torch.no_grad():
            _, upper = self.bounded.compute_bounds(
                x=(x,), method="CROWN", C=eye[rivals] - eye[query.predicted][:, None]
            )
        return torch.zeros(len(upper), classes).scatter(1, rivals, upper).double()


def timed(case: str, way: str, query: MarginQuery, bound: Callable[[MarginQuery], Tensor]) -> Row:
    """One run after a warm-up on the first input, which also converts the network."""
    bound(MarginQuery(query.network, query.inputs[:1], query.norm, query.radius[:1], query.domain, query.predicted[:1]))
    wall, processor = time.perf_counter(), time.process_time()
    upper = bound(query)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rivals = upper.numel() - len(upper)  # column y is zero
    return Row(case, way, len(upper), float(upper.sum()) / rivals, wall, processor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--case", choices=tuple(CASES), default=None)
    parser.add_argument("--alpha-crown", action="store_true", help="also auto_LiRPA's alpha-CROWN (slow)")
    arguments = parser.parse_args()
    data = need_data()
    whole = AutoLirpa(batch_size=max(1, arguments.limit))
    ways: dict[str, Callable[[MarginQuery], Tensor]] = {
        "crown": lambda q: Crown().bounds(q).upper,
        "crown, 8 steps": lambda q: Crown(steps=8).bounds(q).upper,
        "crown, 20 steps": lambda q: Crown(steps=20).bounds(q).upper,
        "auto_LiRPA, its best batch": upper_bounds(AutoLirpa()),
        "auto_LiRPA, one batch": upper_bounds(whole),
    }
    ways["auto_LiRPA as shipped"] = Shipped().upper
    if arguments.alpha_crown:
        ways["auto_LiRPA alpha-CROWN"] = upper_bounds(AutoLirpa(steps=20))
    rows: list[Row] = []
    print(f"{'case':24}{'way':28}{'inputs':>7}{'mean upper':>12}{'seconds':>9}{'processor':>11}")
    for case in CASES if arguments.case is None else (arguments.case,):
        query = load_query(data, case, arguments.limit)
        for way, bound in ways.items():
            row = timed(case, way, query, bound)
            print(
                f"{case:24}{way:28}{row.inputs:7}{row.mean_upper:12.5f}{row.seconds:9.2f}{row.processor_seconds:11.2f}",
                flush=True,
            )
            rows.append(row)
    kept = [row for row in before("crown_speed") if row["case"] not in {r.case for r in rows}]
    save("crown_speed", kept + [asdict(r) for r in rows])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
