"""Data without classes: nothing is correct, and everything that counts what is correct says so, or refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from refusals import refusal

from certmix.__main__ import main
from proofs_check.__main__ import main as judge


@pytest.fixture(scope="module")
def images(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits as images, in a folder without classes."""
    folder = tmp_path_factory.mktemp("images")
    for k, value in enumerate(np.load(digits / "audit.npz")["images"][:3]):
        pixels = np.rint(np.asarray(value).reshape(8, 8) * (1 if value.dtype == np.uint8 else 255)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


def words(digits: Path, images: Path) -> list[str]:
    models = [f"--{name}={digits / name}.onnx" for name in ("standard", "robust")]
    return [*models, f"--data={images}", "--labels=none", "--alpha=0.8", "--attack-steps=2"]


@pytest.fixture(scope="module")
def run(digits: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["audit", *words(digits, images), "--out", str(out)]) == 0
    return out


def test_the_judge_and_the_report_say_that_nothing_is_correct(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert judge([str(run), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    count = summary["summary"]["accepted"]
    assert count > 0
    assert summary["correct"] is None
    assert summary["words"][0] == f"Certified: {count} of 3 inputs, none of which has a label."
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr().out
    assert "the inputs have no labels: nothing is known to be correct" in said
    assert "certified and correct" not in said
    assert "clean accuracy" not in said
    figures = json.loads((run / "summary.json").read_text(), parse_constant=pytest.fail)
    assert figures["labelled"] is False
    assert figures["certified_correct"] is figures["certified_correct_count"] is None
    assert figures["clean_accuracy"] == {}
    assert figures["certified"] == pytest.approx(100 * count / 3)
    page = (run / "report.html").read_text()
    assert "The inputs have no labels: nothing is known to be correct." in page
    assert "their class, and none has a label" in page
    assert not any(text in page for text in ("as their label", "label -1", "Class by class"))
    assert main(["show", str(run), "0"]) == 0
    assert "no label, class" in capsys.readouterr().out


def test_the_run_remembers_how_its_data_were_read(run: Path, images: Path, digits: Path, capsys) -> None:
    assert main(["check", str(run), "--data", str(images)]) == 0
    assert "all 3 inputs and labels of" in capsys.readouterr().out
    of_data = json.loads((run / "provenance.json").read_text())[0]["files"]["data"]
    assert of_data["bytes"] == sum(file.stat().st_size for file in images.iterdir())
    Image.new("L", (8, 8)).save(images / "3.png")
    try:
        assert main(["check", str(run), "--data", str(images)]) == 4
    finally:
        (images / "3.png").unlink()


def test_other_programs_get_no_label(run: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"rows.{kind}" for kind in ("csv", "jsonl", "parquet")}
    assert main(["export", str(run), *(f"--{kind}={path}" for kind, path in files.items())]) == 0
    assert all(line.split(",")[1] == "" for line in files["csv"].read_text().splitlines()[1:])
    assert all(json.loads(line)["label"] is None for line in files["jsonl"].read_text().splitlines())
    assert pyarrow.parquet.read_table(files["parquet"])["label"].null_count == 3


def test_what_counts_correct_answers_refuses_them(run: Path, images: Path, digits: Path, tmp_path, capsys) -> None:
    given, out = words(digits, images), ["--out", str(tmp_path / "r")]
    assert "--fail-under counts" in refusal(capsys, ["audit", *given, "--fail-under=1", *out])
    assert "--fail-under counts" in refusal(capsys, ["report", str(run), "--fail-under=1"])
    assert "compares accuracies, and" in refusal(capsys, ["sweep", str(run)])
    noise = ["--samples=500", "--failure-probability=0.1"]
    assert "has none: give labels" in refusal(capsys, ["smoothing-bounds", *given, *noise])
    assert "has none: give labels" in refusal(capsys, ["experiment", "confidence", *given[:4], "--radius=0.1", *out])
    assert not (tmp_path / "r").exists()
