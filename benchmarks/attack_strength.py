"""How strong the attacks are: surviving inputs of CIFAR-10 mixes, beside foolbox's PGD with the same budget.

    .venv/bin/python benchmarks/attack_strength.py [--limit 100] [--steps 20]

Needs the real models in $CERTMIX_DATA (default ../shared/data). Writes benchmarks/results/attack_strength.json.
"""

from __future__ import annotations

import argparse
import warnings

import foolbox
import torch
from common import need_data, save
from torch import Tensor, nn

from certmix.attacks import make_ball
from certmix.attacks.worst import ATTACKS, Budget, worst
from certmix.data import load_data
from certmix.mixing import MixedClassifier
from certmix.models import load_model

RADIUS = 2 / 255
ALPHAS = (0.6, 0.75, 0.9)


def foolbox_survivors(model: nn.Module, x: Tensor, labels: Tensor, steps: int) -> Tensor:
    """(N,) bool: inputs foolbox's PGD leaves, with our default step of 2.5 · radius / steps."""
    torch.manual_seed(0)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps)
    _, _, found = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, labels, epsilons=RADIUS)
    return ~found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    cifar = need_data() / "cifar10"
    warnings.filterwarnings("ignore", category=UserWarning, module="foolbox")
    standard = load_model(cifar / "standard_resnet20.onnx").module
    robust = load_model(cifar / "robust_resnet4b.onnx").module
    data = load_data(cifar / "test_100.npz", options.limit)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    ball = make_ball(x, RADIUS, "Linf", (0.0, 1.0))
    rows = []
    for alpha in ALPHAS:
        mix = MixedClassifier(standard, robust, alpha).eval()
        with torch.no_grad():
            clean = mix(x).argmax(1) == labels
        row = {"alpha": alpha, "clean": int(clean.sum())}
        row["foolbox_pgd"] = int((clean & foolbox_survivors(mix, x, labels, options.steps)).sum())
        for name, attack in ATTACKS.items():
            row[name] = int((clean & ~attack(mix, ball, labels, Budget(options.steps)).found).sum())
        row["worst"] = int((~worst(mix, ball, labels, Budget(options.steps)).found).sum())
        rows.append(row)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    result = {"inputs": len(x), "radius": RADIUS, "steps": options.steps, "survivors": rows}
    save("attack_strength", result)


if __name__ == "__main__":
    main()
