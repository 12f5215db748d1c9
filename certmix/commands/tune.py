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
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from certmix.commands import arguments
from certmix.commands.running import add_jobs, executor
from certmix.commands.sweep import add_grid, grid
from certmix.errors import UsageError
from certmix.formatting import exact, lower, nearest, ratio, upper
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.runs.store import Store
from certmix.settings import Settings
from proofs_check.certificate import Assumption


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
    add_jobs(parser)
    parser.add_argument("--out", metavar="DIR", help="folder to write; an interrupted command goes on where it was")


def run(options: argparse.Namespace) -> int:
    from certmix.commands.terminal import Terminal
    from certmix.models.model import load_pair
    from certmix.runs.audit import Audit
    from certmix.runs.finished import open_run
    from certmix.runs.sweep import sweep
    from certmix.runs.tune import as_record, choose_point, finish, need_disjoint

    out = Path(arguments.required(options, "out"))
    clean = _share(arguments.required(options, "clean_accuracy"), "clean-accuracy")
    confidence = _share(options.confidence, "confidence")
    alphas = tuple(a for a in grid(options.alpha, "--alpha", check_alpha) if a > 0.5)
    temperatures = grid(options.temperature, "--temperature", check_temperature)
    if not alphas:
        raise UsageError(f"--alpha {options.alpha}: Lemma 3.2 certifies alpha > 1/2 only")
    settings = _settings(options, alphas, temperatures)
    tune_data, audit_data = (arguments.data(options, settings.domain, name) for name in ("data", "audit_data"))
    for given in (tune_data, audit_data):
        given.require_labels("accuracies choose the mix")
    need_disjoint(tune_data, audit_data)
    files = arguments.required(options, "standard"), arguments.required(options, "robust")
    models = load_pair(*files, tune_data.inputs.shape[1:], ends=arguments.ends(options))
    for data in (tune_data, audit_data):
        data.require(models[1].input_shape, models[1].classes, settings.domain)
    listener = Terminal()
    execute = executor(options.jobs, listener)
    finish(Audit(*models, tune_data, settings, Store(out / "tune"), listener=listener, execute=execute))
    tuned = open_run(out / "tune")
    point = choose_point(sweep(tuned, alphas, temperatures, (_radius(settings),), 0).points, clean)
    print(f"chosen on {len(tune_data)} inputs: alpha {exact(point.alpha)}, temperature {exact(point.temperature)}")
    audit_settings = dataclasses.replace(settings, alpha=point.alpha, temperature=point.temperature)
    audit = Audit(*models, audit_data, audit_settings, Store(out / "audit"), listener=listener, execute=execute)
    code = finish(audit)
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


def _show(record: dict[str, Any], out: Path) -> None:
    tune, audit = record["tune"], record["audit"]
    mix = f"alpha {exact(record['alpha'])}, T {exact(record['temperature'])}"
    print(f"{record['norm']} radius {lower(record['radius'])}, {mix}")
    clean, certified = (Fraction(*ratio(100 * tune[name])) for name in ("clean", "certified_correct"))
    print(
        f"tune split ({tune['n']}), chosen on it: clean {nearest(clean, 4)}, certified {lower(certified, 4)} "
        f"({Assumption.ENGINE_TRUSTED.name})"
    )
    for name, text, show in (("clean", "clean", nearest), ("certified_correct", "certified", lower)):
        p = audit[name]
        interval = f"[{lower(p['lower'], 4)}, {upper(p['upper'], 4)}] at confidence {exact(record['confidence'])}"
        print(f"audit split ({p['n']}): {text} {show(Fraction(p['hits'], p['n']), 4)}, {interval}")
    print(f"next: certmix check {out / 'audit'}")
