"""How much of what an attack allows each theorem certifies: mean certified radius over mean attack radius, digits.

python benchmarks/digits_radii.py [--limit N] [--upstream DIR]

Certified: `certmix.certify` on the first N inputs of the audit split, 0 where it abstains. Attack: the smallest radius
at which an attack changes the class that h has at the input (an upper limit of every method, for this g). Rows:
Theorem 3.5 (local constants, the best of its kinds), box form and exponential form with default slopes, and tuned
slopes; and, for comparison, what nobody has certified: softmax bounds straight from auto_LiRPA's CROWN. Release 0.3
raises on a softmax node; --upstream names a folder with a newer auto_LiRPA (see softmax_bounds.py).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import softmax_bounds
import torch
from common import ROOT, save
from torch import Tensor

import certmix
from certmix.attacks import attack_radius
from certmix.settings import Settings, diameter
from proofs_check.certificate import Norm

WAYS: dict[str, dict[str, Any]] = {
    "Theorem 3.5": {"method": "lipschitz", "optimise": 0},
    "box": {"evidence": "engine", "optimise": 0},
    "exponential": {"optimise": 0},
    "optimised": {"optimise": 8},
}


UNCERTIFIED = "softmax node (not certified)"


def softmax_radius(robust: certmix.Model, x: Tensor, predicted: Tensor, alpha: float, norm: Norm) -> float | str:
    """Mean radius by auto_LiRPA's softmax node, or why there is none."""
    limit = diameter(norm, (0.0, 1.0), x[0].numel())
    try:
        bounds = softmax_bounds.SoftmaxBounds(robust.require_network())
        return bounds.radii(x, predicted, alpha, norm, limit).mean().item()
    except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError) as error:  # auto_LiRPA's limit
        return f"does not run: {type(error).__name__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--upstream", type=Path, default=None, help="folder of a newer auto_LiRPA")
    options = parser.parse_args()
    softmax_bounds.use(options.upstream)
    folder = ROOT / "examples" / "digits"
    standard, robust = certmix.load_model(folder / "standard.onnx"), certmix.load_model(folder / "robust.onnx")
    x = torch.from_numpy(certmix.load_data(folder / "audit.npz", options.limit).inputs)
    rows: list[dict[str, Any]] = []
    for norm in ("Linf", "L2"):
        for alpha in (0.6, 0.75, 0.9):
            base = Settings(alpha, norm=norm, attack_steps=0)
            mix = certmix.MixedClassifier(standard.module, robust.module, alpha)
            predicted = robust.module(x).argmax(1)
            limit = diameter(norm, (0.0, 1.0), x[0].numel())
            attacked = attack_radius(mix, x, predicted, norm, (0.0, 1.0), limit, tolerance=0.02).radius.mean().item()
            row: dict[str, Any] = {"norm": norm, "alpha": alpha, "inputs": len(x), "attack": attacked}
            for way, change in WAYS.items():
                found = certmix.certify(standard, robust, x, alpha=alpha, settings=dataclasses.replace(base, **change))
                total = sum(o.radius for o in found if isinstance(o, certmix.Certified))
                row[way] = total / len(x) / attacked
            loose = softmax_radius(robust, x, predicted, alpha, norm)
            row[UNCERTIFIED] = loose if isinstance(loose, str) else loose / attacked
            rows.append(row)
            told = {way: row[way] for way in (*WAYS, UNCERTIFIED)}
            shares = "  ".join(f"{way} {v if isinstance(v, str) else format(v, '.3f')}" for way, v in told.items())
            print(f"{norm:4s} alpha {alpha:.2f}  mean attack radius {attacked:.4f}  {shares}", flush=True)
    save("digits_radii", rows)


if __name__ == "__main__":
    main()
