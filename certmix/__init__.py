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
    __version__: str
    from certmix.data.dataset import Dataset, load_data
    from certmix.data.features import Features
    from certmix.errors import UsageError
    from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
    from certmix.mixing.mixed import MixedClassifier
    from certmix.models.model import Model, from_module, load_model
    from certmix.models.preprocess import Preprocess
    from certmix.provers.certify import certify, certify_adaptive
    from certmix.provers.judging import check
    from certmix.records.outcomes import Abstained, Certified, Falsified, Outcomes, Reason, to_dataframe
    from certmix.settings import Settings, SmoothingSettings

__all__ = [
    "Abstained",
    "AdaptiveMix",
    "Certified",
    "Dataset",
    "Falsified",
    "Features",
    "MixedClassifier",
    "Model",
    "Outcomes",
    "Preprocess",
    "Reason",
    "Settings",
    "SigmoidAlpha",
    "SmoothingSettings",
    "UsageError",
    "__version__",
    "certify",
    "certify_adaptive",
    "check",
    "from_module",
    "load_data",
    "load_model",
    "to_dataframe",
]

_HOMES = {
    "Abstained": "records.outcomes",
    "AdaptiveMix": "mixing.adaptive",
    "Certified": "records.outcomes",
    "Dataset": "data.dataset",
    "Falsified": "records.outcomes",
    "Features": "data.features",
    "MixedClassifier": "mixing.mixed",
    "Model": "models.model",
    "Outcomes": "records.outcomes",
    "Preprocess": "models.preprocess",
    "Reason": "records.outcomes",
    "Settings": "settings",
    "SigmoidAlpha": "mixing.adaptive",
    "SmoothingSettings": "settings",
    "certify": "provers.certify",
    "certify_adaptive": "provers.certify",
    "check": "provers.judging",
    "from_module": "models.model",
    "load_data": "data.dataset",
    "load_model": "models.model",
    "to_dataframe": "records.outcomes",
    "UsageError": "errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'certmix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"certmix.{_HOMES[name]}"), name)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("certmix")
    except metadata.PackageNotFoundError:
        return "not installed"  # run from its source, as a judge in an environment of its own may be


def __dir__() -> list[str]:
    return sorted(__all__)
