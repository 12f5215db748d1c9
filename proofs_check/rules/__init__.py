"""The literal table of rules. A rule proves a claim from its evidence or raises RejectedError.

To add one: a file in this folder with a frozen dataclass of evidence and a function
`(claim, evidence, case) -> frozenset[Assumption]`, one line in `RULES`, its section in FORMAT.md, files in
tests/proofs_check/{accepted,rejected,malformed}/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proofs_check.certificate import Assumption, Claim
from proofs_check.rules import adaptive, layer_norms, lipschitz, lipsdp, margin, smoothing
from proofs_check.rules.case import Case


@dataclass(frozen=True)
class Rule:
    """The type of a rule's evidence, and its check. adaptive: it knows claims whose `adaptive` is not null."""

    evidence: type[Any]
    check: Callable[[Claim, Any, Case], frozenset[Assumption]]
    adaptive: bool = False


RULES: dict[str, Rule] = {
    "adaptive_margin": Rule(adaptive.AdaptiveMargin, adaptive.adaptive_margin, adaptive=True),
    "engine_lipschitz_relaxed": Rule(lipschitz.EngineRelaxedLipschitz, lipschitz.engine_relaxed_lipschitz),
    "engine_margin": Rule(margin.EngineMargin, margin.engine_margin),
    "lipschitz_global": Rule(lipsdp.GlobalLipschitz, lipsdp.global_lipschitz),
    "lipschitz_layers": Rule(layer_norms.LayerLipschitz, layer_norms.layer_lipschitz),
    "lipschitz_local": Rule(lipschitz.LocalLipschitz, lipschitz.local_lipschitz),
    "lipschitz_relaxed": Rule(lipschitz.RelaxedLipschitz, lipschitz.relaxed_lipschitz),
    "network_margin": Rule(margin.NetworkMargin, margin.network_margin),
    "pair_margin": Rule(margin.PairMargin, margin.pair_margin),
    "smoothed_distribution": Rule(smoothing.SmoothedDistribution, smoothing.smoothed_distribution),
    "smoothed_means": Rule(smoothing.SmoothedMeans, smoothing.smoothed_means),
}
EVIDENCE: dict[str, type[Any]] = {name: rule.evidence for name, rule in RULES.items()}
