"""What branch and bound adds to bounds alone, judged, beside the limits that attacks set; what its proofs weigh.

    python benchmarks/branching.py [--case NAME] [--inputs N]

One case at a time or all of them; every finished case is kept in benchmarks/results/branching.json at once. Budgets are
parts of the ball per input (`--branch-parts`), so that figures do not depend on what else the machine does; times are
processor seconds of this process, of one thread.

Largest radii (digits): means over the inputs of the audit split, 0 where nothing is certified. "floor": the smallest
radius at which h's margin was seen to be too small, the limit of Lemma 3.2 whatever g is: by attacks on it and on the
mix, and by the points at which branching ends when it is asked to prove a radius between the certified one and that;
"mix": the attack radius of this mix. Both are upper limits, as far as they are found. With g the floor is the mix's own
limit: by attacks on it, and by the points at which branching over both networks ends. Fixed radii: counts of the inputs
that h classifies right; floor, mix: those for which no such point is found.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import DATA, ROOT, before, need_data, save
from torch import Tensor, nn

import certmix
from certmix.attacks import attack_radius
from certmix.provers.judging import check
from certmix.provers.margin.branching import beside, branch
from certmix.settings import Settings, diameter
from proofs_check.certificate import Accepted, Norm, PlainNetwork
from verifiers.branching.search import Branching, Budget
from verifiers.engine import MarginQuery

NAME = "branching"
ATTACK_STEPS = 60
DOMAIN = (0.0, 1.0)
FLOOR_STEPS, FLOOR_PARTS = 3, 64  # of halving what lies between proof and attack; parts, in which a point is looked for


@dataclass(frozen=True)
class Case:
    """parts: that may be bounded per input. radius: None for the largest. with_standard: g is bounded, too."""

    robust: Path
    standard: Path
    data: Path
    norm: Norm
    alpha: float
    radius: float | None
    inputs: int
    parts: int
    temperature: float = 1.0
    with_standard: bool = False


def _digits(norm: Norm, alpha: float, parts: int, with_standard: bool = False) -> Case:
    folder = ROOT / "examples" / "digits"
    files = folder / "robust.onnx", folder / "standard.onnx", folder / "audit.npz"
    return Case(*files, norm, alpha, None, 40, parts, with_standard=with_standard)


def _real(files: tuple[str, str, str], alpha: float, radius: float, inputs: int, parts: int, t: float = 1.0) -> Case:
    robust, standard, data = (DATA / file for file in files)
    return Case(robust, standard, data, "Linf", alpha, radius, inputs, parts, t)


CIFAR = ("cifar10/standard_resnet20.onnx", "cifar10/test_100.npz")
KW, RESNET = ("cifar10/robust_kw_base.onnx", *CIFAR), ("cifar10/robust_resnet4b.onnx", *CIFAR)
MNIST = ("mnist/robust.onnx", "mnist/standard.onnx", "mnist/test_1000.npz")
CASES = {
    **{
        f"digits {norm} {alpha}": _digits(norm, alpha, parts)
        for norm, parts in (("Linf", 2000), ("L2", 8000))
        for alpha in (0.6, 0.75, 0.9)
    },
    **{
        f"digits {norm} {alpha} with g": _digits(norm, alpha, 3000, True)
        for norm in ("Linf", "L2")
        for alpha in (0.4, 0.75)
    },
    "kw 2/255 0.55 T=4": _real(KW, 0.55, 2 / 255, 100, 4000, 4.0),
    "kw 2/255 0.75": _real(KW, 0.75, 2 / 255, 100, 30000),
    "kw 2/255 0.9": _real(KW, 0.9, 2 / 255, 100, 4000),
    "mnist 0.3 0.75": _real(MNIST, 0.75, 0.3, 200, 4000),
    "resnet4b 1/255 0.75": _real(RESNET, 0.75, 1 / 255, 30, 300),
}


class WorstStandard(nn.Module):
    """The g that Lemma 3.2 fears: sure of h's runner-up, whatever the input is."""

    def __init__(self, robust: nn.Module) -> None:
        super().__init__()
        self.robust = robust

    def forward(self, x: Tensor) -> Tensor:
        logits = self.robust(x)
        runner_up = logits.topk(2, dim=1).indices[:, 1]
        return 0 * logits + 1e3 * nn.functional.one_hot(runner_up, logits.shape[1])


def limits(case: Case, standard: certmix.Model, robust: certmix.Model, x: Tensor, y: Tensor, known: float) -> Any:
    """(N,) attack radii: of the floor, and of the mix. known: smaller ones are of no interest."""
    limit = diameter(case.norm, DOMAIN, x[0].numel())
    start = torch.full((len(x),), known, dtype=torch.float64)
    for g in (WorstStandard(robust.module), standard.module):
        mix = certmix.MixedClassifier(g, robust.module, case.alpha, case.temperature)
        found = attack_radius(mix, x, y, case.norm, DOMAIN, limit, 0.002, ATTACK_STEPS, known=start)
        yield found.radius


def proven(case: Case, standard: certmix.Model, robust: certmix.Model, x: Tensor, parts: int) -> dict[str, Any]:
    """What one input's proof comes to; radius 0 where there is none."""
    settings = Settings(case.alpha, case.norm, case.radius, temperature=case.temperature, domain=DOMAIN,
                        attack_steps=0, curves=False, branch_parts=parts, use_standard=case.with_standard)  # fmt: skip
    begun = time.process_time()
    (outcome,) = certmix.certify(standard, robust, x[None], settings=settings)
    seconds = time.process_time() - begun
    if not isinstance(outcome, certmix.Certified):
        return {"radius": 0.0, "seconds": seconds}
    begun = time.process_time()
    if not isinstance(check(outcome), Accepted):
        raise SystemExit("a certificate that certmix returned is rejected by the judge")
    evidence = json.loads(outcome.line)["evidence"]
    return {
        "radius": outcome.radius,
        "seconds": seconds,
        "by tree": evidence["rule"].startswith("branched_"),
        "judging": time.process_time() - begun,
        "bytes": len(outcome.line),
    }


def refuted(case: Case, network: PlainNetwork, x: Tensor, y: Tensor, proven: float, floor: float) -> float:
    """A radius above `proven`, at most `floor`, at which branching met a point where h's margin is too small, or with g
    the mix's."""
    engine = Branching()
    settings = Settings(case.alpha, case.norm, case.radius, temperature=case.temperature, domain=DOMAIN,
                        use_standard=case.with_standard)  # fmt: skip
    state = engine.prepare(network)
    trials = [case.radius] if case.radius is not None else [0.0] * FLOOR_STEPS
    for radius in trials:
        trial = radius or math.sqrt(max(proven, 1e-9) * floor)
        radii = torch.tensor([trial], dtype=torch.float64)
        query = MarginQuery(network, x[None], case.norm, radii, DOMAIN, y[None])
        found = branch(engine, state, query, settings, Budget(math.inf, FLOOR_PARTS)).found
        if found.point is None:
            return floor
        floor = min(floor, trial)
    return floor


def measure(case: Case, inputs: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """The figures of one case."""
    torch.set_num_threads(1)
    standard, robust = certmix.load_model(case.standard), certmix.load_model(case.robust)
    data = certmix.load_data(case.data, inputs)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    if standard.network is None or robust.network is None:
        raise SystemExit("no plain network")
    network = beside(standard.network, robust.network) if case.with_standard else robust.network
    mixed = certmix.MixedClassifier(standard.module, robust.module, case.alpha, case.temperature)
    with torch.no_grad():
        y = (mixed if case.with_standard else robust.module)(x).argmax(1)
    asked = torch.arange(len(x)) if case.radius is None else (y == labels).nonzero().flatten()
    floor, mix = limits(case, standard, robust, x[asked], y[asked], (case.radius or 0.0) / 2)
    floor = mix.clone() if case.with_standard else torch.minimum(floor, mix)
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for k in asked.tolist():
        bounds = proven(case, standard, robust, x[k], 0)
        decided = case.radius is not None and (bounds["radius"] or floor[len(rows)] <= case.radius)
        branched = bounds if decided else proven(case, standard, robust, x[k], case.parts)
        at = len(rows)
        if not (case.radius is not None and (branched["radius"] or floor[at] <= case.radius)):
            floor[at] = refuted(case, network, x[k], y[k], branched["radius"], float(floor[at]))
        rows.append((bounds, branched))
        tell(f"input {k}: bounds {bounds}, branching {branched}, floor {floor[len(rows) - 1]:.5g}")
    trees = [b for _, b in rows if b.get("by tree")]
    open_inputs = [(a, b) for a, b in rows if a is not b]
    figures = {
        "alpha": case.alpha, "norm": case.norm, "inputs": len(x), "parts": case.parts,
        "seconds of bounds": sum(a["seconds"] for a, _ in rows),
        "seconds of branching": sum(b["seconds"] for _, b in open_inputs), "inputs branched on": len(open_inputs),
        "trees": len(trees),
        "median proof bytes": statistics.median(b["bytes"] for b in trees) if trees else None,
        "largest proof bytes": max((b["bytes"] for b in trees), default=None),
        "seconds of judging trees": sum(b["judging"] for b in trees),
        "seconds of finding them": sum(b["seconds"] for b in trees),
    }  # fmt: skip
    if case.radius is None:
        means = {"bounds": [a["radius"] for a, _ in rows], "branching, judged": [b["radius"] for _, b in rows],
                 "floor": floor.tolist(), "mix": mix.tolist()}  # fmt: skip
        return figures | {name: sum(radii) / len(rows) for name, radii in means.items()}
    return figures | {
        "radius": case.radius,
        "bounds": sum(a["radius"] > 0 for a, _ in rows),
        "branching, judged": sum(b["radius"] > 0 for _, b in rows),
        "floor": int((floor > case.radius).sum()),
        "mix": int((mix > case.radius).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default=None)
    parser.add_argument("--inputs", type=int, default=None, help="the first N inputs, to try it out: not kept")
    options = parser.parse_args()
    for name in CASES if options.case is None else [options.case]:
        case = CASES[name]
        if DATA in case.robust.parents:
            need_data()
        row = {"case": name} | measure(case, options.inputs or case.inputs, lambda text: print(text, flush=True))
        print(json.dumps(row, indent=1), flush=True)
        if options.inputs is None:
            save(NAME, [*(r for r in before(NAME) if r["case"] != name), row])


if __name__ == "__main__":
    main()
