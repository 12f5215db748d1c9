"""What auto_LiRPA beside the native engine costs an audit, and whether it would certify more.

    python benchmarks/engine_pair.py [WORD …]     only the runs whose names hold one of the words

Prints, per run and engine: seconds of the audit (the cross-check of `best` apart), mean certified radius, at how many
inputs auto_LiRPA's radius is the larger one, and by how much at most. "engine": its word is taken; "network": judged.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import DATA, ROOT, save

from certmix.__main__ import main as certmix

DIGITS = ROOT / "examples" / "digits"
MODELS = {
    "digits": (DIGITS / "standard.onnx", DIGITS / "robust.onnx", DIGITS / "audit.npz"),
    "mnist": tuple(DATA / "mnist" / name for name in ("standard.onnx", "robust.onnx", "test_1000.npz")),
    "kw": tuple(DATA / "cifar10" / name for name in ("standard_resnet20.onnx", "robust_kw_base.onnx", "test_100.npz")),
}
# name: (models, norm, method, evidence, inputs)
RUNS: dict[str, tuple[str, str, str, str, int]] = {
    "digits, Linf, judged": ("digits", "Linf", "margin", "network", 20),
    "digits, L2, judged": ("digits", "L2", "margin", "network", 20),
    "digits, Linf, lipschitz, judged": ("digits", "Linf", "lipschitz", "network", 20),
    "digits, Linf, engine's word": ("digits", "Linf", "margin", "engine", 20),
    "mnist, Linf, judged": ("mnist", "Linf", "margin", "network", 10),
    "cifar kw, Linf, judged": ("kw", "Linf", "margin", "network", 10),
}


def audit(models: tuple[Path, ...], norm: str, method: str, evidence: str, limit: int, engine: str) -> dict[str, Any]:
    """Seconds and radii by input, 0 where nothing is certified."""
    with tempfile.TemporaryDirectory() as folder:
        names = zip(("standard", "robust", "data"), models, strict=True)
        files = [f"--{name}={path}" for name, path in names]
        how = [f"--norm={norm}", f"--method={method}", f"--evidence={evidence}", f"--engine={engine}"]
        more = ["--alpha=0.75", "--attack-steps=0", "--no-curves", f"--limit={limit}", f"--out={folder}/run"]
        started = time.monotonic()
        if certmix(["audit", *files, *how, *more]) != 0:
            sys.exit(f"the audit of {how} failed")
        seconds = time.monotonic() - started
        run = Path(folder) / "run"
        lines = [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]
        checked = json.loads((run / "audit.json").read_text()).get("cross_check")
    radii = [float(r["radius"]) if r["outcome"] == "certified" else 0.0 for r in lines]
    return {"seconds": seconds, "radii": radii, "cross_check": checked}


def measure(name: str) -> dict[str, Any]:
    models, norm, method, evidence, limit = RUNS[name]
    found = {
        engine: audit(MODELS[models], norm, method, evidence, limit, engine)
        for engine in ("crown", "auto_lirpa", "best")
    }
    native, other = found["crown"]["radii"], found["auto_lirpa"]["radii"]
    gains = [b / a - 1 if a > 0 else float(b > 0) for a, b in zip(native, other, strict=True)]
    return {
        "run": name,
        "inputs": limit,
        **{f"{engine}_seconds": round(one["seconds"], 2) for engine, one in found.items()},
        "cross_check_seconds": round(found["best"]["cross_check"]["seconds"], 2),
        "contradictions": len(found["best"]["cross_check"]["contradictions"]),
        **{f"{engine}_mean_radius": sum(one["radii"]) / limit for engine, one in found.items()},
        "auto_lirpa_larger_at": sum(g > 0 for g in gains),
        "auto_lirpa_largest_gain": max(gains),
    }


def main(words: list[str]) -> None:
    wanted = [name for name in RUNS if not words or any(word in name for word in words)]
    figures = [measure(name) for name in wanted]
    for one in figures:
        print(json.dumps(one))
    if not words:
        save("engine_pair", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
