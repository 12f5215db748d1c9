"""Inputs bounded and certified per processor second: the batched engine beside a plain loop with auto_LiRPA.

    python benchmarks/engine_speed.py [--limit 100] [--alpha 0.75]

Both bound h on the same balls by IBP and CROWN, in one process; a certificate is the box form of docs/maths.md 3a with
Lemma 3.2 (floats, not judged). The loop converts the network once, too, and asks auto_LiRPA for one input at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from common import need_data, save
from queries import load_query
from torch import Tensor

from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.engine import AutoLirpa, Method
from verifiers.auto_lirpa.module import LoweredModule
from verifiers.engine import MarginQuery
from verifiers.network import lowering

CASES = (
    ("mnist 0.3", "mnist/robust.onnx", "mnist/test_1000.npz", 0.3),
    ("cifar10 2/255", "cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", 2 / 255),
)


@dataclass(frozen=True)
class Row:
    """One way of bounding: processor seconds for `inputs` inputs, conversion included."""

    case: str
    way: str
    inputs: int
    certified: int
    seconds: float


def loop(q: MarginQuery) -> Tensor:
    """Upper bounds (N, K) of d_j, input after input: what a user of auto_LiRPA alone would write."""
    library = compat.load()
    module = LoweredModule(lowering.lower(q.network)).float().eval()
    bounded = compat.bounded_module(library)(module, torch.zeros(1, *q.network.input_shape), {})
    eye, rows = torch.eye(q.network.classes), []
    for x, radius, y in zip(q.inputs, q.radius.tolist(), q.predicted, strict=True):
        box = {"x_L": (x - radius).clamp(0, 1)[None], "x_U": (x + radius).clamp(0, 1)[None]}
        point = library.BoundedTensor(x[None], library.PerturbationLpNorm(norm=np.inf, eps=None, **box))
        upper = [
            bounded.compute_bounds(x=(point,), C=(eye - eye[y])[None], method=method)[1] for method in ("IBP", "CROWN")
        ]
        rows.append(torch.minimum(*upper)[0])
    return torch.stack(rows).double()


def certified(upper: Tensor, predicted: Tensor, alpha: float) -> int:
    rivals = upper.scatter(1, predicted[:, None], -torch.inf)
    margin = -torch.expm1(rivals.amax(1)) / (1 + rivals.exp().sum(1))
    return int((margin > (1 - alpha) / alpha).sum())


def measure(case: str, q: MarginQuery, alpha: float) -> list[Row]:
    batched: dict[str, tuple[Method, ...]] = {"engine, IBP": ("IBP",), "engine, IBP and CROWN": ("IBP", "CROWN")}
    ways: dict[str, Callable[[], Tensor]] = {
        name: lambda methods=methods: AutoLirpa(methods).bounds(q).upper for name, methods in batched.items()
    }
    ways["plain loop, IBP and CROWN"] = lambda: loop(q)
    rows = []
    for name, way in ways.items():
        start = time.process_time()
        with torch.no_grad():
            upper = way()
        seconds = time.process_time() - start
        rows.append(Row(case, name, len(q.inputs), certified(upper, q.predicted, alpha), seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=0.75)
    arguments = parser.parse_args()
    data = need_data()
    compat.load()  # the import is nobody's work
    rows: list[dict[str, Any]] = []
    print(f"{'case':15}{'way':28}{'inputs':>7}{'certified':>10}{'seconds':>9}{'inputs/s':>10}{'certificates/s':>15}")
    for case, model, images, radius in CASES:
        query, _ = load_query(data / model, data / images, radius, arguments.limit)
        for row in measure(case, query, arguments.alpha):
            speed = f"{row.inputs / row.seconds:10.1f}{row.certified / row.seconds:15.1f}"
            print(f"{row.case:15}{row.way:28}{row.inputs:7}{row.certified:10}{row.seconds:9.2f}{speed}", flush=True)
            rows.append(asdict(row))
    save("engine_speed", {"alpha": arguments.alpha, "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
