"""What attacks found in a run, looked at again, and how g and h alone fare under attack.

An attack that finds nothing proves nothing: its figures bound robust accuracy from above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from certmix.attacks.ball import make_ball, size_up
from certmix.attacks.confirm import Confirmed, contained, evaluate
from certmix.attacks.objectives import ClassifierObjective
from certmix.attacks.pgd import Schedule, pgd
from certmix.mixing.mixed import MixedClassifier
from certmix.records.outcomes import Attack
from certmix.reports.inputs import Input
from certmix.runs.finished import OpenedRun

BATCH = 256
MIX, H, G = "mix", "h alone", "g alone"


def standing(run: OpenedRun, attacks: Mapping[int, Attack]) -> dict[int, Attack]:
    """Those of a run's recorded attacks that stand: their point lies in ball and domain, exactly, and there the
    networks in the folder, in float32, leave the class that they give to the input."""
    candidates = {k: a for k, a in attacks.items() if 0 <= k < len(run.data) and _is_point(run, a)}
    s = run.settings
    mix = run.mix(s.alpha, s.temperature)
    if mix is None or not candidates:
        return {}
    at = run.data.inputs[list(candidates)]
    points = np.stack([a.point for a in candidates.values()])
    sizes = size_up(torch.from_numpy(points), torch.from_numpy(at), s.norm).tolist()
    there, here = (mix_classes(mix, values)[MIX] for values in (points, at))
    attacks_that_stand: dict[int, Attack] = {}
    for n, (k, attack) in enumerate(candidates.items()):
        within = attack.radius if s.radius is None else min(attack.radius, s.radius)
        near = sizes[n] <= within and _inside(attack.point, s.domain)  # else in rational arithmetic, which is slow
        if there[n] != here[n] == attack.predicted and (
            near or contained(attack.point, at[n], within, s.norm, s.domain)
        ):
            attacks_that_stand[k] = attack
    return attacks_that_stand


def _is_point(run: OpenedRun, attack: Attack) -> bool:
    return attack.point.shape == run.robust.input_shape and bool(np.isfinite(attack.point).all())


def _inside(point: NDArray[np.float32], domain: tuple[float, float] | None) -> bool:
    """Exactly: float64 holds every float32 number."""
    wide = point.astype(np.float64)
    return domain is None or bool((wide >= domain[0]).all() and (wide <= domain[1]).all())


def refuted(run: OpenedRun, inputs: Sequence[Input]) -> list[int]:
    """Inputs whose certificate an attack contradicts in exact arithmetic: one of the two is wrong."""
    s, indices = run.settings, list[int]()
    for i in inputs:
        if i.radius is None or i.attack is None or i.attack.radius > i.radius:
            continue
        standard = None if run.standard is None else run.standard.network or run.standard.module
        robust = run.robust.require_network()
        answer = evaluate(i.attack.point, standard, robust, s.alpha, s.temperature, i.predicted, run.adaptive)
        indices += [i.index] if isinstance(answer, Confirmed) else []
    return indices


def survivors(run: OpenedRun, model: nn.Module, radius: float, steps: int) -> list[bool]:
    """(N,) whether `model` alone, in float32, gives the label at the input and at every point that an attack tried."""
    s, survives = run.settings, list[bool]()
    for start in range(0, len(run.data), BATCH):
        x = torch.from_numpy(run.data.inputs[start : start + BATCH])
        labels = torch.from_numpy(run.data.labels[start : start + BATCH])
        objective = ClassifierObjective(model, "margin")
        schedule = Schedule(steps, random_start=False, seed=s.seed)
        attack = pgd(objective, make_ball(x, radius, s.norm, s.domain), labels, schedule)
        survives += (~(objective.broken(x, labels) | attack.found)).tolist()
    return survives


def mix_classes(mix: MixedClassifier, inputs: NDArray[np.float32]) -> dict[str, list[int]]:
    """Classes (N,) that g, h and their mix give, in float32."""
    classes_by_model: dict[str, list[int]] = {G: [], H: [], MIX: []}
    with torch.no_grad():
        for part in torch.from_numpy(inputs).split(BATCH):
            g, h = mix.standard(part), mix.robust(part)
            for name, logits in ((G, g), (H, h), (MIX, mix.mix(g, h, mix.weight(part)))):
                classes_by_model[name] += logits.argmax(dim=1).tolist()
    return classes_by_model


def classes(model: nn.Module, inputs: NDArray[np.float32]) -> list[int]:
    """Classes (N,) that `model` gives, in float32."""
    with torch.no_grad():
        parts = torch.from_numpy(inputs).split(BATCH)
        return [int(c) for part in parts for c in model(part).argmax(dim=1)]
