"""Certified against clean accuracy of the mix of a standard net and the 1-Lipschitz one, every certificate judged.

    python examples/lipschitz/sweep.py [--data FOLDER] [--limit N] [--alpha A,A] [--temperature T,T]

FOLDER holds robust.onnx and audit.npz (default: this folder, and the 400 audit images of examples/digits); --standard
names g (default: that of the digits). Prints, per alpha and temperature, how often the mix is right, and how often it
is provably right all over l2 balls.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

import certmix
from proofs_check.judge import Accepted

HERE = Path(__file__).parent
DIGITS = HERE.parent / "digits"
RADII = (0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class Row:
    """Of one mix, shares of all inputs; certified: per radius of RADII, and right; judged: how many certificates."""

    alpha: float
    temperature: float
    clean: float
    certified: tuple[float, ...]
    judged: int


def sweep(
    standard: certmix.Model, robust: certmix.Model, x: torch.Tensor, labels: torch.Tensor,
    alphas: tuple[float, ...], temperatures: tuple[float, ...],
) -> list[Row]:  # fmt: skip
    """Raises AssertionError if the judge accepts one certificate less than there are."""
    rows: list[Row] = []
    for alpha in alphas:
        for temperature in temperatures:
            settings = certmix.Settings(alpha, temperature=temperature, norm="L2", method="lipschitz", attack_steps=0)
            outcomes = certmix.certify(standard, robust, x, settings=settings)
            radii = [0.0] * len(x)
            judged = 0
            for k, outcome in enumerate(outcomes):
                if isinstance(outcome, certmix.Certified):
                    assert isinstance(certmix.check(outcome), Accepted)
                    judged += 1
                    radii[k] = outcome.radius * (outcome.predicted == int(labels[k]))
            mix = certmix.MixedClassifier(standard.module, robust.module, alpha, temperature)
            with torch.no_grad():
                clean = float((mix(x).argmax(dim=1) == labels).float().mean())
            shares = tuple(sum(r >= radius for r in radii) / len(x) for radius in RADII)
            rows.append(Row(alpha, temperature, clean, shares, judged))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder")
    parser.add_argument("--standard", type=Path, default=DIGITS / "standard.onnx")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--alpha", default="0.55,0.75")
    parser.add_argument("--temperature", default="4,10,30")
    options = parser.parse_args()
    folder: Path = options.data or HERE
    data = certmix.load_data((options.data or DIGITS) / "audit.npz", options.limit)
    standard, robust = certmix.load_model(options.standard), certmix.load_model(folder / "robust.onnx")
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    alphas, temperatures = (tuple(map(float, text.split(","))) for text in (options.alpha, options.temperature))
    print(f"{len(x)} inputs; alpha, T: clean %, certified and correct % at l2 " + " and ".join(map(str, RADII)))
    for alpha in alphas:
        for temperature in temperatures:
            (row,) = sweep(standard, robust, x, labels, (alpha,), (temperature,))
            shares = ", ".join(f"{100 * share:.1f}" for share in (row.clean, *row.certified))
            print(f"{alpha:g}, {temperature:g}: {shares}  ({row.judged} certificates judged)", flush=True)


if __name__ == "__main__":
    main()
