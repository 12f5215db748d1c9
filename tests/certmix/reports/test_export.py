"""What other programs read of a run is what its lines and the judge say."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from refusals import refusal
from small_runs import audit

from certmix.__main__ import main
from certmix.reports import export
from certmix.reports.export import Row
from certmix.runs.store import FINAL


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert audit(digits, out).run() == 0
    return out


ROWS = [
    Row(0, 1, 1, "certified", 0.1, None, "accepted", ""),
    Row(1, 1, 1, "attackable", None, 0.25, "claims nothing", 'why, "quoted"\n<b>'),
    Row(2, 1, 1, "open", None, None, "claims nothing", "unknown"),
    Row(3, 1, 1, "open", None, None, "rejected", "the judge did not accept it: margin"),
]


def test_csv_reads_back_as_it_is(tmp_path: Path):
    export.write_csv(ROWS, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    for row, found in zip(ROWS, read, strict=True):
        assert {k: str(v) if v is not None else "" for k, v in vars(row).items()} == found
        assert found["radius"] == "" or float(found["radius"]) == row.radius


def test_junit_fails_what_an_attack_or_the_judge_refutes_and_skips_what_is_open(tmp_path: Path):
    export.write_junit(ROWS, tmp_path / "rows.xml")
    suite = ElementTree.parse(tmp_path / "rows.xml").getroot()
    assert dict(suite.attrib) == {"name": "certmix", "tests": "4", "failures": "2", "skipped": "1"}
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [[], ["failure"], ["skipped"], ["failure"]]
    assert suite[1][0].get("message") == ROWS[1].why


def test_parquet_reads_back_or_says_what_it_needs(tmp_path: Path):
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        with pytest.raises(export.UsageError, match="pip install pyarrow"):
            export.write_parquet(ROWS, tmp_path / "rows.parquet")
        return
    export.write_parquet(ROWS, tmp_path / "rows.parquet")
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == [vars(row) for row in ROWS]


def test_a_run_is_exported_as_the_judge_sees_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(run, tmp_path / "run")
    out, file = tmp_path / "run", tmp_path / "rows.jsonl"
    assert main(["export", str(out), "--jsonl", str(file), "--junit", str(tmp_path / "rows.xml")]) == 0
    lines = [json.loads(line) for line in (out / FINAL).read_bytes().splitlines()]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for line, row in zip(lines, rows, strict=True):
        certified = line["outcome"] == "certified"
        assert (row["verdict"] == "certified", row["label"]) == (certified, line["label"])
        assert row["radius"] == (line["radius"] if certified else None)
        assert row["attack_radius"] is None or not certified or row["attack_radius"] > row["radius"]
    assert any(row["attack_radius"] is not None for row in rows)
    # inputs of another run: no certificate is about them
    with np.load(out / "inputs.npz") as stored:
        inputs, labels = stored["inputs"], stored["labels"]
    np.savez(out / "inputs.npz", inputs=inputs * np.float32(0.5), labels=labels)
    capsys.readouterr()
    assert main(["export", str(out), "--jsonl", str(file)]) == 2
    assert all(json.loads(line)["radius"] is None for line in file.read_text().splitlines())


def test_what_cannot_be_exported_says_why(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "--csv FILE" in refusal(capsys, ["export", str(run)])
    assert "holds no finished audit" in refusal(capsys, ["export", str(tmp_path), "--csv", str(tmp_path / "a.csv")])
    assert "No such file" in refusal(
        capsys, ["export", str(run), "--no-check", "--csv", str(tmp_path / "no" / "a.csv")]
    )
