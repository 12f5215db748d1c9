"""Certificates of an adaptive mix for a dataset, as a run's folder."""

from __future__ import annotations

from pathlib import Path

from certmix.data.dataset import Dataset
from certmix.mixing.adaptive import AdaptiveMix, checked
from certmix.models.model import Model
from certmix.provers.adaptive import adaptive_settings
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings


def audit_adaptive(
    standard: Model, robust: Model, data: Dataset, mix: AdaptiveMix, settings: Settings, out: Path
) -> int:
    """The same for a dataset, as a run's folder that `certmix check` re-derives; the audit's exit code."""
    checked(robust.input_shape, robust.classes, mix)
    return Audit(standard, robust, data, adaptive_settings(mix, settings), Store(out), adaptive=mix).run()
