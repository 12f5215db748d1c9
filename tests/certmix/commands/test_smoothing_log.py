"""Certified-accuracy curves from certification logs."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.commands import certify_log
from certmix.commands.parsing import Parser
from certmix.errors import UsageError
from certmix.records import smoothing_log

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def write(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "log.tsv"
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path


def run(path: Path, *more: str) -> int:
    parser = Parser()
    certify_log.add_arguments(parser)
    return certify_log.run(parser.parse_args([str(path), *more]))


def stripped(text: str) -> str:
    """Zeros at the end of a decimal fraction dropped, as Python's %g and pandas drop them."""
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=6), st.sampled_from([".1", ".2", ".3", ".4", ".1f", ".2f", ".3f"])
)
def test_the_least_value_never_exceeds_what_was_printed(radii: list[float], shape: str) -> None:
    """Significant digits or decimals, zeros at the end kept or dropped."""
    for drop in (False, True):
        texts = [format(radius, shape) for radius in radii]
        column = [Decimal(stripped(text) if drop else text) for text in texts]
        precision = smoothing_log.Precision.of(column)
        for printed, radius in zip(column, radii, strict=True):
            assert Decimal(precision.least(printed)) <= Decimal(radius)
            own = smoothing_log.Precision.of([printed])
            assert own.least(printed) <= precision.least(printed)


def test_half_a_unit_of_the_last_digit_is_taken_off() -> None:
    for text, value in (("0.48", 0.475), ("1.04", 1.035), ("0.0277", 0.02765), ("2", 1.5), ("1e-05", 0.5e-5)):
        printed = Decimal(text)
        assert smoothing_log.Precision.of([printed]).least(printed) == pytest.approx(value)


def test_zeros_that_the_printer_dropped_count_as_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs in the style of Cohen et al. print 1.90 as 1.9 and 0.700 as 0.7."""
    texts = ("1.91", "1.9", "0.723", "0.7", "2.35", "2.0")
    path = write(tmp_path, *(f"{k}\t1\t1\t{text}\t1\tx" for k, text in enumerate(texts)))
    log = smoothing_log.read_log(path, 1.0)
    assert log.radius == pytest.approx([1.905, 1.895, 0.7225, 0.6995, 2.345, 1.995])
    assert run(path, "--noise-std", "1", "--alpha", "0.76") == 0
    assert "3 significant digits or 3 decimals" in " ".join(capsys.readouterr().out.split())


def test_a_log_read_with_the_noise_of_another_is_refused_naming_the_line(tmp_path: Path) -> None:
    """Radius 3.91 at noise 0.25 is a vote share of 1 - 1e-54: the curves would say more than anybody proved."""
    path = write(tmp_path, "0\t1\t1\t0.72\t1\tx", "1\t1\t1\t3.91\t1\tx")
    assert smoothing_log.read_log(path, 1.0).radius[1] == pytest.approx(3.905)
    with pytest.raises(UsageError, match=r"line 3: radius 3.91 is 15.6 times the noise 0.25"):
        smoothing_log.read_log(path, 0.25)


def test_abstentions_and_wrong_classes_never_count_and_radii_must_be_exceeded(tmp_path: Path) -> None:
    path = write(tmp_path, "0\t3\t-1\t9.0\t0\tx", "1\t3\t4\t5.9\t0\tx", "2\t3\t3\t1.05\t1\tx", "3\t3\t3\t0.0\t1\tx")
    log = smoothing_log.read_log(path, 1.0)
    assert log.radius[0] == -math.inf
    curve = smoothing_log.curves(log, 1.0, (0.0, 1.0, 1.045, 1.046))["direct"]
    assert curve.accuracy == (25.0, 25.0, 0.0, 0.0)
    assert curve.largest == 1.045
    assert smoothing_log.accuracy(np.array([0.5]), np.array([True]), 0.5) == 0.0


def test_curves_fall_with_the_radius_and_rise_with_alpha(tmp_path: Path) -> None:
    rows = [f"{i}\t0\t0\t{i / 20:.3}\t1\tx" for i in range(60)]
    log = smoothing_log.read_log(write(tmp_path, *rows), 0.5)
    before: dict[str, np.ndarray] = {}
    for alpha in (0.55, 0.7, 0.9, 1.0):
        for name, curve in smoothing_log.curves(log, alpha, tuple(np.linspace(0, 3, 31))).items():
            shares = np.array(curve.accuracy)
            assert (np.diff(shares) <= 0).all()
            assert (shares >= before.get(name, shares)).all()
            before[name] = shares


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("idx\tlabel\tpredict\tcorrect\ttime\n", "0\t1\t1\t1\tx", "column 'radius' is missing"),
        ("", "", "column 'label' is missing"),
        (HEADER, "0\t1\t1\t0.5\t1", "line 2: has 5 columns"),
        (HEADER, "0\t1\t1\tbig\t1\tx", "line 2: label, predict and radius must be numbers"),
        (HEADER, "0\tcat\t1\t0.5\t1\tx", "must be numbers"),
        (HEADER, "0\t1\t1\tnan\t1\tx", "radius must be >= 0 and finite"),
        (HEADER, "0\t1\t1\t-0.5\t1\tx", "radius must be >= 0 and finite"),
        (HEADER, "", "holds no inputs"),
    ],
)
def test_logs_that_do_not_fit_are_refused_with_their_place(tmp_path: Path, header: str, row: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        smoothing_log.read_log(write(tmp_path, row, header=header), 1.0)


@pytest.mark.parametrize("noise_std", ["0", "-1"])
def test_noise_and_alpha_must_make_sense(tmp_path: Path, noise_std: str) -> None:
    path = write(tmp_path, "0\t1\t1\t0.5\t1\tx")
    with pytest.raises(UsageError, match="noise_std must be > 0"):
        run(path, "--noise-std", noise_std, "--alpha", "0.76")
    with pytest.raises(UsageError, match="alpha > 1/2"):
        run(path, "--noise-std", "1", "--alpha", "0.5")
    with pytest.raises(UsageError, match="cannot be read"):
        run(tmp_path / "none.tsv", "--noise-std", "1", "--alpha", "0.76")


def test_the_command_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "0\t1\t1\t1.5\t1\tx", "1\t1\t-1\t0.0\t0\tx")
    out = tmp_path / "figures.json"
    assert run(path, "--noise-std", "1", "--alpha", "0.76", "--radii", "0", "1", "--json", str(out)) == 0
    shown = capsys.readouterr().out
    assert "theorem_3_5_paper" in shown
    assert "1 abstentions" in shown
    assert json.loads(out.read_text())["bounds"]["direct"]["accuracy"] == [50.0, 50.0]


def test_the_public_log_gives_the_known_curves(certmix_data: Path) -> None:
    path = certmix_data / "smoothing_logs" / "cifar10_resnet110_noise_1.00.tsv"
    known = {"theorem_3_7": (36.4, 26.6, 15.7, 0, 0, 0, 0), "direct": (36.4, 29.8, 24.2, 18.9, 14.7, 7.6, 3.2)}
    printed = smoothing_log.curves(smoothing_log.read_log(path, 1.0, as_printed=True), 0.76)
    safe = smoothing_log.curves(smoothing_log.read_log(path, 1.0), 0.76)
    for name, shares in known.items():
        assert printed[name].accuracy == pytest.approx(shares, abs=0.051)
        # the safe inversion gives up what the log's two decimals cannot tell
        lost = np.array(printed[name].accuracy) - np.array(safe[name].accuracy)
        assert (lost >= 0).all()
        assert (lost <= 0.45).all()
    assert printed["theorem_3_7"].largest == pytest.approx(0.706, abs=5e-4)
    assert safe["direct"].largest == pytest.approx(3.40, abs=5e-3)
