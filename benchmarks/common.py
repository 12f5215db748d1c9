"""Where benchmarks find models and images, and where they leave their figures."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CERTMIX_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"


def need_data() -> Path:
    """The folder of real models; ends the benchmark with a message where it is absent."""
    if not DATA.is_dir():
        sys.exit(f"CERTMIX_DATA is absent: no folder {DATA}")
    return DATA


def save(name: str, figures: Any) -> None:
    """Print and keep the figures of one benchmark as benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "figures": figures}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


def before(name: str) -> Any:
    """The figures kept by an earlier run, [] if there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["figures"] if path.exists() else []
