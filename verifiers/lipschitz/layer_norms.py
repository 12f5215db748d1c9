"""Global Lipschitz constants as products of layer norms: for every norm and every known layer, sound and loose.

A node's constant is its layer's answer to `lipschitz`: of most, its operator norm times its input's constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.norms import NORMS


def product_constants(maps: LinearMaps, forms: Tensor, norm: c.Norm) -> Tensor:
    """(R,) Lipschitz constants of forms·z on the whole space, forms (R, K); rounded up.

    The affine nodes after the last nonlinear ones are folded into the forms exactly.
    """
    constants = _node_constants(maps, norm)
    last = len(maps.network.nodes) - 1
    centre = forms.to(maps.device, torch.float64)
    frontier: dict[int, tuple[Tensor, Tensor]] = {last: (centre, torch.zeros_like(centre))}
    total = torch.zeros(len(forms), dtype=torch.float64, device=maps.device)
    for k in range(last, -1, -1):
        if k not in frontier:
            continue
        centre, radius = frontier.pop(k)
        if k == 0 or not maps.affine(k):
            dual = NORMS[norm].dual((centre.abs() + radius).flatten(1))
            total = total + dual * (constants[k] * (1 + 4 * maps.growth + centre[0].numel() * 2.0**-51))
            continue
        for source, m, r in zip(maps.parents(k), *maps.adjoint_step(k, centre, radius), strict=True):
            old = frontier.get(source, (torch.zeros_like(m), torch.zeros_like(r)))
            both = old[0] + m
            frontier[source] = (both, (old[1] + r) * (1 + 2.0**-50) + 2.0**-51 * both.abs())
    return torch.where(forms.any(dim=1).to(total.device), total * (1 + 2.0**-45), 0.0)


def _node_constants(maps: LinearMaps, norm: c.Norm) -> list[float]:
    """Per node: a Lipschitz constant of its value as a function of the input, in ℓp on both sides."""
    constants = [1.0]
    for k in range(1, len(maps.layers)):
        before = [constants[i] for i in maps.parents(k)]
        constants.append(maps.layers[k].lipschitz(before, norm) * (1 + 2.0**-45))
    return constants
