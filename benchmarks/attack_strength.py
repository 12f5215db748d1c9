"""How strong the attacks are: surviving inputs of CIFAR-10 mixes, beside foolbox's PGD with the same budget.

    .venv/bin/python benchmarks/attack_strength.py [--limit 100] [--steps 20] [--alpha 0.6 ...]

A figure counts the inputs of clean right class that survive. Needs the real models in $CERTMIX_DATA (default
../shared/data). Writes benchmarks/results/attack_strength.json after every alpha; rows of the same inputs and steps
that the file holds already are kept, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

import foolbox
import torch
from common import RESULTS, need_data, save
from torch import Tensor, nn

from certmix.attacks import Ball, make_ball, quick_attack
from certmix.attacks.worst import ATTACKS, Budget, worst
from certmix.data.dataset import load_data
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import load_model

RADIUS = 2 / 255
ALPHAS = (0.6, 0.75, 0.9)


def foolbox_survivors(model: nn.Module, x: Tensor, labels: Tensor, steps: int) -> Tensor:
    """(N,) bool: inputs foolbox's PGD leaves, with our default step of 2.5 · radius / steps."""
    torch.manual_seed(0)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps)
    _, _, found = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, labels, epsilons=RADIUS)
    return ~found


def survivors(mix: MixedClassifier, ball: Ball, labels: Tensor, steps: int) -> dict[str, Any]:
    """How many of the inputs survive each attack: foolbox's PGD, each of ours alone, the audit's, the worst case."""
    begin, budget, x = time.perf_counter(), Budget(steps), ball.center
    with torch.no_grad():
        clean = mix(x).argmax(1) == labels
    row: dict[str, Any] = {"alpha": mix.alpha, "clean": int(clean.sum())}
    row["foolbox_pgd"] = int((clean & foolbox_survivors(mix, x, labels, steps)).sum())
    row["worst"] = int((~worst(mix, ball, labels, budget).found).sum())
    # the audit's attack runs two phases: with half the steps each it spends what foolbox spends
    for name, each in (("quick", steps), ("quick_half", steps // 2)):
        tried = quick_attack(
            mix.standard, mix.robust, mix.alpha, 1.0, x, labels, "Linf", ball.radius, (0.0, 1.0), each
        )  # fmt: skip
        row[name] = int((clean & ~tried.found).sum())
    for name, attack in ATTACKS.items():
        row[name] = int((clean & ~attack(mix, ball, labels, budget).found).sum())
    return row | {"seconds": round(time.perf_counter() - begin)}


def kept_rows(inputs: int, steps: int) -> list[dict[str, Any]]:
    """Rows of an earlier run of the same size."""
    path = RESULTS / "attack_strength.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    same = figures.get("inputs") == inputs and figures.get("steps") == steps
    return figures["survivors"] if same else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--alpha", type=float, nargs="+", default=ALPHAS)
    options = parser.parse_args()
    cifar = need_data() / "cifar10"
    warnings.filterwarnings("ignore", category=UserWarning, module="foolbox")
    standard, robust = (load_model(cifar / f"{n}.onnx").module for n in ("standard_resnet20", "robust_resnet4b"))
    data = load_data(cifar / "test_100.npz", options.limit)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    ball = make_ball(x, RADIUS, "Linf", (0.0, 1.0))
    rows = kept_rows(len(x), options.steps)
    for alpha in options.alpha:
        if any(row["alpha"] == alpha for row in rows):
            continue
        mix = MixedClassifier(standard, robust, alpha).eval()
        rows.append(survivors(mix, ball, labels, options.steps))
        print("  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
        save("attack_strength", {"inputs": len(x), "radius": RADIUS, "steps": options.steps, "survivors": rows})


if __name__ == "__main__":
    main()
