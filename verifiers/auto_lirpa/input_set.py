"""Balls cut by a domain in auto_LiRPA's terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifiers.perturbation import BoxedBalls


def perturbation(lirpa: Any, inputs: BoxedBalls) -> Any:
    """The input set in auto_LiRPA's terms.

    Balls that are no boxes pose as their bounding box, so that interval steps are sound with a radius per input;
    linear functions of the input take the better of the box and the dual norm.
    """
    base = lirpa.PerturbationLpNorm
    box = {"norm": float("inf"), "eps": None, "x_L": inputs.lower, "x_U": inputs.upper}
    if inputs.lp.is_box:
        return base(**box)

    class Ball(base):
        def concretize_matrix(self, x: Tensor, A: Any, sign: int, *rest: Any) -> Tensor:
            bound = super().concretize_matrix(x, A, sign, *rest)
            if not isinstance(A, Tensor):
                return bound  # an identity: the box is exact
            rows = A.reshape(*A.shape[:2], -1)
            spread = inputs.lp.dual(rows) * inputs.radius[:, None]
            ball = rows.matmul(inputs.center.flatten(1)[:, :, None])[..., 0] + sign * spread
            return (torch.maximum if sign < 0 else torch.minimum)(bound, ball.reshape(bound.shape))

        def concretize_patches(self, x: Tensor, A: Any, sign: int, *rest: Any) -> Tensor:
            bound = super().concretize_patches(x, A, sign, *rest)
            if A.identity == 1:
                return bound
            norms = _patch_norms(lirpa, A, inputs)
            ball = A.matmul(inputs.center) + sign * norms * inputs.radius.reshape(-1, *(1 for _ in norms.shape[1:]))
            return (torch.maximum if sign < 0 else torch.minimum)(bound, ball.reshape(bound.shape))

    return Ball(**box)


def _patch_norms(lirpa: Any, A: Any, inputs: BoxedBalls) -> Tensor:
    """The dual norm of each row of coefficients held as patches; taps that lie in the padding do not count."""
    mask = lirpa.patches.inplace_unfold(
        torch.ones_like(inputs.center[:1]),
        kernel_size=A.patches.shape[-2:],
        padding=A.padding,
        stride=A.stride,
        inserted_zeros=A.inserted_zeros,
        output_padding=A.output_padding,
    )[0]  # (rows, columns, channels, kernel rows, kernel columns)
    if A.unstable_idx is not None:
        mask = mask[A.unstable_idx[1], A.unstable_idx[2]]
    taps = A.patches * mask.unsqueeze(1 if A.unstable_idx is not None else 0)
    return inputs.lp.dual(taps, (-3, -2, -1)).transpose(0, 1)
