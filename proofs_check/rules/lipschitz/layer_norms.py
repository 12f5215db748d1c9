"""Global Lipschitz constants for any network: products of layer norms, and Jacobians with unrestricted slopes.

Products: a node's value is Lipschitz in the input with its operator norm times the constant of its own input, in
the claim's norm on both sides (each layer knows it), or in l2 with the gain of a block (`blocks`) times that of the
node below it; the affine nodes after the last nonlinear ones or blocks are folded into the forms d_j. Jacobians:
`jacobian` with every slope an activation has anywhere. The smaller of the two counts.

Precondition: a prepared network. Postcondition: `global_constants` are Lipschitz constants of d_j on the whole space.
Charged: sums and products of norms are rounded up one by one, here and in the layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proofs_check.certificate import Assumption, Claim, Norm, need
from proofs_check.kernel import jacobian
from proofs_check.kernel.bounds import Prepared, chunks, inputs_of
from proofs_check.kernel.jacobian import Frontier, affine_step, hand_on
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.norms import NORMS, spectral_norm
from proofs_check.kernel.rounding import Array, float_up, need_bounded, product_up, sum_up
from proofs_check.kernel.slopes import Interval
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import blocks
from proofs_check.rules.lipschitz.inequality import frobenius
from proofs_check.rules.lipschitz.rule import JointTheorem, need_derived, need_theorem, premises, stated_constants

MAX_CELLS = 4096  # nonlinear cells: beyond, unrestricted Jacobians take too long
MAX_ENTRIES = 2**24  # of forms on one node, classes times cells


@dataclass(frozen=True)
class LayerLipschitz:
    """constants: of d_j on the whole space in the claim's norm, entry y is 0; re-derived here."""

    theorem: JointTheorem
    constants: tuple[float, ...]


def layer_lipschitz(claim: Claim, evidence: LayerLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5, (4a) or (4b) with global constants of any network, in the claim's own norm."""
    _, at_x = premises(claim, case)
    stated = constants_of_layers(claim, evidence, case.robust, case)
    joint = joint_constant(case.robust, claim.norm) if evidence.theorem == "4b" else None
    need_theorem(claim, evidence.theorem, at_x, stated, joint)
    return frozenset()


def constants_of_layers(claim: Claim, evidence: LayerLipschitz, prepared: Prepared, case: Case) -> Array:
    """Those stated of a network's d_j on the whole space, proven."""
    stated = stated_constants(claim, evidence.constants, prepared)
    return need_derived(stated, global_constants(prepared, claim.predicted, claim.norm))


@functools.lru_cache(maxsize=64)
def global_constants(prepared: Prepared, y: int, norm: Norm) -> tuple[float, ...]:
    """(K,) constants of d_j on the whole space, entry y 0; a pure function: one derivation serves a whole run."""
    classes = prepared.network.classes
    forms = np.eye(classes)[[j for j in range(classes) if j != y]] - np.eye(classes)[y]
    with np.errstate(all="ignore"):
        constants = products(prepared, forms, norm)
        if sum(math.prod(x.shapes[0]) for x in prepared.layers if isinstance(x, Nonlinear)) <= MAX_CELLS:
            everywhere = jacobian.slopes_everywhere(prepared)
            constants = np.minimum(constants, jacobian.dual_norms(prepared, everywhere, forms, norm))
    need_bounded(constants, "constants")
    return tuple(np.insert(constants, y, 0.0).tolist())


def products(prepared: Prepared, forms: Array, norm: Norm) -> Array:
    """(R,) constants of forms . z: forms (R, K) exact; folded into affine nodes down to joins whose gain is known, or
    past them."""
    constants, joins = node_constants(prepared, norm)
    return np.minimum(_folded(prepared, forms, norm, constants, joins), _folded(prepared, forms, norm, constants, ()))


def _folded(
    prepared: Prepared, forms: Array, norm: Norm, constants: tuple[float, ...], stops: tuple[int, ...]
) -> Array:
    total = np.zeros(len(forms))
    for chunk in chunks(prepared.shapes, len(forms)):
        for k, arrived in _ends(prepared, forms[chunk], stops):
            duals = NORMS[norm].dual(arrived.magnitude().reshape(len(total[chunk]), -1))
            total[chunk] = sum_up(total[chunk], product_up(duals, constants[k]))
    return total


def _ends(prepared: Prepared, forms: Array, stops: tuple[int, ...]) -> Iterator[tuple[int, Interval]]:
    """The nodes at which forms of the logits end, folded into affine nodes down to `stops`; and what they are there."""
    start = forms.reshape(-1, 1, 1, forms.shape[1])
    frontier: Frontier = {len(prepared.layers) - 1: Interval(start, np.zeros_like(start))}
    for k in range(len(prepared.layers) - 1, -1, -1):
        arrived, layer = frontier.pop(k, None), prepared.layers[k]
        if arrived is not None and isinstance(layer, Affine) and k not in stops:
            hand_on(prepared, frontier, k, affine_step(layer, arrived))
        elif arrived is not None:
            yield k, arrived


@functools.lru_cache(maxsize=64)
def joint_constant(prepared: Prepared, norm: Norm) -> float:
    """An l2 constant of the logits less their mean, z - (sum_k z_k) / K: of all together. A pure function, as above."""
    need(NORMS[norm].euclidean, "theorem", f"4b is about balls in l2, not in {norm}")
    classes = prepared.network.classes
    entries = classes * max(map(math.prod, prepared.shapes))
    need(entries <= MAX_ENTRIES, "constants", f"a joint constant takes {entries} entries, more than {MAX_ENTRIES}")
    constants, joins = node_constants(prepared, norm)
    forms, total = classes * np.eye(classes) - 1, 0.0
    with np.errstate(all="ignore"):
        for k, arrived in _ends(prepared, forms, joins):
            need(arrived.corner is None, "constants", "forms of the logits stand on windows")  # rows would not fit
            centre, radius = (part.reshape(classes, -1) for part in (arrived.centre, arrived.radius))
            size = float_up(spectral_norm(centre) + frobenius(radius))
            total = float_up(total + float_up(size * constants[k]))
    need_bounded(np.array(total), "constants")
    return float_up(total / classes)


@functools.lru_cache(maxsize=64)
def node_constants(prepared: Prepared, norm: Norm) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Per node, a Lipschitz constant of its value as a function of the input; and the joins whose gain, in l2, made
    theirs smaller. A pure function, as above."""
    constants, joins = list[float](), list[int]()
    for k, (node, layer) in enumerate(zip(prepared.network.nodes, prepared.layers, strict=True)):
        constants.append(layer.lipschitz([constants[i] for i in inputs_of(node)], norm))
        joins_paths = len(inputs_of(node)) > 1 or any(blocks.repeats(prepared, i) for i in inputs_of(node))
        block = blocks.gain(prepared, k) if NORMS[norm].euclidean and joins_paths else None
        if block is not None and (value := float_up(block[1] * constants[block[0]])) < constants[k]:
            constants[k] = value
            joins.append(k)
    return tuple(constants), tuple(joins)
