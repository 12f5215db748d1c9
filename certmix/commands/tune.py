"""Choose alpha and temperature on one split, report on another: the best certified accuracy at a required clean one.

One verification run on --data (the tune split) answers for every pair (docs/maths.md 7); the pair with the best
certified accuracy at --radius among those with the required clean accuracy is audited, and judged, on --audit-data,
which took no part in the choice. Writes OUT/tune and OUT/audit (runs, as certmix audit does) and OUT/tune.json.

Exit 0: finished. 1: a certificate was refuted by an attack, which must not happen. 2: bad input, also where the splits
share an input or no pair is clean enough.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certmix.commands import arguments
from certmix.commands.audit import Audit
from certmix.commands.sweep import Point, add_grid, grid, sweep
from certmix.data.dataset import Dataset, load_data
from certmix.errors import UsageError
from certmix.mixing.mixed import check_alpha, check_temperature
from certmix.models.model import load_model, require_pair
from certmix.runs.finished import FinishedRun, open_run
from certmix.runs.store import Store
from certmix.settings import Settings
from proofs_check.certificate import Assumption
from proofs_check.reading.parse import array_sha256
from verifiers.smoothing.confidence import clopper_pearson_lower


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    arguments.add_models(parser)
    arguments.add_data(parser)
    parser.add_argument("--audit-data", metavar="A.npz", help="split to report on; may share no input with --data")
    add_grid(parser)
    parser.add_argument(
        "--clean-accuracy", type=arguments.number, metavar="S", help="of the mix, required on --data, in [0, 1]"
    )
    parser.add_argument("--confidence", type=arguments.number, default=0.95, help="of the interval (default 0.95)")
    parser.add_argument("--radius", type=arguments.number, metavar="R", help="in raw input units, e.g. 2/255")
    arguments.add_norm(parser)
    arguments.add_method(parser)
    parser.add_argument("--out", metavar="DIR", help="folder to write; an interrupted command goes on where it was")


def run(options: argparse.Namespace) -> int:
    out = Path(arguments.required(options, "out"))
    clean = _share(arguments.required(options, "clean_accuracy"), "clean-accuracy")
    confidence = _share(options.confidence, "confidence")
    alphas = tuple(a for a in grid(options.alpha, "--alpha", check_alpha) if a > 0.5)
    temperatures = grid(options.temperature, "--temperature", check_temperature)
    if not alphas:
        raise UsageError(f"--alpha {options.alpha}: Lemma 3.2 certifies alpha > 1/2 only")
    settings = _settings(options, alphas, temperatures)
    tune_data = load_data(arguments.required(options, "data"), options.limit, settings.domain)
    audit_data = load_data(arguments.required(options, "audit_data"), options.limit, settings.domain)
    need_disjoint(tune_data, audit_data)
    models = [load_model(arguments.required(options, name)) for name in ("standard", "robust")]
    require_pair(*models)
    for data in (tune_data, audit_data):
        data.require(models[1].input_shape, models[1].classes, settings.domain)
    finish(Audit(models[0], models[1], tune_data, settings, Store(out / "tune")))
    tuned = open_run(out / "tune")
    point = choose_point(sweep(tuned, alphas, temperatures, (_radius(settings),), 0).points, clean)
    print(f"chosen on {len(tune_data)} inputs: alpha {point.alpha:g}, temperature {point.temperature:g}")
    own = dataclasses.replace(settings, alpha=point.alpha, temperature=point.temperature)
    code = finish(Audit(models[0], models[1], audit_data, own, Store(out / "audit")))
    audited = open_run(out / "audit")
    record = {**as_record(tuned, audited, point, confidence), "required_clean_accuracy": clean}
    Store(out).write_json("tune.json", record)
    _show(record, out)
    return code


def _settings(options: argparse.Namespace, alphas: Sequence[float], temperatures: Sequence[float]) -> Settings:
    """Those of the run on the tune split, at the middle of the grid: exponential passes are stored for that pair."""
    if options.method != "margin" or options.use_standard or options.no_curves:
        raise UsageError("tune chooses by Lemma 3.2 from curves: leave out --method, --use-standard and --no-curves")
    arguments.required(options, "radius")
    middle = {"alpha": alphas[len(alphas) // 2], "temperature": temperatures[len(temperatures) // 2]}
    return arguments.settings(argparse.Namespace(**{**vars(options), **middle}))


def _radius(settings: Settings) -> float:
    if settings.radius is None:
        raise TypeError("excluded by _settings")
    return settings.radius


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"--{name} must lie in [0, 1], got {value}")
    return value


# ---------------------------------------------------------------- the splits


def need_disjoint(tune: Dataset, audit: Dataset) -> None:
    """Raises UsageError if any input of one split, bit for bit, is in the other too."""
    known = Counter(array_sha256(x) for x in tune.inputs)
    shared = [array_sha256(x) in known for x in audit.inputs]
    if any(shared):
        raise UsageError(
            f"{sum(shared)} of the {len(audit)} inputs of {audit.source} are also among the {len(tune)} of "
            f"{tune.source}, the first at {shared.index(True)}: a pair chosen on an input cannot be audited on it"
        )


def finish(audit: Audit) -> int:
    """Run it unless its folder holds exactly this run, finished; the exit code."""
    if audit.store.finished(audit.header()):
        return int(any(r["outcome"] == "falsified" and r["confirmed"] for r in audit.store.lines()))
    return audit.run()


# ---------------------------------------------------------------- the choice, and what became of it


def choose_point(points: Sequence[Point], clean: float) -> Point:
    """The best certified accuracy among points whose clean accuracy is at least `clean`, a share.

    Ties: the cleaner, then the one with less of the robust model. Raises UsageError if none is clean enough.
    """
    allowed = [p for p in points if p.clean >= 100 * clean]
    if not allowed:
        best = max(points, key=lambda p: p.clean)
        raise UsageError(
            f"no pair has clean accuracy {clean:g} on the tune split: the best has {best.clean / 100:.4f}, at alpha "
            f"{best.alpha:g}, temperature {best.temperature:g}; lower --clean-accuracy or try other pairs"
        )
    return max(allowed, key=lambda p: (p.certified_correct, p.clean, -p.alpha, -p.temperature))


@dataclass(frozen=True)
class Proportion:
    """hits of n, as a share, with its two-sided Clopper–Pearson interval."""

    hits: int
    n: int
    share: float
    lower: float
    upper: float


def proportion(hits: int, n: int, confidence: float) -> Proportion:
    """Each end fails with probability at most (1 - confidence) / 2 over the draw of the split. Rounded outward."""
    tail = (1 - confidence) / 2
    if not tail > 0:
        return Proportion(hits, n, hits / n, 0.0, 1.0)
    lower, missed = clopper_pearson_lower([hits, n - hits], n, tail)
    return Proportion(hits, n, hits / n, float(lower), 1 - float(missed))


def as_record(tuned: FinishedRun, audited: FinishedRun, point: Point, confidence: float) -> dict[str, Any]:
    """What tune.json holds."""
    n = len(audited.data)
    own = sweep(audited, (point.alpha,), (point.temperature,), (point.radius,), 0).points[0]
    correct = sum(r["predicted"] == r["label"] for r in audited.certified)
    return {
        "alpha": point.alpha,
        "temperature": point.temperature,
        "radius": point.radius,
        "norm": audited.settings.norm,
        "confidence": confidence,
        "tune": {"n": len(tuned.data), "clean": point.clean / 100, "certified_correct": point.certified_correct / 100},
        "audit": {
            "clean": dataclasses.asdict(proportion(round(own.clean * n / 100), n, confidence)),
            "certified_correct": dataclasses.asdict(proportion(correct, n, confidence)),
        },
    }


def _show(record: dict[str, Any], out: Path) -> None:
    tune, audit = record["tune"], record["audit"]
    print(f"{record['norm']} radius {record['radius']:.6g}, alpha {record['alpha']:g}, T {record['temperature']:g}")
    print(
        f"tune split ({tune['n']}), chosen on it: clean {tune['clean']:.4f}, certified {tune['certified_correct']:.4f} "
        f"({Assumption.ENGINE_TRUSTED.name})"
    )
    for name, text in (("clean", "clean"), ("certified_correct", "certified")):
        p = audit[name]
        interval = f"[{p['lower']:.4f}, {p['upper']:.4f}] at confidence {record['confidence']:g}"
        print(f"audit split ({p['n']}): {text} {p['share']:.4f}, {interval}")
    print(f"next: certmix check {out / 'audit'}")
