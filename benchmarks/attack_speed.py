"""Attack throughput: gradient steps per second of PGD on the mix, beside foolbox (and torchattacks where installed).

    .venv/bin/python benchmarks/attack_speed.py [--limit 50] [--steps 10] [--repeats 3]

All run the same number of steps on every input (ours with keep_going, which gives up the early stop that an audit
enjoys; the last line shows it). Rounds are interleaved, the fastest of each counts. torchattacks is optional:
pip install --no-deps torchattacks. Writes benchmarks/results/attack_speed.json.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable

import foolbox
import torch
from common import need_data, save

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.data import load_data
from certmix.mixing import MixedClassifier
from certmix.models import load_model

RADII = {"Linf": 2 / 255, "L2": 0.25}


def contenders(mix: MixedClassifier, x: torch.Tensor, labels: torch.Tensor, steps: int) -> dict[str, Callable]:
    objective = ClassifierObjective(mix, "cross_entropy")
    wrapped = foolbox.PyTorchModel(mix, bounds=(0, 1))
    runs: dict[str, Callable] = {}
    for norm, theirs in (("Linf", foolbox.attacks.LinfPGD), ("L2", foolbox.attacks.L2PGD)):
        ball, radius = make_ball(x, RADII[norm], norm, (0.0, 1.0)), RADII[norm]  # type: ignore[arg-type]
        full, early = Schedule(steps, step="fixed", keep_going=True), Schedule(steps, step="fixed")
        runs[f"certmix {norm}"] = lambda b=ball, s=full: pgd(objective, b, labels, s)
        attack = theirs(rel_stepsize=2.5 / steps, steps=steps)
        runs[f"foolbox {norm}"] = lambda a=attack, r=radius: a(wrapped, x, labels, epsilons=r)
        runs[f"certmix {norm}, early stop"] = lambda b=ball, s=early: pgd(objective, b, labels, s)
    try:
        torchattacks = importlib.import_module("torchattacks")
    except ImportError:
        print("torchattacks is not installed: left out")
        return runs
    attack = torchattacks.PGD(mix, eps=RADII["Linf"], alpha=2.5 / steps * RADII["Linf"], steps=steps)
    runs["torchattacks Linf"] = lambda: attack(x, labels)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cifar = need_data() / "cifar10"
    warnings.filterwarnings("ignore", category=UserWarning, module="foolbox")
    models = [load_model(cifar / f"{n}.onnx").module for n in ("standard_resnet20", "robust_resnet4b")]
    data = load_data(cifar / "test_100.npz", options.limit)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    runs = contenders(MixedClassifier(*models, 0.75).eval(), x, labels, options.steps)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(options.repeats):
        for name, attack in runs.items():
            begin = time.perf_counter()
            attack()
            best[name] = min(best[name], time.perf_counter() - begin)
    speed = {name: len(x) * options.steps / seconds for name, seconds in best.items()}
    for name, value in speed.items():
        print(f"{name:26s} {value:9.1f} input steps/s")
    result = {"inputs": len(x), "steps": options.steps, "input_steps_per_second": speed}
    save("attack_speed", result)


if __name__ == "__main__":
    main()
