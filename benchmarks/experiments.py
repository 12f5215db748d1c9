"""Measures docs/experiments anew: every configuration of examples/experiments, and the runs and files these read.

    python benchmarks/experiments.py [WORD …]     only the configurations whose names hold one of the words
    python benchmarks/experiments.py --redraw     all figures again from the points in their JSON files

To be run from the checkout, with ../shared/data beside it, as the configurations say. An hour or two on two cores.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certmix.__main__ import main as certmix
from certmix.data.dataset import load_data
from certmix.experiments import accuracy_vs_alpha, certified_curves, confidence, tradeoff
from certmix.models.model import load_model

CONFIGS = Path("examples") / "experiments"
DIGITS = Path("examples") / "digits"
OUT = Path("out") / "experiments"
CIFAR10 = Path("..") / "shared" / "data" / "cifar10"


def smoothed_runs() -> None:
    """The audits behind the digits' certified curves: the mix, and smoothed h alone. A finished one is left alone."""
    for alpha in ("0.76", "1"):
        models = [f"--standard={DIGITS / 'standard.onnx'}", f"--robust={DIGITS / 'smoothed.onnx'}"]
        drawn = ["--method=smoothing", "--norm=L2", "--noise-std=0.5", "--samples=10000", f"--alpha={alpha}"]
        out = f"--out={OUT / f'smoothed_alpha_{alpha}'}"
        certmix(["audit", *models, f"--data={DIGITS / 'audit.npz'}", "--limit=100", *drawn, out])


def standard_predictions() -> None:
    """Logits of the standard CIFAR-10 model, for --match-clean."""
    data, model = load_data(CIFAR10 / "test_100.npz"), load_model(CIFAR10 / "standard_resnet20.onnx").module
    OUT.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        np.savez(OUT / "cifar10_standard_predictions.npz", logits=model(torch.from_numpy(data.inputs)).numpy())


BEFORE = {"digits_certified-curves": smoothed_runs, "cifar10-matched_certified-curves": standard_predictions}


def tradeoff_point(variant: str, gamma: str, *accuracies: float) -> tradeoff.TradeoffPoint:
    """A row of tradeoff.json."""
    scaling, output = variant.split(", ")
    return tradeoff.TradeoffPoint(scaling, output, float(gamma), *accuracies)  # type: ignore[arg-type]


REDRAWN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    tradeoff.NAME: (tradeoff_point, tradeoff.draw),
    accuracy_vs_alpha.NAME: (accuracy_vs_alpha.Accuracies, accuracy_vs_alpha.draw),
    confidence.NAME: (confidence.Gap, confidence.draw),
}


def redraw() -> int:
    for path in sorted((Path("docs") / "experiments").glob("*/*.json")):
        if path.stem == certified_curves.NAME:
            found = json.loads(path.read_text())["settings"]
            curves = [certified_curves.Curve.named(**c) for c in found["curves"]]
            certified_curves.draw(curves, found["clean_accuracy"], path.with_suffix(".png"))
            print(path.with_suffix(".png"))
        if path.stem in REDRAWN:
            read, draw = REDRAWN[path.stem]
            found = json.loads(path.read_text())
            draw([read(*row) for row in found["rows"]], found["settings"], path.with_suffix(".png"))
            print(path.with_suffix(".png"))
    return 0


def main(words: list[str]) -> int:
    if words == ["--redraw"]:
        return redraw()
    for config in sorted(CONFIGS.glob("*.toml")):
        if words and not any(word in config.stem for word in words):
            continue
        start = time.perf_counter()
        BEFORE.get(config.stem, lambda: None)()
        code = certmix(["experiment", config.stem.split("_")[1], "--config", str(config)])
        if code:
            return code
        print(f"{config.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
