"""`concat`: inputs joined along the channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Monotone
from verifiers.linear_forms.forms import DenseForms, LinearForms, PatchForms, Summand
from verifiers.norms import NORMS


@dataclass(frozen=True, eq=False)
class Concat(Monotone[c.Concat]):
    """All inputs, one after the other."""

    def value(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=1)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        channels = [shape[0] for shape in self.shapes]
        if isinstance(forms, PatchForms):
            parts = torch.split(forms.coefficients, channels, dim=1)
            return tuple(PatchForms(p, forms.patches, s) for p, s in zip(parts, self.shapes, strict=True))
        return tuple(map(DenseForms, torch.split(forms.to_dense().coefficients, channels, dim=1)))

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return float(NORMS[norm].size(torch.tensor(before, dtype=torch.float64)))

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        """Each part is embedded among zeros; the parts are summed."""
        total, offset = -1, 0
        for a, before in zip(at, self.shapes, strict=True):
            start = (-offset, *(0 for _ in before[1:]))
            selected = low.selection((a,), before, self.shape, start, (1,) * len(self.shape))
            part = builder.push(selected, self.shape)
            total = part if total < 0 else builder.push(low.Sum((total, part)), self.shape)
            offset += before[0]
        return total
