"""Nothing rests on the machine: other vector instructions and other numbers of threads prove, and refuse, the same.

torch and OpenBLAS are told to use older instructions than the processor has; what the variables cannot switch on they
ignore, so that these tests run everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "proofs_check"
JUDGED = ("accepted/margin_l2", "accepted/lipschitz_layers_l2", "accepted/smoothing_soft", "rejected/larger_radius")
VARIANTS = {
    "oldest, one thread": {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott", "THREADS": "1"},
    "avx2, two threads": {"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell", "THREADS": "2"},
}  # fmt: skip


def run(variant: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    threads = {"OMP_NUM_THREADS": variant["THREADS"], "OPENBLAS_NUM_THREADS": variant["THREADS"]}
    environment = {**os.environ, **variant, **threads, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_judge_decides_the_same_with_other_instructions(variant: dict[str, str]):
    for case in JUDGED:
        done = run(variant, "proofs_check", str(CASES / case))
        assert done.returncode == (0 if case.startswith("accepted") else 1), f"{case}: {done.stdout}{done.stderr}"


def audited(variant: dict[str, str], out: Path) -> list[float]:
    """Certified radii of an audit of two inputs."""
    models = ["--standard", "examples/digits/standard.onnx", "--robust", "examples/digits/robust.onnx"]
    data = ["--data", "examples/digits/audit.npz", "--limit", "2", "--alpha", "0.75"]
    done = run(variant, "certmix", "audit", *models, *data, "--threads", variant["THREADS"], "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    return [line["radius"] for line in lines if line["outcome"] == "certified"]


@pytest.fixture(scope="module")
def radii_here(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Those of this machine as it is."""
    return audited({"THREADS": "1"}, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_an_audit_with_other_instructions_is_accepted_here_and_as_good(
    variant: dict[str, str], radii_here: list[float], tmp_path: Path
):
    """Radii may differ by the tolerance of their search."""
    radii = audited(variant, tmp_path / "run")
    assert run({"THREADS": "1"}, "proofs_check", str(tmp_path / "run")).returncode == 0
    assert len(radii) == 2
    assert radii == pytest.approx(radii_here, rel=2e-3)
