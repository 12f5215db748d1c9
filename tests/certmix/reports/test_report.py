"""The report: one page that repeats what the files say, and a verdict only of the certificates at hand."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from certmix.__main__ import main
from certmix.data.dataset import Dataset, load_data
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import load_model
from certmix.records import assumptions as rests
from certmix.reports import page as report_page
from certmix.runs.adaptive import audit_adaptive
from certmix.settings import Settings
from proofs_check.reading import parse
from proofs_check.run import Run

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
    assert [[*row[:3], row[3].removesuffix(", wrong class")] for row in found] == [
        [str(n["index"]), str(n["label"]), str(n["predicted"]), n["outcome"]] for n in lines
    ]
    assert [float(row[4]) for row in found] == pytest.approx([n["radius"] for n in lines], rel=1e-5)


def test_the_page_stands_alone(fresh: Path):
    text, cells = page_of(fresh)
    assert not cells.loaded
    assert not re.search(r"url\((?!#)|@import", text)
    assert "<svg" in text


def test_the_page_repeats_the_verdict_of_a_judge_it_asks_itself(fresh: Path):
    (fresh / "verdict.json").write_text('{"exit_code": 1, "lines": ["0 accepted, 99 rejected"]}')
    text, _ = page_of(fresh)
    assert f"{COUNT} accepted, 0 rejected" in text
    assert "assumptions: none beyond exact export" in text
    assert "99 rejected" not in text


def test_a_page_that_nobody_judged_says_so(fresh: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(fresh), "--no-check"]) == 0
    assert "nobody judged these certificates" in capsys.readouterr().out
    text = (fresh / "report.html").read_text(encoding="utf-8")
    assert "Nobody judged these certificates" in text
    assert "accepted" not in text.split("<h2>The judge</h2>")[1].split("<h2>")[0]


def test_a_header_of_another_claim_is_no_page_of_accepted_certificates(fresh: Path):
    value = json.loads((fresh / "run.json").read_bytes())
    del value["sha256"]
    value["settings"]["alpha"] = 0.6
    (fresh / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    text, _ = page_of(fresh)
    assert "Not every certificate was accepted." in text
    assert "speaks of alpha = 0.75, the run of 0.6" in text


def test_a_header_that_hides_its_claim_is_refused(fresh: Path, capsys: pytest.CaptureFixture[str]):
    value = json.loads((fresh / "run.json").read_bytes())
    del value["sha256"], value["settings"]["alpha"]
    (fresh / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    assert main(["report", str(fresh)]) == 2
    assert "does not say alpha" in capsys.readouterr().err


def test_no_displayed_radius_and_no_point_of_the_curve_says_more_than_was_proven(fresh: Path):
    lines = [json.loads(line) for line in (fresh / "certificates.jsonl").read_text().splitlines()]
    right = [n["radius"] for n in lines if n["outcome"] == "certified" and n["predicted"] == n["label"]]
    _, cells = page_of(fresh)
    shown = [row for row in cells.rows if len(row) == 6 and row[0].isdigit() and row[3].startswith("certified")]
    assert shown
    for row in shown:
        assert Fraction(Decimal(row[4])) <= Fraction(lines[int(row[0])]["radius"])
    curve = json.loads((fresh / "summary.json").read_text())["curve"]
    assert [p["radius"] for p in curve] == sorted({0.0, *right})
    for point in curve:
        held = sum(radius >= point["radius"] for radius in right)
        assert point["certified_correct"] == pytest.approx(100 * held / len(lines))


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


def test_names_in_the_page_are_escaped(fresh: Path):
    line = {"index": 0, "label": 1, "predicted": 2, "outcome": "abstained", "radius": None}
    row = report_page.row({**line, "reason": "NO_THEOREM", "advice": "<script>alert(1)</script>"})
    assert row["why"] == "NO_THEOREM: <script>alert(1)</script>"
    store = report_page.Store(fresh)
    store.lines = lambda: [{**line, "reason": "R", "advice": "<script>alert(1)</script>"}]  # type: ignore[method-assign]
    summary = {**report_summary(fresh), "rests_on": "<b>nothing</b>"}
    text = report_page.write(store, summary, None).read_text(encoding="utf-8")
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
    assert "ENGINE_TRUSTED" in table
    assert (out / "lipschitz.png").stat().st_size > 1000
    (out / "lipschitz.json").write_text("{}")
    assert main(["report", str(out)]) == 2


ACCEPTED = sorted((Path(__file__).parents[2] / "proofs_check" / "accepted").iterdir())


@pytest.mark.parametrize("folder", ACCEPTED, ids=lambda p: p.name)
def test_a_line_is_said_to_rest_on_what_the_judge_says_it_does(folder: Path):
    lines = [json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines()]
    judged = list(Run(folder).results())
    assert any(result.state == "accepted" for result in judged)
    for line, result in zip(lines, judged, strict=True):
        if result.state == "accepted":
            assert sorted(a.name for a in rests.of_line(line)) == sorted(result.assumptions)


@pytest.mark.parametrize(
    ("adaptive", "words"),
    [
        (
            {"alpha": {"network": None, "low": 0.75, "high": 1.0}, "transform": None},
            ("(1 − a(x)) · softmax(g) + a(x) · softmax(T · h)", "a(x): any function, between 0.75 and 1."),
        ),
        (
            {"alpha": {"network": "ab" * 32, "low": 0.6, "high": 0.9}, "transform": None},
            ("a(x): by the network abababababab…, between 0.6 and 0.9.",),
        ),
        (
            {"alpha": None, "transform": {"shift": 0.5, "power": 2.0, "clamp": True}},
            ("(1 − α) · softmax(g) + α · softmax(T · M(h))", "M(z) = max(z + 0.5, 0)^2"),
        ),
    ],
)
def test_the_claim_of_an_adaptive_mix_names_its_weight_and_transform(run: Path, adaptive: dict, words: tuple[str, ...]):
    settings = json.loads((run / "run.json").read_bytes())["settings"]
    assert all(part in report_page.claim(settings, adaptive) for part in words)
    assert ("α = " in report_page.title(report_summary(run), adaptive)) == (adaptive["alpha"] is None)


def test_no_page_speaks_of_several_mixes_in_one_sentence():
    plain = {"outcome": "certified", "adaptive": None}
    other = {"outcome": "certified", "adaptive": {"alpha": None, "transform": None}}
    assert report_page.of_all([{"outcome": "abstained"}, other, other]) == other["adaptive"]
    assert report_page.of_all([plain]) is None
    assert report_page.of_all([]) is None
    for lines in ([plain, other], [other, plain], [plain, plain, other]):
        with pytest.raises(UsageError, match="several mixes"):
            report_page.of_all(lines)


def test_the_report_of_an_adaptive_run_is_about_its_own_mix(digits: Path, tmp_path: Path):
    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x))

    pair = [load_model(digits / f"{name}.onnx") for name in ("standard", "robust")]
    mix, whole = AdaptiveMix(Always(), alpha_lower=0.75), load_data(digits / "audit.npz")
    with torch.no_grad():
        x = torch.from_numpy(whole.inputs)
        own = mix.classifier(pair[0].module, pair[1].module, 1.0)(x).argmax(1)
        differs = own != MixedClassifier(pair[0].module, pair[1].module, 0.75)(x).argmax(1)
    assert differs.any(), "an input must tell the two mixes apart"
    chosen = [0, 1, int(differs.nonzero()[0])]
    out = tmp_path / "run"
    data = Dataset(np.ascontiguousarray(whole.inputs[chosen]), whole.labels[chosen], "digits")
    assert audit_adaptive(pair[0], pair[1], data, mix, Settings(0.75, radius=0.01, attack_steps=0), out) == 0
    assert "ALPHA_BOUND_TRUSTED" in report_summary(out)["rests_on"]
    assert "a(x): any function" in page_of(out)[0]
    found = json.loads((out / "audit.json").read_bytes())["predictions"]
    assert found["mix"] == own[chosen].tolist()


def test_figures_that_no_judge_has_proven_name_what_they_rest_on(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sweep", str(run), "--alpha", "0.75", "--temperature", "1", "--attack-steps", "0"]) == 0
    assert "ENGINE_TRUSTED" in capsys.readouterr().out
