"""Lets the tests of this folder import the second judge, and the helpers of the first one's tests."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "proofs_check")]
