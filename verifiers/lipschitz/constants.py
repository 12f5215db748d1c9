"""Lipschitz constants of logit differences, on balls and everywhere, from bounds of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.lipschitz.jacobian import Slopes, gradient_bounds, slope_intervals, unrestricted_slopes
from verifiers.lipschitz.jacobian_linked import linked_dual_norms
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.value_bounds import ValueBounds, value_bounds
from verifiers.perturbation import Balls

FORMS_AT_ONCE = 64
MAX_NEURONS = 4096  # beyond, linking unrestricted slopes takes too long


def difference_forms(classes: int, predicted: Tensor) -> Tensor:
    """(N, K, K): form j of input n is e_j - e_y; form y is 0."""
    eye = torch.eye(classes, dtype=torch.float64, device=predicted.device)
    return eye[None] - eye[predicted][:, None]


def local_constants(bounds: ValueBounds, predicted: Tensor) -> Tensor:
    """(N, K) anchored Lipschitz constants of z_j - z_y on each ball, in the norm of the balls; column y is 0.

    Ensures (untrusted): |d_j(a) - d_j(b)| <= constant * ‖a - b‖ for all a, b in the ball.
    """
    forms = difference_forms(bounds.maps.network.classes, predicted)
    slopes = slope_intervals(bounds.maps, bounds.values)
    constants = linked_dual_norms(bounds.maps, slopes, forms, bounds.balls.norm)
    return torch.where(forms.any(dim=2), constants, 0.0)


def pair_constants(bounds: ValueBounds) -> Tensor:
    """(N, K, K) symmetric: Lipschitz constants of z_i - z_k on each ball, zero on the diagonal."""
    slopes = slope_intervals(bounds.maps, bounds.values)
    return _pairs(bounds.maps, slopes, bounds.balls.norm, len(bounds.balls.center), linked_dual_norms)


def global_pair_constants(maps: LinearMaps, norm: c.Norm) -> Tensor:
    """(K, K): the same on the whole space, from the full slope intervals."""
    slopes = unrestricted_slopes(maps)
    return _pairs(maps, slopes, norm, 1, linked_dual_norms if _few_neurons(slopes) else _unlinked)[0]


def _few_neurons(slopes: list[Slopes]) -> bool:
    return sum(s[0].numel() for s in slopes if s is not None) <= MAX_NEURONS


def _unlinked(maps: LinearMaps, slopes: list[Slopes], forms: Tensor, norm: c.Norm) -> Tensor:
    return gradient_bounds(maps, slopes, forms).dual_norm_upper(norm)


def _pairs(
    maps: LinearMaps,
    slopes: list[Slopes],
    norm: c.Norm,
    count: int,
    bounder: Callable[[LinearMaps, list[Slopes], Tensor, c.Norm], Tensor],
) -> Tensor:
    classes = maps.network.classes
    result = torch.zeros((count, classes, classes), dtype=torch.float64, device=maps.device)
    eye = torch.eye(classes, dtype=torch.float64, device=maps.device)
    row_index, column_index = torch.triu_indices(classes, classes, 1, device=maps.device)
    for i, j in zip(row_index.split(FORMS_AT_ONCE), column_index.split(FORMS_AT_ONCE), strict=True):
        forms = (eye[i] - eye[j]).expand(count, -1, -1)
        bound = bounder(maps, slopes, forms, norm)
        result[:, i, j], result[:, j, i] = bound, bound
    return result


def local_bounds(
    maps: LinearMaps,
    inputs: Tensor,
    radius: Tensor,
    norm: c.Norm,
    domain: tuple[float, float] | None,
) -> ValueBounds:
    """Value bounds on the balls around `inputs` (N, *shape), the start of every local constant."""
    center = inputs.to(maps.device, torch.float64)
    return value_bounds(maps, Balls(center, radius.to(maps.device, torch.float64), norm, domain))
