"""What one audit of the digits says of every alpha and temperature, `certmix tune`, and radii of adaptive mixes.

    python benchmarks/sweep_digits.py [--limit 200]

Linf. The sweep stands on an audit of largest radii, and on one of each fixed radius, whose bounds are of that very
ball. The figures of docs/sweep.md and docs/adaptive.md; seconds are processor seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, save
from torch import nn

import certmix
from certmix.__main__ import main as command
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.provers.certify import certify_adaptive
from certmix.reports.sweep_tables import front
from certmix.runs.sweep import Point
from certmix.settings import Settings
from proofs_check.certificate import Flatten, Input, Linear, PlainNetwork, Relu, Transform
from verifiers.network.module import build

DIGITS = ROOT / "examples" / "digits"
PICTURE = ROOT / "docs" / "pictures" / "sweep.png"
RADII = (0.1, 0.15)
SHOWN = (0.55, 0.6, 0.75, 0.9)  # alphas that docs/sweep.md shows
PAIR = (0.6, 4)  # alpha and temperature turned into certificates


def seconds(*words: str) -> float:
    """Processor seconds of a certmix command that must succeed."""
    start = time.process_time()
    if command(list(words)) != 0:
        sys.exit(f"certmix {' '.join(words)} failed")
    return time.process_time() - start


def audit(folder: Path, limit: int, *more: str) -> float:
    """Seconds of the audit of examples/digits/audit.toml."""
    return seconds("audit", "--config", str(DIGITS / "audit.toml"), "--limit", str(limit), "--out", str(folder), *more)


def mean_radius(folder: Path, limit: int) -> float:
    """Over all inputs, 0 where nothing is certified."""
    lines = (json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines())
    return sum(line["radius"] for line in lines if line.get("outcome") == "certified") / limit


def one_pair(out: Path, limit: int) -> dict[str, float]:
    """Mean largest radii at PAIR: certificates from the stored curves of the audit in out/None, and a fresh audit."""
    seconds("sweep", str(out / "None"), "--certify", ",".join(map(str, PAIR)), "--out", str(out / "stored"))
    audit(out / "fresh", limit, "--alpha", str(PAIR[0]), "--temperature", str(PAIR[1]))
    return {name: mean_radius(out / name, limit) for name in ("stored", "fresh")}


def swept(folder: Path, limit: int, radius: float | None) -> dict[str, Any]:
    """An audit, the sweep of 204 pairs at both radii or at its own, and the size of its curves."""
    spent = audit(folder, limit, *([] if radius is None else ["--radius", str(radius)]))
    shown = RADII if radius is None else (radius,)
    asked = ["--alpha", "0.5:1:0.01", "--temperature", "1,2,4,8", "--radius", ",".join(map(str, shown))]
    sweep = seconds("sweep", str(folder), *asked)
    points = [Point(**p) for p in json.loads((folder / "sweep.json").read_text())["points"]]
    size = sum(path.stat().st_size for path in (folder / "curves").iterdir())
    return {
        "radius": "largest" if radius is None else radius,
        "audit_seconds": spent,
        "sweep_seconds": sweep,
        "curves_bytes_per_input": size / limit,
        "points": [vars(p) for p in points if p.alpha in SHOWN],
        "best_pairs": [vars(p) for r in shown for p in front([q for q in points if q.radius == r])],
    }


def tuned(folder: Path) -> dict[str, Any]:
    """The command of docs/sweep.md."""
    models = ["--standard", str(DIGITS / "standard.onnx"), "--robust", str(DIGITS / "robust.onnx")]
    data = ["--data", str(DIGITS / "tune.npz"), "--audit-data", str(DIGITS / "audit.npz")]
    spent = seconds("tune", *models, *data, "--clean-accuracy", "0.985", "--radius", "0.15", "--out", str(folder))
    return {"seconds": spent, **json.loads((folder / "tune.json").read_text())}


def random_network(seed: int) -> PlainNetwork:
    """Two logits of a digit."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    first, last = (draw(16, 64), draw(16)), (draw(2, 16), draw(2))
    return build([Input((1, 8, 8)), Flatten((0,)), Linear((1,), *first), Relu((2,)), Linear((3,), *last)])


def adaptive() -> dict[str, dict[str, float]]:
    """The largest radius on the first audit image, and the bound of alpha its certificate states."""
    standard, robust = certmix.load_model(DIGITS / "standard.onnx"), certmix.load_model(DIGITS / "robust.onnx")
    x = torch.from_numpy(certmix.load_data(DIGITS / "audit.npz", 1).inputs)
    opaque = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid(), nn.Flatten(0))
    mixes = {
        "alpha declared >= 0.75": AdaptiveMix(opaque, 0.75),
        "alpha network in [0.6, 0.95]": AdaptiveMix(SigmoidAlpha(random_network(0), 0.6, 0.95)),
        "M(z) = max(z + 1, 0)^2": AdaptiveMix(0.75, transform=Transform(1.0, 2.0, True)),
        "M(z) = z^3": AdaptiveMix(0.75, transform=Transform(0.0, 3.0, False)),
    }
    found = {"nothing adaptive": certmix.certify(standard, robust, x, alpha=0.75)[0]}
    found |= {name: certify_adaptive(standard, robust, x, mix, Settings(0.75))[0] for name, mix in mixes.items()}
    return {
        name: {"radius": o.radius, "alpha": o.alpha} for name, o in found.items() if isinstance(o, certmix.Certified)
    }


def draw(limit: int) -> None:
    """docs/pictures/sweep.png, of the sweep at one radius."""
    with tempfile.TemporaryDirectory() as scratch:
        swept(Path(scratch) / "run", limit, RADII[0])
        shutil.copy(Path(scratch) / "run" / "sweep.png", PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--picture", action="store_true", help="only the picture of docs/index.md")
    options = parser.parse_args()
    if options.picture:
        draw(options.limit)
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        sweeps = [swept(out / str(radius), options.limit, radius) for radius in (None, *RADII)]
        pair = one_pair(out, options.limit)
        figures = {"inputs": options.limit, "sweeps": sweeps, "pair": pair, "tune": tuned(out / "tuned")}
        figures["adaptive"] = adaptive()
    for row in sweeps:
        spent = f"audit {row['audit_seconds']:.0f} s, sweep {row['sweep_seconds']:.0f} s"
        print(f"radius {row['radius']}: {spent}, {row['curves_bytes_per_input']:.0f} bytes of curves per input")
        for p in row["points"]:
            shares = f"{p['clean']:.1f} / {p['certified_correct']:.1f} / {p['attacked']:.1f}"
            print(f"  Linf {p['radius']:g}  alpha {p['alpha']:g}  T = {p['temperature']:g}  {shares}")
    print(
        f"mean largest radius at {PAIR}: {pair['stored']:.4f} from stored curves, {pair['fresh']:.4f} by a fresh audit"
    )
    for name, own in figures["adaptive"].items():
        print(f"{name:30s} radius {own['radius']:.3f}, alpha >= {own['alpha']:.3f}")
    save("sweep_digits", figures)


if __name__ == "__main__":
    main()
