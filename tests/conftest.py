"""Fixtures shared by the packages' tests."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# machines differ in speed: no deadlines; CI always tries the same examples
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Certificates and confirmed counterexamples never coexist, whatever tests they come from: coexistence.py."""
    sys.path.append(str(Path(__file__).resolve().parent))  # the modules that several folders of tests share
    config.pluginmanager.register(importlib.import_module("coexistence").Law(), "coexistence")


@pytest.fixture(scope="session")
def certmix_data() -> Path:
    """Folder of real models and images; tests that need it are skipped where it is absent."""
    path = ROOT / os.environ.get("CERTMIX_DATA", "../shared/data")
    if not path.is_dir():
        pytest.skip(f"CERTMIX_DATA is absent: no folder {path}")
    return path


@pytest.fixture(scope="session")
def digits() -> Path:
    """The example of the repository."""
    return ROOT / "examples" / "digits"
