"""Parts of a ball, cut out by the signs of ReLUs' inputs: bounds there from those on the ball.

Precondition: proven bounds on the ball. Postcondition: the same kind of bounds on the part, and multipliers that keep
every form an upper bound there.
Charged: nothing but the relaxations, made anew over the cut bounds; cutting at 0 is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from proofs_check.kernel.bounds import Values, inputs_of, relaxation_over, value_bounds
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.rounding import Array
from proofs_check.witness import Witness

Signs = Sequence[tuple[int, float]]  # (column of a slope row, sign): sign * (input of that neuron) >= 0


def part(values: Values, signs: Signs, anew: bool) -> Values | None:
    """The bounds where all these signs hold, cut or derived anew from the cut ones; None: nowhere on the ball."""
    lower, upper = list(values.lower), list(values.upper)
    cut: dict[int, NDArray[np.bool_]] = {}
    for column, sign in signs:
        i, cell = _neuron(values, column)
        side = lower if sign > 0 else upper
        if i not in cut:
            lower[i], upper[i] = lower[i].copy(), upper[i].copy()
            cut[i] = np.zeros(lower[i].shape, dtype=np.bool_)
        cut[i][cell] = True
        side[i][cell] = max(side[i][cell], 0.0) if sign > 0 else min(side[i][cell], 0.0)
        if lower[i][cell] > upper[i][cell]:
            return None
    result = dataclasses.replace(values, lower=lower, upper=upper, relaxations=list(values.relaxations), split=cut)
    if anew:
        result = value_bounds(values.prepared, values.ball, values.witness, result)
        empty = any((low > high).any() for low, high in zip(result.lower, result.upper, strict=True))
        return None if empty else result
    for k, layer in enumerate(values.prepared.layers):
        if isinstance(layer, Nonlinear) and cut.keys() & (inputs := inputs_of(values.prepared.network.nodes[k])):
            result.relaxations[k] = relaxation_over(result, k, layer, inputs[0])
    return result


def with_hints(values: Values, slopes: Array, signs: Signs, multipliers: Array) -> Values:
    """For passes with these lower slopes (n,) in [0, 1] and multipliers >= 0, one for each of the signs, all of which
    hold on `values`."""
    images: dict[int, Array] = {}
    for (column, sign), multiplier in zip(signs, multipliers, strict=True):
        i, cell = _neuron(values, column)
        images.setdefault(i, np.zeros(values.prepared.shapes[i]))[cell] += sign * multiplier
    return dataclasses.replace(values, witness=Witness(slopes[None]), multipliers=images)


def _neuron(values: Values, column: int) -> tuple[int, tuple[int, ...]]:
    """The node, and its cell, that is the input of the neuron in that column."""
    starts = values.prepared.slope_start
    k = int(np.searchsorted(starts, column, side="right")) - 1
    cell = np.unravel_index(column - starts[k], values.prepared.shapes[k])
    return inputs_of(values.prepared.network.nodes[k])[0], cast("tuple[int, ...]", cell)
