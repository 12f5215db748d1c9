"""The report: one page that repeats what the files say, and a verdict only of the certificates at hand."""

from __future__ import annotations

import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from certmix import report_page
from certmix.__main__ import main

COUNT = 4


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    whole = np.load(digits / "audit.npz")
    wrong = (whole["labels"][:COUNT] + np.array([0, 0, 0, 1])) % 10
    np.savez(folder / "few.npz", images=whole["images"][:COUNT], labels=wrong)
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    given = ["audit", *models, "--data", str(folder / "few.npz"), "--alpha", "0.75", "--norm", "Linf"]
    assert main([*given, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def fresh(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


class Cells(html.parser.HTMLParser):
    """The text of every table row, and every address the page would load something from."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        external = tag in ("script", "link", "img", "iframe")
        self.loaded += [value or "" for name, value in attrs if external and name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def page_of(folder: Path) -> tuple[str, Cells]:
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(text)
    return text, cells


def test_the_page_shows_every_line_of_the_run(fresh: Path):
    _, cells = page_of(fresh)
    lines = [json.loads(line) for line in (fresh / "certificates.jsonl").read_text().splitlines()]
    found = [row for row in cells.rows if len(row) == 6 and row[0].isdigit()]
    assert [row[:4] for row in found] == [
        [str(n["index"]), str(n["label"]), str(n["predicted"]), n["outcome"]] for n in lines
    ]
    assert [float(row[4]) for row in found] == pytest.approx([n["radius"] for n in lines], rel=1e-5)


def test_the_page_stands_alone(fresh: Path):
    text, cells = page_of(fresh)
    assert not cells.loaded
    assert not re.search(r"url\((?!#)|@import", text)
    assert "<svg" in text


def test_the_page_repeats_the_verdict_on_these_very_certificates(fresh: Path, capsys: pytest.CaptureFixture[str]):
    assert "not been judged" in page_of(fresh)[0]
    assert main(["check", str(fresh)]) == 0
    text, _ = page_of(fresh)
    assert f"{COUNT} accepted, 0 rejected" in text
    assert "assumptions: none beyond exact export" in text
    with (fresh / "certificates.jsonl").open("ab") as stream:
        stream.write(b"{}\n")
    assert report_page.verdict(fresh, hashlib.sha256((fresh / "certificates.jsonl").read_bytes()).hexdigest()) is None


def test_a_verdict_of_other_certificates_is_not_shown(fresh: Path):
    assert main(["check", str(fresh)]) == 0
    verdict = json.loads((fresh / "verdict.json").read_bytes())
    (fresh / "verdict.json").write_text(json.dumps({**verdict, "certificates": "0" * 64}))
    assert "not been judged" in page_of(fresh)[0]
    (fresh / "verdict.json").write_text("[]")
    assert "not been judged" in page_of(fresh)[0]


def test_a_refusal_by_the_judge_is_shown_as_one(fresh: Path):
    path = fresh / "certificates.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"label":', b'"label": ', 1))
    assert main(["check", str(fresh)]) == 2
    text, _ = page_of(fresh)
    assert "Not every certificate was accepted." in text
    assert "1 malformed" in text


def test_check_prints_what_the_judge_prints(fresh: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    for extra in ([], ["--json"]):
        assert main(["check", str(fresh), *extra]) == 0
        ours = capfdbinary.readouterr().out
        assert (
            ours
            == subprocess.run(
                [sys.executable, "-m", "proofs_check", str(fresh), *extra], capture_output=True, check=True
            ).stdout
        )
    assert json.loads(json.loads((fresh / "verdict.json").read_bytes())["lines"][-1])["summary"]["accepted"] == COUNT


def test_names_in_the_page_are_escaped(fresh: Path):
    line = {"index": 0, "label": 1, "predicted": 2, "outcome": "abstained", "radius": None}
    row = report_page.row({**line, "reason": "NO_THEOREM", "advice": "<script>alert(1)</script>"})
    assert row["why"] == "NO_THEOREM: <script>alert(1)</script>"
    store = report_page.Store(fresh)
    store.lines = lambda: [{**line, "reason": "R", "advice": "<script>alert(1)</script>"}]  # type: ignore[method-assign]
    summary = json.loads(json.dumps(report_summary(fresh)))
    text = report_page.write(store, summary, "<b>nothing</b>").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>nothing</b>" not in text


def report_summary(folder: Path) -> dict:
    assert main(["report", str(folder)]) == 0
    return json.loads((folder / "summary.json").read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "L2"}, "ℓ2 distance"),
        ({"domain": None}, "at most the radius shown. g, h"),
        ({"semantics": "float32"}, "IEEE float32"),
        ({"method": "smoothing"}, "fails with probability at most 0.001"),
        ({"method": "smoothing", "use_standard": True}, "both networks are smoothed"),
    ],
)
def test_the_claim_says_what_the_settings_say(run: Path, change: dict, words: str):
    settings = json.loads((run / "run.json").read_bytes())["settings"]
    assert words in report_page.claim({**settings, **change})
    assert ("lie in [0, 1]" in report_page.claim({**settings, **change})) == (
        "domain" not in change and "method" not in change
    )


def test_the_report_of_a_lipschitz_folder_is_its_table_and_plot(digits: Path, tmp_path: Path, capsys):
    out = tmp_path / "constants"
    given = ["lipschitz", "--robust", str(digits / "robust.onnx"), "--data", str(digits / "audit.npz")]
    assert main([*given, "--norm", "L2", "--radius", "0.1", "--limit", "2", "--no-lipsdp", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    (out / "lipschitz.png").unlink()
    assert main(["report", str(out)]) == 0
    table = capsys.readouterr().out
    assert table.strip() in shown
    assert (out / "lipschitz.png").stat().st_size > 1000
    (out / "lipschitz.json").write_text("{}")
    assert main(["report", str(out)]) == 2
