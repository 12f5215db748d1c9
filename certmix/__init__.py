"""certmix: certificates for mixed classifiers log((1 - alpha) softmax g + alpha softmax h).

    import certmix
    outcomes = certmix.certify(standard, robust, x, alpha=0.75, norm="Linf")
    certmix.check(outcomes[0])

Names are loaded on first use, so that `import certmix` alone is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certmix.certify import certify
    from certmix.judging import check
    from certmix.mixing import MixedClassifier
    from certmix.models import Model, from_module, load_model
    from certmix.outcomes import Abstained, Certified, Falsified, Reason
    from certmix.settings import Settings, SmoothingSettings

__all__ = [
    "Abstained",
    "Certified",
    "Falsified",
    "MixedClassifier",
    "Model",
    "Reason",
    "Settings",
    "SmoothingSettings",
    "certify",
    "check",
    "from_module",
    "load_model",
]

_HOMES = {
    "Abstained": "outcomes",
    "Certified": "outcomes",
    "Falsified": "outcomes",
    "MixedClassifier": "mixing",
    "Model": "models",
    "Reason": "outcomes",
    "Settings": "settings",
    "SmoothingSettings": "settings",
    "certify": "certify",
    "check": "judging",
    "from_module": "models",
    "load_model": "models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'certmix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"certmix.{_HOMES[name]}"), name)
