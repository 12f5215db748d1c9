"""The doctor finds what is wrong, and says the way out."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

from certmix.__main__ import main
from certmix.installation import arithmetic, packages
from verifiers.auto_lirpa import compat
from verifiers.engine import EngineError


def test_nothing_is_wrong_where_these_tests_run(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is wrong" in shown
    assert f"+ numpy: {np.__version__}" in shown


def test_a_line_of_json_says_the_same(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"packages", "machine", "arithmetic of the judge"} == {f["part"] for f in found}
    assert all(f["state"] == "ok" or f["way_out"] for f in found)


def test_a_processor_that_drops_subnormal_numbers_is_found():
    code = (
        "import sys, torch\n"
        "torch.set_flush_denormal(True)\n"
        "from certmix.__main__ import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "x floating-point unit: this process reads subnormal numbers as zero" in done.stdout
    assert "1 of these must be mended" in done.stdout


def wrong() -> set[str]:
    return {f.of for f in arithmetic.findings() if f.state == "wrong"}


def test_sums_of_less_precision_are_found(monkeypatch: pytest.MonkeyPatch):
    """As if numpy added, or multiplied, in float32."""

    class Coarse(np.ndarray):
        def sum(self, *args, **kwargs):
            return np.asarray(self).astype(np.float32).sum(dtype=np.float32)

        def __matmul__(self, other):
            left, right = np.asarray(self), np.asarray(other)
            if left.dtype != np.float64:
                return left @ right
            return (left.astype(np.float32) @ right.astype(np.float32)).astype(np.float64)

    ones, cosines, arange = np.ones, np.cos, np.arange
    monkeypatch.setattr(arithmetic.np, "ones", lambda n: ones(n).view(Coarse))
    assert wrong() == {"sums"}
    monkeypatch.setattr(arithmetic.np, "ones", ones)
    monkeypatch.setattr(arithmetic.np, "cos", lambda v: cosines(v).view(Coarse))
    assert wrong() == {"products of reals"}
    monkeypatch.setattr(arithmetic.np, "cos", cosines)
    monkeypatch.setattr(arithmetic.np, "arange", lambda *a, **k: arange(*a, **k).view(Coarse))
    assert "products of integers" in wrong()


def test_a_maximum_that_drops_nan_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arithmetic.np, "maximum", np.fmax)
    assert wrong() == {"NaN"}


def test_enclosures_that_do_not_enclose_are_found(monkeypatch: pytest.MonkeyPatch):
    class Thin(arithmetic.arb):
        def erf(self):
            return super().erf().mid()

    monkeypatch.setattr(arithmetic, "arb", Thin)
    assert wrong() == {"Arb (python-flint)"}


@pytest.mark.parametrize(
    ("version", "words"), [(None, "not installed; rich>=13 is needed"), ("12.9", "12.9; rich>=13 is needed")]
)
def test_a_package_that_is_missing_or_too_old_is_found(version: str | None, words: str, monkeypatch):
    real = metadata.version

    def pretended(name: str) -> str:
        if name != "rich":
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(packages.metadata, "version", pretended)
    (found,) = [f for f in packages.findings() if f.of == "rich"]
    assert (found.state, found.found, found.way_out) == ("wrong", words, "pip install 'rich>=13'")


def test_an_extra_that_is_missing_is_no_more_than_a_note(monkeypatch: pytest.MonkeyPatch):
    real = metadata.version

    def pretended(name: str) -> str:
        if name == "pyautoattack":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(packages.metadata, "version", pretended)
    (found,) = [f for f in packages.findings() if f.of == "certmix[attacks]"]
    assert (found.state, found.found) == ("note", "lacks pyautoattack")
    assert found.way_out == "pip install 'certmix[attacks]'"


def test_without_auto_lirpa_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch):
    def missing():
        raise EngineError(f"auto_LiRPA is not installed; {compat.REMEDY}")

    monkeypatch.setattr(compat, "load", missing)
    found = packages.findings()[-1]
    assert (found.of, found.state, found.found) == ("auto_LiRPA", "note", "auto_LiRPA is not installed")
    assert found.way_out == compat.REMEDY
