"""Lipschitz certificates of the mix's own class (`--method lipschitz --use-standard`), from constants of both networks.

Each network brings constants that hold everywhere (layers, LipSDP) or on the ball (Jacobians), whichever serves the
input better; their margins, weighted, are the mix's (docs/maths.md 6). So alpha may be anything in [0, 1].
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certmix.formatting import nearest
from certmix.provers.frame import Proposed, Prover, Refusal, tie
from certmix.provers.global_table import GlobalTable
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal
from certmix.provers.session import Session
from certmix.records.outcomes import Outcome, Reason
from certmix.settings import diameter
from certmix.theorems.lipschitz import KEPT_SHARE, LARGEST_FACTOR, LogitsAtInputs, margins_within
from certmix.theorems.radius_search import largest_passing
from proofs_check.certificate import ClassOf
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz
from proofs_check.rules.lipschitz.pair import Constants, PairLipschitz
from proofs_check.rules.lipschitz.rule import LocalLipschitz
from verifiers.engine import EngineError
from verifiers.lipschitz.constants import local_bounds, local_constants
from verifiers.network.module import PlainModule
from verifiers.norms import NORMS

FAR = 64.0  # times that: where nobody looks any more
LOWERED = 1e-9  # of stated margins
FACTORS = 1 + (LARGEST_FACTOR - 1) * 0.5 ** torch.arange(24, dtype=torch.float64)  # of constants as stated


@dataclass(frozen=True, eq=False)
class Points:
    """Both networks at the inputs: the class is the mix's; its least margin (N,)."""

    robust: LogitsAtInputs
    standard: LogitsAtInputs
    margin: Tensor

    @property
    def predicted(self) -> Tensor:
        return self.robust.predicted


@dataclass(frozen=True, eq=False)
class Known:
    """Constants (N, K) of z_j - z_y of one network for some inputs. joint: (N,) of all logits less their mean, inf
    where there is none. kinds: per input the rule that proves them."""

    values: Tensor
    joint: Tensor | None
    kinds: tuple[str, ...]

    def of(self, index: Tensor) -> Known:
        joint = None if self.joint is None else self.joint[index]
        return Known(self.values[index], joint, tuple(self.kinds[k] for k in index.tolist()))


@dataclass(frozen=True, eq=False)
class LipschitzPairProver(Prover[Points]):
    """Constants of both networks, each of the kind that serves best."""

    tables: tuple[GlobalTable, GlobalTable]  # of h, of g

    @property
    def class_of(self) -> ClassOf:
        return "mix"

    def at_inputs(self) -> Points:
        s, x = self.problem.settings, self.problem.inputs.double()
        robust, standard = (PlainModule(t.maps.network).double()(x) for t in self.tables)
        mix = (1 - s.alpha) * torch.softmax(standard, dim=1) + s.alpha * torch.softmax(s.temperature * robust, dim=1)
        best, order = mix.topk(2, dim=1)
        h = LogitsAtInputs(robust, order[:, 0], s.alpha, s.temperature)
        return Points(h, LogitsAtInputs(standard, order[:, 0], s.alpha), best[:, 0] - best[:, 1])

    def refusal(self, points: Points, batch_index: int) -> Refusal | None:
        s = self.problem.settings
        if s.semantics != "real" or s.evidence == "engine":
            advice = "Lipschitz constants of both networks are derived by the judge, in real arithmetic: leave out"
            return Refusal(Reason.NO_THEOREM, f"{advice} semantics and evidence")
        return tie(float(points.margin[batch_index]))

    def search(self, inputs: Tensor, points: Points) -> dict[int, Proposed | Refusal]:
        s = self.problem.settings
        sides = [_of_inputs(side, inputs) for side in (points.robust, points.standard)]
        everywhere = [self._everywhere(table, side) for table, side in zip(self.tables, sides, strict=True)]
        count = len(inputs)

        def passes(index: Tensor, radii: Tensor, joint: bool = False) -> Tensor:
            return self._best(inputs, sides, everywhere, index, radii, joint)[1] > 0

        if s.radius is not None:
            radii = torch.full((count,), s.radius, dtype=torch.float64)
        else:
            radii = largest_passing(passes, count, self._limit(inputs, sides), s.tolerance)
            if any(one is not None and one.joint is not None for one in everywhere):
                found = torch.nonzero(radii > 0).flatten()
                gains = largest_passing(
                    lambda i, g: passes(found[i], radii[found[i]] * (1 + g), True), len(found), 1.0, 0.05
                )
                radii[found] *= 1 + gains
        combination, slack = self._best(inputs, sides, everywhere, torch.arange(count), radii, True)
        wanted = "any radius" if s.radius is None else f"radius {nearest(s.radius)}"
        advice = (
            f"the constants of both networks do not certify {wanted}: raise the temperature, or use --method margin"
        )
        answers: dict[int, Proposed | Refusal] = {}
        for k, batch_index in enumerate(inputs.tolist()):
            if not slack[k] > 0 or (s.radius is None and radii[k] <= 0):
                answers[batch_index] = Refusal(Reason.RADIUS_NOT_REACHED, advice)
                continue
            claim = self.problem.claim(batch_index, float(radii[k]), int(points.predicted[batch_index]), "mix", None)

            def evidence(radius: float, k: int = k, kinds: tuple[int, int] = combination[k]) -> PairLipschitz:
                own = torch.tensor([k])
                at_k = [_of_inputs(side, own) for side in sides]
                known = [None if one is None else one.of(own) for one in everywhere]
                return self._evidence(inputs[own], at_k, known, kinds, radius)

            answers[batch_index] = Proposed(
                (Proposal(batch_index, claim, "lipschitz", "lipschitz_pair", evidence),), advice
            )
        return answers

    # -------------------------------------------------------------- constants

    def _everywhere(self, table: GlobalTable, side: LogitsAtInputs) -> Known | None:
        """By layers or by LipSDP, whichever has the smaller largest one; None: neither knows any, as of a product."""
        norm, rows, kinds = self.problem.settings.norm, list[Tensor](), list[str]()
        joint = table.joint_constant(norm) if NORMS[norm].euclidean else None
        for y in side.predicted.tolist():
            found = {}
            asked: dict[str, Callable[[int, object], Tensor]] = {"lipschitz_layers": table.layer_constants}  # type: ignore[dict-item]
            if NORMS[norm].euclidean:
                asked["lipschitz_global"] = table.constants  # type: ignore[assignment]
            for rule, ask in asked.items():
                try:
                    found[rule] = ask(y, norm)
                except EngineError:  # the other kinds may do
                    continue
            if not found:
                return None
            best = min(found, key=lambda rule: float(found[rule].max()))
            rows.append(found[best])
            kinds.append(best)
        known = torch.tensor([torch.inf if joint is None or k != "lipschitz_layers" else joint for k in kinds])
        joint_of = known.double() if bool(torch.isfinite(known).any()) else None
        return Known(torch.stack(rows), joint_of, tuple(kinds))

    def _local(self, table: GlobalTable, inputs: Tensor, side: LogitsAtInputs, radii: Tensor) -> Known:
        s, parts = self.problem.settings, list[Tensor]()
        for i, r, y in zip(*(t.split(s.batch_size) for t in (inputs, radii, side.predicted)), strict=True):
            bounds = local_bounds(table.maps, self.problem.inputs[i], r, s.norm, s.domain)
            parts.append(local_constants(bounds, y.to(table.maps.device)).cpu())
        return Known(torch.cat(parts), None, ("lipschitz_local",) * len(inputs))

    def _limit(self, inputs: Tensor, sides: list[LogitsAtInputs]) -> float:
        """The largest radius looked for: the domain's diameter; without a domain a multiple of what the gradients at
        the inputs would let differences of logits move."""
        s, still = self.problem.settings, torch.zeros(len(inputs), dtype=torch.float64)
        if s.domain is not None:
            return diameter(s.norm, s.domain, self.problem.inputs[0].numel())
        slopes = [self._local(t, inputs, side, still).values.max() for t, side in zip(self.tables, sides, strict=True)]
        reach = max(float(side.differences.abs().max()) for side in sides)
        return FAR * max(reach, 1.0) / max(float(max(slopes)), 1e-30)

    def _best(
        self, inputs: Tensor, sides: list[LogitsAtInputs], everywhere: list[Known | None], index: Tensor,
        radii: Tensor, joint: bool,
    ) -> tuple[list[tuple[int, int]], Tensor]:  # fmt: skip
        """Per input of `index` which constants of h and of g serve best (0: everywhere, 1: local), and the mix's least
        margin with these (M,)."""
        margins: list[dict[int, Tensor]] = []
        for table, whole, one in zip(self.tables, sides, everywhere, strict=True):
            side = _of_inputs(whole, index)
            known = {} if one is None else {0: one.of(index)}
            known[1] = self._local(table, inputs[index], side, radii)
            margins.append({kind: _margins(side, constants, radii, joint) for kind, constants in known.items()})
        combinations: list[tuple[int, int]] = list(itertools.product(margins[0], margins[1]))
        own = sides[0].own[index]
        slacks = torch.stack([
            self._slack(margins[0][a], margins[1][b]).masked_fill(own, torch.inf).amin(dim=1) for a, b in combinations
        ])  # fmt: skip
        best = slacks.max(dim=0)
        return [combinations[k] for k in best.indices.tolist()], best.values

    def _slack(self, of_h: Tensor, of_g: Tensor) -> Tensor:
        alpha = self.problem.settings.alpha
        return (1 - alpha) * of_g.clamp(min=-1.0) + alpha * of_h.clamp(min=-1.0)

    # -------------------------------------------------------------- evidence

    def _evidence(
        self,
        inputs: Tensor,
        sides: list[LogitsAtInputs],
        everywhere: list[Known | None],
        kinds: tuple[int, int],
        radius: float,
    ) -> PairLipschitz:
        """Of one input: constants as large as the margins bear, for the judge's own need not be those known here."""
        radii, chosen = torch.tensor([radius], dtype=torch.float64), list[Known]()
        for kind, table, one, side in zip(kinds, self.tables, everywhere, sides, strict=True):
            chosen.append(self._local(table, inputs, side, radii) if one is None or kind else one)

        def margins(factors: Tensor) -> list[Tensor]:
            row = torch.zeros(len(factors), dtype=torch.int64)
            return [_margins(_of_inputs(side, row), _larger(one.of(row), factors), radii[row], True) - LOWERED
                    for side, one in zip(sides, chosen, strict=True)]  # fmt: skip

        of_h, of_g = margins(FACTORS)
        enough = self._slack(of_h, of_g).masked_fill(sides[0].own, torch.inf).amin(dim=1) > 0
        low = float(FACTORS[enough].max()) if bool(enough.any()) else 1.0
        factor = 1 + (1 - KEPT_SHARE) * (low - 1)
        last = torch.tensor([factor], dtype=torch.float64)
        of_h, of_g = (m.clamp(min=-1.0).masked_fill(sides[0].own, 0.0)[0].tolist() for m in margins(last))
        stated = [self._stated(table, side, _larger(one, last)) for table, side, one in
                  zip(self.tables, sides, chosen, strict=True)]  # fmt: skip
        return PairLipschitz(stated[0], stated[1], tuple(of_h), tuple(of_g))

    def _stated(self, table: GlobalTable, side: LogitsAtInputs, known: Known) -> Constants:
        constants, kind = tuple(known.values[0].tolist()), known.kinds[0]
        if kind == "lipschitz_local":
            return LocalLipschitz("4a", constants, None)
        if kind == "lipschitz_layers":
            return LayerLipschitz("4a" if known.joint is None else "4b", constants)
        bounds = table.bounds(int(side.predicted[0]))
        width = max(len(b.multipliers) for b in bounds if b is not None)
        stacked = np.stack([np.zeros(width, "<f4") if b is None else b.multipliers.astype("<f4") for b in bounds])
        return GlobalLipschitz("4a", tuple(0.0 if b is None else b.constant for b in bounds),
                               base64.b64encode(stacked.tobytes()).decode())  # fmt: skip


def _of_inputs(point: LogitsAtInputs, index: Tensor) -> LogitsAtInputs:
    return LogitsAtInputs(point.logits[index], point.predicted[index], point.alpha, point.temperature)


def _margins(side: LogitsAtInputs, known: Known, radii: Tensor, joint: bool) -> Tensor:
    return margins_within(side, known.values, known.joint if joint else None, radii)


def _larger(known: Known, factors: Tensor) -> Known:
    """LipSDP's stay as they are: their matrices prove them."""
    if known.kinds[0] == "lipschitz_global":
        return known
    return Known(known.values * factors[:, None], known.joint, known.kinds)


def certify_lipschitz_pair(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Lipschitz certificates of the mix's class; a network without a Lipschitz bound is an outcome."""
    try:
        tables = session.global_table, session.standard_table
    except EngineError as error:
        with torch.no_grad():
            predicted = problem.mix(problem.inputs).argmax(dim=1).tolist()
        return [problem.abstained(y, Reason.ENGINE_FAILED, str(error), "mix") for y in predicted]
    return LipschitzPairProver(problem, session.judge, tables).prove()
