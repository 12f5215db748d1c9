"""Attack throughput: gradient steps per processor second of PGD on the mix, beside foolbox and torchattacks.

    .venv/bin/python benchmarks/attack_speed.py [--limit 50] [--steps 20] [--rounds 7] [--torchattacks DIR]

One thread; all run the same model, inputs, radius, step size and number of steps on every input (ours with keep_going,
which gives up the early stop that an audit enjoys: see the rows so named). Rounds are interleaved, their order turned
each time; medians count. Ours and foolbox end by judging which inputs are lost, one evaluation more; torchattacks
returns points only, so it stands here twice: as it is, and with that evaluation. torchattacks is optional:
pip install --no-deps --target DIR torchattacks. Writes benchmarks/results/attack_speed.json.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import foolbox
import torch
from common import ROOT, need_data, save
from torch import Tensor

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.data.dataset import load_data
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import load_model
from proofs_check.certificate import Norm

Runs = dict[str, Callable[[], Any]]
NORMS: tuple[Norm, ...] = ("Linf", "L2")


def cases() -> dict[str, tuple[list[str], str, dict[Norm, float]]]:
    """The models, the images, the radii of the attacks."""
    cifar, digits = need_data() / "cifar10", ROOT / "examples" / "digits"
    return {
        "CIFAR-10, ResNet-20 + resnet4b": (
            [str(cifar / f"{n}.onnx") for n in ("standard_resnet20", "robust_resnet4b")],
            str(cifar / "test_100.npz"),
            {"Linf": 2 / 255, "L2": 0.25},
        ),
        "digits": (
            [str(digits / f"{n}.onnx") for n in ("standard", "robust")],
            str(digits / "tune.npz"),
            {"Linf": 0.1, "L2": 0.5},
        ),
    }


def contenders(mix: MixedClassifier, x: Tensor, labels: Tensor, norm: Norm, radius: float, steps: int) -> Runs:
    """Every attack as a call without arguments."""
    objective, ball = ClassifierObjective(mix, "cross_entropy"), make_ball(x, radius, norm, (0.0, 1.0))
    full, early = Schedule(steps, step="fixed", keep_going=True), Schedule(steps, step="fixed")
    theirs = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[norm](rel_stepsize=2.5 / steps, steps=steps)
    wrapped = foolbox.PyTorchModel(mix, bounds=(0, 1))
    runs: Runs = {
        "certmix": lambda: pgd(objective, ball, labels, full),
        "foolbox": lambda: theirs(wrapped, x, labels, epsilons=radius),
        "certmix, early stop": lambda: pgd(objective, ball, labels, early),
    }
    try:
        torchattacks = importlib.import_module("torchattacks")
    except ImportError:
        return runs
    kind = {"Linf": torchattacks.PGD, "L2": torchattacks.PGDL2}[norm]
    other = kind(mix, eps=radius, alpha=2.5 / steps * radius, steps=steps)
    runs["torchattacks, points only"] = lambda: other(x, labels)
    runs["torchattacks, judged"] = lambda: objective.broken(other(x, labels), labels)
    return runs


def seconds(runs: Runs, rounds: int) -> dict[str, float]:
    """Median processor time of each; one round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for k in range(rounds + 1):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            begin = time.process_time()
            runs[name]()
            taken[name].append(time.process_time() - begin)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torchattacks", metavar="DIR", help="the folder torchattacks was installed to")
    options = parser.parse_args()
    sys.path += [options.torchattacks] if options.torchattacks else []
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="foolbox")
    result: dict[str, Any] = {"inputs": options.limit, "steps": options.steps, "input_steps_per_second": {}}
    for case, (models, images, radii) in cases().items():
        mix = MixedClassifier(*(load_model(m).module for m in models), 0.75).eval()
        data = load_data(images, options.limit)
        x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
        for norm in NORMS:
            taken = seconds(contenders(mix, x, labels, norm, radii[norm], options.steps), options.rounds)
            speed = {name: round(len(x) * options.steps / each, 1) for name, each in taken.items()}
            result["input_steps_per_second"][f"{case}, {norm}"] = speed
            print(f"{case}, {norm}: ", "  ".join(f"{name} {value}" for name, value in speed.items()), flush=True)
    save("attack_speed", result)


if __name__ == "__main__":
    main()
