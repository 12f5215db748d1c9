"""Certificates of an adaptive mix for a dataset, as a run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from certmix.data.dataset import Dataset
from certmix.mixing.adaptive import AdaptiveMix, checked
from certmix.models.model import Model
from certmix.provers.adaptive import AdaptiveProver
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings


def audit_adaptive(
    standard: Model, robust: Model, data: Dataset, mix: AdaptiveMix, settings: Settings, out: Path
) -> int:
    """The same for a dataset, as a run's folder that `certmix check` re-derives; the audit's exit code."""
    checked(robust.input_shape, mix)
    of_least_alpha = dataclasses.replace(settings, alpha=mix.least(), curves=False)
    classifier = mix.classifier(standard.module, robust.module, of_least_alpha.temperature)
    networks = () if mix.network is None else (mix.network,)
    return Audit(standard, robust, data, of_least_alpha, Store(out), AdaptiveProver(mix), classifier, networks).run()
