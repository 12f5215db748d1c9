"""What makes a run look like a mistake although nothing of it is invalid: said before anything is proven."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from certmix.data.dataset import Dataset
from certmix.formatting import exact, nearest, percent_nearest, ratio

LEAST_INPUTS = 20  # with fewer, an accuracy says little
DEVIATIONS = 3.0  # of the accuracy of guessing, within which a model counts as guessing
LEAST_PART = 0.1  # of the domain that inputs should reach


def accuracies(predictions: Mapping[str, Sequence[int]], data: Dataset) -> dict[str, float]:
    """The share, in percent, of inputs that each model's predictions (N,) get right; none where there are no labels."""
    if not data.labelled:
        return {}
    return {name: 100.0 * float(np.mean(np.asarray(p) == data.labels)) for name, p in predictions.items()}


def about_accuracy(found: Mapping[str, float], n: int, classes: int) -> list[str]:
    """One sentence for each accuracy (percent, of `n` inputs) that guessing reaches too."""
    chance = 1 / classes
    guessing = 100 * (chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / n))
    return [
        f"{name} is right on {percent_nearest(*ratio(share))} % of the inputs, guessing among {classes} classes on "
        f"{percent_nearest(1, classes)} %: look at the scale and the order of the inputs' axes, and at the labels"
        for name, share in found.items()
        if n >= LEAST_INPUTS and share <= guessing
    ]


def about_range(data: Dataset, domain: tuple[float, float] | None) -> list[str]:
    """A sentence if the inputs reach a small part of the domain only."""
    if domain is None:
        return []
    low, high = float(data.inputs.min()), float(data.inputs.max())
    part = (high - low) / (domain[1] - domain[0])
    if len(data) < LEAST_INPUTS or part >= LEAST_PART:
        return []
    whole = f"[{exact(domain[0])}, {exact(domain[1])}]"
    return [
        f"the inputs reach from {exact(low)} to {exact(high)}, {nearest(100 * part, 2)} % of the domain {whole}: "
        "is it in their units?"
    ]
