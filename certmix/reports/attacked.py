"""What attacks found in a run, looked at again, and how g and h alone fare under attack.

An attack that finds nothing proves nothing: its figures bound robust accuracy from above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from certmix.attacks.ball import make_ball
from certmix.attacks.confirm import Confirmed, contained, evaluate
from certmix.attacks.objectives import ClassifierObjective
from certmix.attacks.pgd import Schedule, pgd
from certmix.mixing.mixed import MixedClassifier
from certmix.records.outcomes import Attack
from certmix.reports.inputs import Input
from certmix.runs.finished import OpenedRun

BATCH = 128


def standing(run: OpenedRun, attacks: Mapping[int, Attack]) -> dict[int, Attack]:
    """Those of a run's recorded attacks that stand: their point lies in ball and domain, in rational arithmetic, and
    there the networks in the folder, in float32, leave the class that they give to the input."""
    if run.standard is None:
        return {}
    s = run.settings
    mix = MixedClassifier(run.standard.module, run.robust.module, s.alpha, s.temperature)
    near: dict[int, Attack] = {}
    for k, attack in attacks.items():
        within = attack.radius if s.radius is None else min(attack.radius, s.radius)
        if 0 <= k < len(run.data) and contained(attack.point, run.data.inputs[k], within, s.norm, s.domain):
            near[k] = attack
    if not near:
        return {}
    at_point = classes(mix, np.stack([a.point for a in near.values()]))
    at_input = classes(mix, run.data.inputs[list(near)])
    pairs = zip(near.items(), at_point, at_input, strict=True)
    return {k: a for (k, a), there, here in pairs if there != here and here == a.predicted}


def refuted(run: OpenedRun, inputs: Sequence[Input]) -> list[int]:
    """Inputs whose certificate an attack contradicts in exact arithmetic: one of the two is wrong."""
    s, found = run.settings, list[int]()
    for i in inputs:
        if i.radius is None or i.attack is None or i.attack.radius > i.radius:
            continue
        standard = None if run.standard is None else run.standard.network
        robust = run.robust.require_network()
        answer = evaluate(i.attack.point, standard, robust, s.alpha, s.temperature, i.predicted)
        found += [i.index] if isinstance(answer, Confirmed) else []
    return found


def survivors(run: OpenedRun, model: nn.Module, radius: float, steps: int) -> list[bool]:
    """(N,) whether `model` alone, in float32, gives the label at the input and at every point that an attack tried."""
    s, found = run.settings, list[bool]()
    for start in range(0, len(run.data), BATCH):
        x = torch.from_numpy(run.data.inputs[start : start + BATCH])
        labels = torch.from_numpy(run.data.labels[start : start + BATCH])
        objective = ClassifierObjective(model, "margin")
        schedule = Schedule(steps, random_start=False, seed=s.seed)
        attack = pgd(objective, make_ball(x, radius, s.norm, s.domain), labels, schedule)
        found += (~(objective.broken(x, labels) | attack.found)).tolist()
    return found


def classes(model: nn.Module, inputs: NDArray[np.float32]) -> list[int]:
    """Classes (N,) that `model` gives, in float32."""
    with torch.no_grad():
        parts = torch.from_numpy(inputs).split(BATCH)
        return [int(c) for part in parts for c in model(part).argmax(dim=1)]
