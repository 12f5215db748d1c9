"""The pair of models and the data that come with certmix, wherever it was installed from."""

from __future__ import annotations

from pathlib import Path

from certmix.errors import UsageError

PACKAGE = Path(__file__).resolve().parent.parent
PLACES = (
    PACKAGE / "bundled" / "digits",
    PACKAGE.parent / "examples" / "digits",
)  # of a wheel (setup.py), of the source


def digits() -> Path:
    """Folder with audit.toml, standard.onnx, robust.onnx and audit.npz. Raises UsageError where there is none."""
    for place in PLACES:
        if (place / "audit.toml").is_file():
            return place
    raise UsageError(f"the bundled models are missing, neither {PLACES[0]} nor {PLACES[1]} is there: install it anew")
