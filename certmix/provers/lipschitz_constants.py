"""Lipschitz constants of h, estimated, on the ball and everywhere, and the radii that follow from each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from certmix.errors import UsageError
from certmix.provers.global_table import GlobalTable
from certmix.provers.judging import prepared
from certmix.provers.lipschitz_relaxed import Asker, EngineChoice, RelaxedLocal, askers, attacked, contradiction
from certmix.records import assumptions
from certmix.settings import diameter
from certmix.theorems.lipschitz import (
    AnchoredConstants,
    EstimatedConstants,
    GlobalConstants,
    LogitsAtInputs,
    certified_radius,
    closed_form_radius,
    difference_radius,
    estimated_radius,
    largest_variance,
    margin_constants,
    paper_radius,
    probability_bounds,
    probability_constants,
)
from proofs_check.certificate import Norm, PlainNetwork
from verifiers.auto_lirpa.jacobian import upstream_constants
from verifiers.engine import EngineError
from verifiers.lipschitz.constants import difference_forms, global_pair_constants, local_bounds, pair_constants
from verifiers.lipschitz.estimate import Search, estimate, probability_gradients
from verifiers.lipschitz.layer_norms import product_constants
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP
from verifiers.lipschitz.value_bounds import ValueBounds
from verifiers.norms import NORMS

MAX_NEURONS = 256  # beyond, the semidefinite bounds take hours


@dataclass(frozen=True)
class Request:
    """What is measured: balls of `radius` in `norm` within `domain`; the mix's alpha (1: h alone) and temperature.

    upstream: also take upstream auto_LiRPA's word for local constants, where it is installed and covers the graph.
    engine: which bounds relaxed constants come from; best: from the native engine's and auto_LiRPA's, side by side.
    """

    norm: Norm
    radius: float
    domain: tuple[float, float] | None = (0.0, 1.0)
    alpha: float = 1.0
    temperature: float = 1.0
    lipsdp: bool = True
    upstream: bool = False
    search: Search = field(default_factory=Search)
    engine: EngineChoice = "best"

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise UsageError(f"radius must be > 0, got {self.radius}")


@dataclass(frozen=True, eq=False)
class GlobalPairs:
    """(K, K) constants of z_i - z_k on the whole space, and what gave the largest of those asked for; notes: what
    failed."""

    values: Tensor
    source: str
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Measurement:
    """Per input (N,): constants max_j of z_j - z_y, constants of h_y, and radii; estimates are marked as such.

    relaxed: of h, L_y plus the largest other L_i, by what found them: an attack ("estimate") or an engine. Ensures:
    estimate <= local <= overall, for the logit differences and for h_y alike; relaxed["estimate"] is the least.
    """

    predicted: Tensor
    estimate: Tensor
    local: Tensor
    overall: Tensor
    probability_estimate: Tensor
    probability_local: Tensor
    probability_overall: Tensor
    relaxed: dict[str, Tensor]
    radii: dict[str, Tensor]
    relaxed_holds: Tensor
    source: str
    notes: tuple[str, ...]


def global_pairs(
    maps: LinearMaps, request: Request, predicted: list[int], done: Callable[[], None] = lambda: None
) -> GlobalPairs:
    """The least of the sound global constants at hand for every pair of classes. Semidefinite bounds, by far the
    dearest, are for pairs with one of `predicted` alone; other pairs have them through one of these. done: told of each
    of them.
    """
    classes = maps.network.classes
    eye = torch.eye(classes, dtype=torch.float64)
    forms = (eye[:, None] - eye[None]).reshape(-1, classes)
    by_source = {
        "jacobian": global_pair_constants(maps, request.norm).cpu(),
        "layer norms": product_constants(maps, forms, request.norm).reshape(classes, classes).cpu(),
    }
    notes: list[str] = []
    table = GlobalTable(maps, LipSDP(max_neurons=MAX_NEURONS), prepared(maps.network))
    by_layers = [table.layer_constants(y, request.norm) for y in predicted]
    by_source["layer norms"] = torch.minimum(by_source["layer norms"], _through(predicted, by_layers, classes))
    if request.lipsdp and NORMS[request.norm].euclidean:
        try:
            semidefinite: list[Tensor] = []
            for y in predicted:
                semidefinite.append(table.constants(y, request.norm))
                done()
            by_source["LipSDP"] = _through(predicted, semidefinite, classes)
        except EngineError as error:
            notes.append(f"LipSDP left out: {error}")
    values = torch.stack(list(by_source.values())).amin(dim=0)
    source = min(by_source, key=lambda name: float(by_source[name][predicted].max()))
    return GlobalPairs(values, source, tuple(notes))


def _through(predicted: list[int], constants: list[Tensor], classes: int) -> Tensor:
    """(K, K) constants of pairs with a predicted class, from those of each; of others |d_i - d_k| <= |d_i| + |d_k|."""
    values = torch.full((classes, classes), torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    for y, of_y in zip(predicted, constants, strict=True):
        values[y] = values[:, y] = of_y
    for y in predicted:
        values = torch.minimum(values, (values[:, y, None] + values[y]) * (1 + 2.0**-50))
    return values.fill_diagonal_(0.0)


def measure(
    maps: LinearMaps, inputs: Tensor, request: Request, overall: GlobalPairs, engines: dict[str, Asker]
) -> Measurement:
    """Constants and radii of one batch. Raises EngineError."""
    network = maps.network
    count, classes = len(inputs), network.classes
    radius = torch.full((count,), request.radius, dtype=torch.float64)
    bounds = local_bounds(maps, inputs, radius, request.norm, request.domain)
    logits = maps.exact(inputs.to(maps.device, torch.float64))
    point = LogitsAtInputs(logits.cpu(), logits.argmax(dim=1).cpu(), request.alpha, request.temperature)
    y = point.predicted
    pairs = torch.minimum(pair_constants(bounds).cpu(), overall.values[None])
    notes = overall.notes + (_upstream(maps, bounds, y, pairs) if request.upstream else ())
    forms = difference_forms(classes, y.to(maps.device))
    estimates = estimate(maps, bounds.balls, forms, request.search)
    lower, upper = (end.cpu() for end in bounds.differences(y))
    each = torch.arange(count)
    least, most = probability_bounds(lower, upper, y, request.temperature)
    variance = largest_variance(least, most)
    local_h = probability_constants(pairs, variance, request.temperature)
    overall_h = probability_constants(overall.values[None].expand_as(pairs), None, request.temperature)
    estimate_h = probability_gradients(maps, bounds.balls, estimates.points, request.temperature).cpu()
    by_attack = attacked(maps, bounds.balls, point, request.search, estimates.points, request.radius)
    by_engine, more_notes = _by_engine(engines, inputs, point, request)
    local = SoundConstants(pairs[each, y], local_h, margin_constants(point, pairs[each, y], least, most))
    everywhere = SoundConstants(overall.values[y], overall_h, margin_constants(point, overall.values[y], None, None))
    return Measurement(
        predicted=y,
        estimate=estimates.best.amax(dim=1).cpu(),
        local=pairs[each, y].amax(dim=1),
        overall=overall.values[y].amax(dim=1),
        probability_estimate=estimate_h[each, y],
        probability_local=local_h[each, y],
        probability_overall=overall_h[each, y],
        relaxed={
            "estimate": _summed(point, by_attack.constants),
            **{name: _summed(point, one.constants) for name, one in by_engine.items()},
        },
        radii=_radii(point, request, estimates.best.cpu(), local, everywhere)
        | {"estimate, paper": by_attack.radius}
        | {f"local, {name}": one.radius for name, one in by_engine.items()},
        relaxed_holds=torch.stack([one.radius for one in by_engine.values()]).amax(dim=0) >= request.radius,
        source=overall.source,
        notes=notes + more_notes,
    )


def _upstream(maps: LinearMaps, bounds: ValueBounds, predicted: Tensor, pairs: Tensor) -> tuple[str, ...]:
    """Lower the predicted classes' constants in `pairs` (N, K, K) to upstream's where those are less; notes on it."""
    try:
        constants = upstream_constants(maps.network, bounds.balls, predicted.to(maps.device))
    except EngineError as error:
        return (f"upstream's Jacobian bounds left out: {error}",)
    each = torch.arange(len(predicted))
    least = torch.minimum(pairs[each, predicted], constants)
    pairs[each, predicted] = least
    pairs[each, :, predicted] = least
    return ("certified local constants also rest on auto_LiRPA's JacobianOP, which does not count its rounding",)


def _by_engine(
    engines: dict[str, Asker], inputs: Tensor, point: LogitsAtInputs, request: Request
) -> tuple[dict[str, RelaxedLocal], tuple[str, ...]]:
    """What each engine's bounds give; and notes: who failed, and where two engines contradict each other."""
    found: dict[str, RelaxedLocal] = {}
    notes: list[str] = []
    for name, asker in engines.items():
        try:
            found[name] = asker.relaxed(inputs, point, request.radius, request.norm, request.domain)
        except EngineError as error:
            if len(engines) == 1:
                raise
            notes.append(f"{name} left out: {error}")
    if len(found) == 2:
        first, second = found.values()
        if wrong := contradiction(first, second):
            names = " and ".join(found)
            notes.append(
                f"{names} contradict each other at {len(wrong)} inputs of a batch: one is wrong, please report it"
            )
    return found, tuple(notes)


def _summed(point: LogitsAtInputs, values: Tensor) -> Tensor:
    """(N,) L_y plus the largest of the others: Theorem 3.5's denominator at worst."""
    own = values.gather(1, point.predicted[:, None])[:, 0]
    return own + values.masked_fill(point.own, 0.0).amax(dim=1)


@dataclass(frozen=True, eq=False)
class SoundConstants:
    """Sound constants of one kind, (N, K) each: of z_j - z_y, of h_i, of h_y - h_i."""

    differences: Tensor
    probabilities: Tensor
    margins: Tensor


def _radii(
    point: LogitsAtInputs, request: Request, estimated: Tensor, local: SoundConstants, everywhere: SoundConstants
) -> dict[str, Tensor]:
    """Every radius in the table; local ones are at most the ball's."""
    eps = torch.full((len(point.logits),), request.radius, dtype=torch.float64)
    limit = 1e6 if request.domain is None else diameter(request.norm, request.domain, 2**26)
    anchored = AnchoredConstants(local.differences, "differences", eps)
    return {
        "estimate": estimated_radius(point, EstimatedConstants(estimated, "differences", eps), limit).value,
        "local, paper": certified_radius(point, AnchoredConstants(local.probabilities, "probabilities", eps), limit),
        "local, margins": torch.minimum(difference_radius(point, local.margins), eps),
        "local, closed form": torch.minimum(closed_form_radius(point, local.differences), eps),
        "local, bisected": certified_radius(point, anchored, limit),
        "global, paper": paper_radius(point, everywhere.probabilities),
        "global, margins": difference_radius(point, everywhere.margins),
        "global, closed form": closed_form_radius(point, everywhere.differences),
        "global, bisected": certified_radius(point, GlobalConstants(everywhere.differences, "differences"), limit),
    }


def measure_all(
    network: PlainNetwork,
    inputs: Tensor,
    request: Request,
    device: str,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> list[Measurement]:
    """Constants and radii of inputs (N, *input_shape), batch by batch. progress: told of steps done and of how many
    there are. Raises EngineError."""
    maps = LinearMaps(network, device)
    batches = inputs.split(batch_size)
    logits = torch.cat([maps.exact(part.to(maps.device, torch.float64)) for part in batches])
    predicted = sorted(set(logits.argmax(dim=1).tolist()))
    steps, total = itertools.count(1), len(predicted) + len(batches)
    progress(0, total)
    overall = global_pairs(maps, request, predicted, lambda: progress(next(steps), total))
    engines, left_out = askers(network, request.engine, device)
    overall = dataclasses.replace(overall, notes=overall.notes + left_out)
    parts: list[Measurement] = []
    for n, part in enumerate(batches, start=1):
        parts.append(measure(maps, part, request, overall, engines))
        progress(len(predicted) + n, total)
    return parts


def as_record(parts: list[Measurement], request: Request) -> dict[str, Any]:
    """JSON-able: the settings and one row per input; an unbounded radius is null."""
    records: list[dict[str, Any]] = []
    for part in parts:
        for n in range(len(part.predicted)):
            radii = {name: float(value[n]) for name, value in part.radii.items()}
            records.append(
                {
                    "index": len(records),
                    "predicted": int(part.predicted[n]),
                    "logits": {k: float(getattr(part, k)[n]) for k in ("estimate", "local", "overall")},
                    "probability": {
                        k: float(getattr(part, f"probability_{k}")[n]) for k in ("estimate", "local", "overall")
                    },
                    "relaxed": {k: float(v[n]) for k, v in part.relaxed.items()},
                    "radius": {k: v if v < float("inf") else None for k, v in radii.items()},
                    "relaxed_holds": bool(part.relaxed_holds[n]),
                }
            )
    settings = {k: getattr(request, k) for k in ("norm", "radius", "domain", "alpha", "temperature")}
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    rested = assumptions.words(assumptions.ENGINE)
    return {"settings": settings, "global": parts[0].source, "notes": notes, "rests_on": rested, "rows": records}
