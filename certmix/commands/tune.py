"""Choose alpha and temperature on one split, report on another: the best certified accuracy at a required clean one.

One verification run on --data (the tune split) answers for every pair (docs/maths.md 7); the pair with the best
certified accuracy at --radius among those with the required clean accuracy is audited, and judged, on --audit-data,
which took no part in the choice. Writes OUT/tune and OUT/audit (runs, as certmix audit does) and OUT/tune.json.

With --method adaptive the map of h's logits (--transform, such as mixednuts) and the range of alpha(x) are chosen, too,
of all that their grids say, by one pass of bounds on the tune split; it leaves no OUT/tune.

Exit 0: finished. 1: a certificate was refuted by an attack, which must not happen. 2: bad input, also where the splits
share an input or no mix is clean enough.
"""

from __future__ import annotations

import argparse
import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certmix.commands import adaptive, arguments
from certmix.commands.parsing import file
from certmix.commands.running import add_jobs, executor
from certmix.commands.sweep import add_grid
from certmix.errors import UsageError
from certmix.formatting import exact, lower, nearest, ratio, upper
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.runs.store import Store
from certmix.settings import Settings
from proofs_check.certificate import Assumption

if TYPE_CHECKING:
    from certmix.data.dataset import Dataset
    from certmix.models.model import Model
    from certmix.runs.listener import Listener
    from certmix.runs.sweep import Point
    from certmix.runs.tune_adaptive import AdaptivePoint, Candidates

ALPHAS = "0.5:1:0.01"
Grids = tuple[tuple[float, ...], tuple[float, ...]]  # of alpha, of the temperature


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    arguments.add_models(parser)
    arguments.add_data(parser)
    parser.add_argument(
        "--audit-data", type=file, metavar="A.npz", help="split to report on; may share no input with --data"
    )
    add_grid(parser)
    parser.set_defaults(alpha=None)
    parser.add_argument(
        "--clean-accuracy", type=arguments.number, metavar="S", help="of the mix, required on --data, in [0, 1]"
    )
    parser.add_argument("--confidence", type=arguments.number, default=0.95, help="of the interval (default 0.95)")
    parser.add_argument("--radius", type=arguments.number, metavar="R", help="in raw input units, e.g. 2/255")
    arguments.add_norm(parser)
    arguments.add_method(parser)
    adaptive.add_arguments(parser, grids=True)
    add_jobs(parser)
    parser.add_argument(
        "--out", type=file, metavar="DIR", help="folder to write; an interrupted command goes on where it was"
    )


def run(options: argparse.Namespace) -> int:
    from certmix.commands.terminal import Terminal
    from certmix.models.model import load_pair
    from certmix.runs.audit import Audit
    from certmix.runs.tune import as_record, finish, need_disjoint

    out = Path(arguments.required(options, "out"))
    clean = _share(arguments.required(options, "clean_accuracy"), "clean-accuracy")
    confidence = _share(options.confidence, "confidence")
    is_adaptive = adaptive.asked(options)  # before alpha has its default
    grids = _grids(options)
    candidates = adaptive.candidates(options, *grids) if is_adaptive else None
    settings = _settings(options, grids, candidates)
    tune_data, audit_data = (arguments.data(options, settings.domain, name) for name in ("data", "audit_data"))
    for given in (tune_data, audit_data):
        given.require_labels("accuracies choose the mix")
    need_disjoint(tune_data, audit_data)
    files = arguments.required(options, "standard"), arguments.required(options, "robust")
    models = load_pair(*files, tune_data.inputs.shape[1:], ends=arguments.ends(options), allow_code=options.allow_code)
    for data in (tune_data, audit_data):
        data.require(models[1].input_shape, models[1].classes, settings.domain)
    listener = Terminal()
    execute = executor(options, listener)
    if candidates is None:
        store = Store(out / "tune")
        finish(Audit(*models, tune_data, settings, store, listener=listener, execute=execute))
        point, mix = _choose(store.path, grids, _radius(settings), clean), None
    else:
        point = _choose_adaptive(models, tune_data, candidates, settings, clean, listener)
        mix = point.mix
    print(f"chosen on {len(tune_data)} inputs: {point.in_words()}")
    claimed = None if mix is None else mix.claimed()
    chosen = dataclasses.replace(settings, alpha=point.alpha, temperature=point.temperature, adaptive=claimed)
    store = Store(out / "audit")
    code = finish(Audit(*models, audit_data, chosen, store, adaptive=mix, listener=listener, execute=execute))
    record = as_record(point, settings.norm, len(tune_data), store.path, confidence)
    Store(out).write_json("tune.json", {**record, "required_clean_accuracy": clean})
    _show(record, out)
    return code


def _choose(folder: Path, grids: Grids, radius: float, clean: float) -> Point:
    from certmix.runs.finished import open_run
    from certmix.runs.sweep import sweep
    from certmix.runs.tune import choose_point

    return choose_point(sweep(open_run(folder), *grids, (radius,), 0).points, clean)


def _choose_adaptive(
    models: tuple[Model, Model],
    data: Dataset,
    candidates: Candidates,
    settings: Settings,
    clean: float,
    listener: Listener,
) -> AdaptivePoint:
    from certmix.mixing.adaptive import checked
    from certmix.runs.tune import choose_point
    from certmix.runs.tune_adaptive import known_of, points

    checked(models[1].input_shape, models[1].classes, candidates.first())
    adaptive.tried(candidates.first(), data.inputs)
    known = known_of(*models, data, candidates, settings, listener)
    return choose_point(list(points(known, candidates, _radius(settings))), clean)


def _grids(options: argparse.Namespace) -> Grids:
    """Alphas, of which Lemma 3.2 asks more than 1/2, and temperatures."""
    alphas = tuple(a for a in arguments.grid(options.alpha or ALPHAS, "--alpha", check_alpha) if a > 0.5)
    if not alphas:
        raise UsageError(f"--alpha {options.alpha}: Lemma 3.2 certifies alpha > 1/2 only")
    return alphas, arguments.grid(options.temperature, "--temperature", check_temperature)


def _settings(options: argparse.Namespace, grids: Grids, candidates: Candidates | None) -> Settings:
    """Those of the tune split, at the middle of the grids: exponential passes are stored for that pair."""
    if (options.method != "margin" and candidates is None) or options.use_standard or options.no_curves:
        raise UsageError("tune chooses by Lemma 3.2 from curves: leave out --method, --use-standard and --no-curves")
    arguments.required(options, "radius")
    middle = {name: values[len(values) // 2] for name, values in zip(("alpha", "temperature"), grids, strict=True)}
    given = argparse.Namespace(**{**vars(options), **middle})
    return arguments.settings(given, None if candidates is None else candidates.first())


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
    print(f"{record['norm']} radius {lower(record['radius'])}, {record['mix']}")
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
