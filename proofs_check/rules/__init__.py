"""The literal table of rules. A rule proves a claim from its evidence or raises RejectedError.

To add one: a file in this folder with a frozen dataclass of evidence and a function
`(claim, evidence, case) -> frozenset[Assumption]`, one line in `RULES`, its section in FORMAT.md, files in
tests/proofs_check/{accepted,rejected,malformed}/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proofs_check.certificate import Assumption, Claim, ClassOf, ModelFile, Semantics, need
from proofs_check.rules import adaptive, smoothing, stopped
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import layer_norms, lipsdp, pair
from proofs_check.rules.lipschitz import rule as lipschitz
from proofs_check.rules.margin import branching
from proofs_check.rules.margin import rule as margin


@dataclass(frozen=True)
class Rule:
    """The type of a rule's evidence, its check, and the claims it is about: a claim with anything not named here is
    rejected before its rule is asked. adaptive, smoothing: those where that is not null.
    """

    evidence: type[Any]
    check: Callable[[Claim, Any, Case], frozenset[Assumption]]
    class_of: tuple[ClassOf, ...] = ("robust",)
    semantics: tuple[Semantics, ...] = ("real",)
    smoothing: bool = False
    adaptive: bool = False


BOTH: tuple[Semantics, ...] = ("real", "float32")
ANY: tuple[ClassOf, ...] = ("robust", "mix")
RULES: dict[str, Rule] = {
    "adaptive_margin": Rule(adaptive.AdaptiveMargin, adaptive.adaptive_margin, adaptive=True),
    "branched_margin": Rule(branching.BranchedMargin, branching.branched_margin, class_of=ANY),
    "branched_pair": Rule(branching.BranchedPair, branching.branched_pair, class_of=ANY),
    "engine_lipschitz_relaxed": Rule(lipschitz.EngineRelaxedLipschitz, lipschitz.engine_relaxed_lipschitz),
    "engine_margin": Rule(margin.EngineMargin, margin.engine_margin),
    "lipschitz_global": Rule(lipsdp.GlobalLipschitz, lipsdp.global_lipschitz),
    "lipschitz_layers": Rule(layer_norms.LayerLipschitz, layer_norms.layer_lipschitz),
    "lipschitz_local": Rule(lipschitz.LocalLipschitz, lipschitz.local_lipschitz),
    "lipschitz_pair": Rule(pair.PairLipschitz, pair.pair_lipschitz, class_of=ANY),
    "lipschitz_relaxed": Rule(lipschitz.RelaxedLipschitz, lipschitz.relaxed_lipschitz),
    "network_margin": Rule(margin.NetworkMargin, margin.network_margin, ANY, BOTH),
    "pair_margin": Rule(margin.PairMargin, margin.pair_margin, ANY, BOTH),
    "smoothed_distribution": Rule(smoothing.SmoothedDistribution, smoothing.smoothed_distribution, ANY, smoothing=True),
    "smoothed_means": Rule(smoothing.SmoothedMeans, smoothing.smoothed_means, ANY, smoothing=True),
    "stopped_means": Rule(stopped.StoppedMeans, stopped.stopped_means, ANY, smoothing=True),
}


def prove(name: str, claim: Claim, evidence: Any, case: Case) -> frozenset[Assumption]:
    """Ask the rule, if the claim is one that it is about.

    Of a file that the claim names, the judge knows the digest, and how many classes its model has only from the claim.
    """
    rule = RULES[name]
    need(claim.adaptive is None or rule.adaptive, "adaptive", f"{name} proves nothing about an adaptive mix")
    need(claim.class_of in rule.class_of, "class_of", f"{name} certifies the class of {' or '.join(rule.class_of)}")
    need(claim.semantics in rule.semantics, "semantics", f"{name} does not cover {claim.semantics} evaluation")
    need((claim.smoothing is not None) == rule.smoothing, "smoothing", f"{name} is about another kind of classifier")
    files = any(isinstance(named, ModelFile) for named in (claim.robust, claim.standard))
    return rule.check(claim, evidence, case) | frozenset([Assumption.MODEL_FILE] if files else [])


EVIDENCE: dict[str, type[Any]] = {name: rule.evidence for name, rule in RULES.items()}
