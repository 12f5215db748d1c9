"""Writes docs/operators.md, the page of every operator as g and as h, from the tables in the code.

python benchmarks/operators.py
"""

from __future__ import annotations

from pathlib import Path

from certmix.models.catalogue import page

if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "operators.md").write_text(page(), encoding="utf-8")
