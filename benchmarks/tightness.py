"""What each way of bounding certifies on the real models: box form, exponential form, tuned slopes, temperatures.

    python benchmarks/tightness.py [--limit N] [--steps 8] [--shared-steps 0] [--judge] [--case NAME]

Certified and correct inputs of a mix with Lemma 3.2 (any standard model), in percent of all. "points": correct inputs
whose margin at the input itself exceeds the required one, a bound on what any method could certify. --judge: every
certificate of the last column is handed to the judge, and those it accepts are counted beside it. With --case the other
cases of the results file stay as they are.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from common import before, need_data, save
from queries import load_query
from torch import Tensor

from certmix.provers.margin.exponential_head import Head, head
from certmix.theorems.margin import certifies, required_margin
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import Claim, PlainNetwork, RejectedError
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin, network_margin
from verifiers.crown.engine import Crown
from verifiers.engine import Answer, MarginQuery
from verifiers.network.module import PlainModule

CASES = (
    ("mnist 0.1", "mnist/robust.onnx", "mnist/test_1000.npz", 0.1),
    ("mnist 0.3", "mnist/robust.onnx", "mnist/test_1000.npz", 0.3),
    ("cifar10 kw 2/255", "cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", 2 / 255),
    ("cifar10 resnet4b 1/255", "cifar10/robust_resnet4b.onnx", "cifar10/test_100.npz", 1 / 255),
    ("cifar10 resnet4b 2/255", "cifar10/robust_resnet4b.onnx", "cifar10/test_100.npz", 2 / 255),
)
PAIRS = ((0.6, 1.0), (0.75, 1.0), (0.9, 1.0), (0.55, 4.0))


@dataclass
class Row:
    """Counts of correct inputs at one (alpha, T)."""

    case: str
    alpha: float
    temperature: float
    inputs: int
    points: int = 0
    box_default: int = 0
    box_tuned: int = 0
    exponential: int = 0
    judged: int | None = None


def least_margin(lower: Tensor, upper: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """(N,) the smallest box margin over the rivals."""
    own = own_class(predicted, upper.shape[1])
    return box_margin(lower, upper, predicted, temperature).masked_fill(own, torch.inf).min(1).values


def points(query: MarginQuery, temperature: float) -> Tensor:
    """(N,) margins at the inputs themselves."""
    z = PlainModule(query.network).double()(query.inputs.double())
    d = z - z.gather(1, query.predicted[:, None])
    return least_margin(d, d, query.predicted, temperature)


def accepted(query: MarginQuery, answer: Answer, found: Head, alpha: float, temperature: float, rows: Tensor) -> int:
    """How many of the inputs `rows` the judge accepts."""
    prepared, count = prepare(query.network), 0
    witnesses = answer.witness(None if found.slopes is None else found.slopes.slopes)
    for n in rows.nonzero().flatten().tolist():
        value = query.inputs[n].numpy()
        claim = _claim(query.network, value, float(query.radius[n]), int(query.predicted[n]), alpha, temperature)
        witness = witnesses[n]
        evidence = NetworkMargin(None if witness is None else base64.b64encode(witness).decode())
        try:
            network_margin(claim, evidence, Case(prepared, None, value))
            count += 1
        except RejectedError as error:
            print(f"  judge rejects input {n} at alpha {alpha}, T {temperature}: {error}")
    return count


def _claim(network: PlainNetwork, value: np.ndarray, radius: float, y: int, alpha: float, temperature: float) -> Claim:
    digest = parse.array_sha256(value)
    return Claim(
        "Linf", radius, alpha, temperature, y, "robust", (0.0, 1.0), "real", network.sha256, None, digest, None
    )


def measure(case: str, query: MarginQuery, correct: Tensor, engine: Crown, judge: bool) -> list[Row]:
    rows = [Row(case, a, t, len(query.inputs), judged=0 if judge else None) for a, t in PAIRS]
    state = engine.prepare(query.network)
    for index in torch.arange(len(query.inputs)).split(engine.batch):
        part = dataclasses.replace(
            query, inputs=query.inputs[index], radius=query.radius[index], predicted=query.predicted[index]
        )
        right, asked = correct[index], part.query()
        plain, _ = Crown(precision=engine.precision).bound(state, asked)
        tuned = engine.answer(state, asked)
        for row in rows:
            a, t = row.alpha, row.temperature
            row.points += int((right & (points(part, t) > required_margin(a))).sum())
            by_box = least_margin(plain.lower, plain.upper, part.predicted, t)
            row.box_default += int((right & certifies(by_box, a)).sum())
            with torch.no_grad():
                found = head(tuned, part.predicted, a, t, engine.steps)
            row.box_tuned += int((right & (found.box_slack > 0)).sum())
            row.exponential += int((right & (found.slack > 0)).sum())
            if row.judged is not None:
                row.judged += accepted(part, tuned, found, a, t, right & (found.slack > 0))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shared-steps", type=int, default=0)
    parser.add_argument("--case", choices=[c[0] for c in CASES], default=None)
    parser.add_argument("--judge", action="store_true")
    arguments = parser.parse_args()
    data = need_data()
    engine = Crown(steps=arguments.steps, shared_steps=arguments.shared_steps)
    rows: list[Row] = []
    print(f"{'case':24}{'alpha':>6}{'T':>5}{'inputs':>8}{'points':>8}{'box':>8}{'tuned':>8}{'exp.':>8}{'judged':>8}")
    for case, model, images, radius in CASES:
        if arguments.case in (None, case):
            query, correct = load_query(data / model, data / images, radius, arguments.limit)
            start = time.process_time()
            for row in measure(case, query, correct, engine, arguments.judge):
                share = [100 * n / row.inputs for n in (row.points, row.box_default, row.box_tuned, row.exponential)]
                text = "".join(f"{s:8.1f}" for s in share) + (
                    "" if row.judged is None else f"{100 * row.judged / row.inputs:8.1f}"
                )
                print(f"{case:24}{row.alpha:6.2f}{row.temperature:5g}{row.inputs:8}{text}", flush=True)
                rows.append(row)
            print(f"{case:24}{time.process_time() - start:.1f} processor seconds")
    kept = [row for row in before("tightness") if row["case"] not in {r.case for r in rows}]
    save("tightness", kept + [{**asdict(r), "steps": arguments.steps} for r in rows])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
