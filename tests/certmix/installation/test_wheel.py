"""What is built from this source works where the source is not: the wheel with its demo, and the judge alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("certmix", "verifiers", "proofs_check", "examples", "pyproject.toml", "setup.py", "MANIFEST.in")
SOURCES += ("README.md", "LICENSE")


def project(file: Path) -> dict:
    return tomllib.loads(file.read_text())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with both, built from a copy of the source."""
    source = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    for place in (source, source / "proofs_check"):
        subprocess.run([*pip, "--wheel-dir", str(source / "dist"), str(place)], check=True, capture_output=True)
    return source / "dist"


def unpacked(wheel: Path, where: Path) -> dict[str, str]:
    """An environment in which Python finds what the wheel holds first."""
    zipfile.ZipFile(wheel).extractall(where)
    return {**os.environ, "PYTHONPATH": str(where)}


def test_the_demo_of_the_wheel_runs_in_an_empty_folder(wheels: Path, tmp_path: Path):
    (wheel,) = wheels.glob("certmix-*.whl")
    surroundings = unpacked(wheel, tmp_path / "site")
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "certmix", "demo", "--limit", "2"],
        cwd=tmp_path / "empty", env=surroundings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"$ certmix audit --config {tmp_path / 'site'}" in done.stdout
    assert "2 accepted, 0 rejected" in done.stdout
    assert (tmp_path / "empty" / "certmix-demo" / "report.html").is_file()


def test_the_judge_alone_needs_numpy_and_flint_only(wheels: Path, tmp_path: Path):
    (wheel,) = wheels.glob("certmix_check-*.whl")
    surroundings = unpacked(wheel, tmp_path / "site")
    (metadata,) = (tmp_path / "site").glob("*.dist-info/METADATA")
    needs = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")]
    assert needs == ["Requires-Dist: numpy>=2.0", "Requires-Dist: python-flint>=0.9"]
    (scripts,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "certmix-check = proofs_check.__main__:main" in scripts.read_text()
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'scipy', 'onnx', 'certmix', 'verifiers')))  # absent\n"
        "from proofs_check.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    case = ROOT / "tests" / "proofs_check" / "accepted" / "margin_linf"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(case)], env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " accepted, 0 rejected" in done.stdout


def test_the_judge_alone_has_every_package_of_the_judge_and_the_version_of_certmix():
    alone, whole = project(ROOT / "proofs_check" / "pyproject.toml"), project(ROOT / "pyproject.toml")
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "proofs_check").rglob("__init__.py")}
    assert set(alone["tool"]["setuptools"]["packages"]) == found - {"proofs_check.theorems"}  # which it does not import
    for field in ("version", "requires-python", "license", "authors"):
        assert alone["project"][field] == whole["project"][field]
    assert set(alone["project"]["dependencies"]) <= set(whole["project"]["dependencies"])


@pytest.mark.slow
def test_the_judge_alone_installs_into_an_empty_environment(wheels: Path, tmp_path: Path):
    """Fetches numpy and python-flint from the package registry."""
    (wheel,) = wheels.glob("certmix_check-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", wheel], check=True, env=alone())
    case = ROOT / "tests" / "proofs_check" / "accepted" / "margin_linf"
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "certmix-check", case], cwd=tmp_path, env=alone(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " accepted, 0 rejected" in done.stdout


def alone() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
