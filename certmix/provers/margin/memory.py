"""What a search for the largest radius keeps of the radii it has tried, input by input.

Slopes are good at other radii, too. Bounds of the layers hold for every smaller ball around the same input: where a
larger radius failed they answer for a smaller one at no cost, and neurons whose sign they settle need no backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from certmix.provers.margin.exponential_head import Head
from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.engine import Analysis
from verifiers.crown.intermediate import NO_BOUNDS, ReusableBounds
from verifiers.crown.network import Interval


@dataclass(frozen=True, eq=False)
class Slopes:
    """Lower slopes (K, n) of one input's last passes, per class: those of the box and those of the exponential form."""

    box: Tensor
    exponential: Tensor


@dataclass(frozen=True, eq=False)
class Layers:
    """Bounds of one input's layers at a radius, by node."""

    radius: float
    values: dict[int, Interval]


@dataclass(eq=False)
class Memory:
    """latest: slopes last used. certified: those that certified the largest radius so far. failed: layers at the
    smallest radius that failed."""

    latest: dict[int, Slopes] = field(default_factory=dict)
    certified: dict[int, Slopes] = field(default_factory=dict)
    failed: dict[int, Layers] = field(default_factory=dict)

    def slopes(self, rows: Tensor, certified: bool) -> list[Slopes | None]:
        """Those of each row to start from: those that `certified` first."""
        first = self.certified if certified else self.latest
        return [first.get(row) or self.latest.get(row) for row in rows.tolist()]

    def failed_above(self, rows: Tensor, radii: Tensor) -> Tensor:
        """(M,) bool: a larger radius failed."""
        return self._radii(rows) > radii

    def failed_at(self, rows: Tensor, radii: Tensor) -> Tensor:
        """(M,) bool: this very radius failed."""
        return self._radii(rows) == radii

    def _radii(self, rows: Tensor) -> Tensor:
        """(M,) the smallest radii that failed, 0 where none did."""
        found = (self.failed.get(row) for row in rows.tolist())
        return torch.tensor([0.0 if k is None else k.radius for k in found], dtype=torch.float64)

    def before(self, rows: Tensor, radii: Tensor, enough: bool) -> ReusableBounds:
        """What is known of the layers at these radii, from larger ones."""
        usable = (self._radii(rows) >= radii) & (self._radii(rows) > 0)
        found = [self.failed[row] for row in rows[usable].tolist()]
        if not found:
            return NO_BOUNDS
        values: dict[int, Interval] = {}
        for k in found[0].values:
            ends: list[Tensor] = []
            for end, nothing in ((0, -torch.inf), (1, torch.inf)):
                own = torch.stack([one.values[k][end] for one in found])
                ends.append(own.new_full((len(rows), *own.shape[1:]), nothing))
                ends[-1][usable.to(own.device)] = own
            values[k] = ends[0], ends[1]
        return ReusableBounds(values, enough)

    def keep(self, rows: Tensor, radii: Tensor, known: IntermediateBounds, failed: Tensor) -> None:
        """Remember the layers of the inputs that `failed` (M,) bool at these radii."""
        for k, row in enumerate(rows.tolist()):
            if bool(failed[k]):
                self.failed[row] = _layers(known, k, float(radii[k]))

    def keep_slopes(self, rows: Tensor, analysis: Analysis, found: Head | None, wanted: Tensor, passed: Tensor) -> None:
        """Remember the slopes of the inputs `wanted` (M,) bool, and whether they `passed` (M,) bool."""
        if analysis.slopes is None:
            return
        for k, row in enumerate(rows.tolist()):
            own = analysis.slopes[k]
            if bool(wanted[k]):
                again = own if found is None or found.second is None else found.second[k]
                self.latest[row] = Slopes(own, torch.where(again.any(1, keepdim=True), again, own))
                if bool(passed[k]):
                    self.certified[row] = self.latest[row]


def _layers(known: IntermediateBounds, k: int, radius: float) -> Layers:
    nodes = (i for i in known.net.preactivations if i not in known.net.affine)
    return Layers(radius, {i: (known.values[i][0][k], known.values[i][1][k]) for i in nodes})
