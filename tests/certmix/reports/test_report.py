"""The report: one page that repeats what the files say, and a verdict only of the certificates at hand."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
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
from certmix.reports import claims, page
from certmix.reports.reading import read
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


class Tags(html.parser.HTMLParser):
    """Every address that the page would load something from, every picture's words, and the text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.text = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        found = dict(attrs)
        self.loaded += [found[name] or "" for name in ("src", "href", "data", "action") if name in found]
        if tag in ("img", "svg") or found.get("role") == "img":
            self.pictures.append(found)

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def rows_of(text: str) -> list[dict[str, str]]:
    """The CSV inside a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return list(csv.DictReader(io.StringIO(json.loads(found.group(1)))))


def page_of(folder: Path, *options: str) -> tuple[str, Tags]:
    assert main(["report", str(folder), *options]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    return text, tags


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines()]


def test_the_page_shows_every_line_of_the_run(fresh: Path):
    rows, lines = rows_of(page_of(fresh)[0]), lines_of(fresh)
    assert [[row["input"], row["label"], row["class"]] for row in rows] == [
        [str(n["index"]), str(n["label"]), str(n["predicted"])] for n in lines
    ]
    assert [float(row["certified radius"]) for row in rows] == pytest.approx([n["radius"] for n in lines], rel=1e-5)
    wrong = [n["label"] != n["predicted"] for n in lines]
    assert any(wrong)
    assert [row["verdict"] for row in rows] == ["certified, wrong class" if w else "certified" for w in wrong]


def test_the_page_stands_alone(fresh: Path):
    text, tags = page_of(fresh)
    assert [address for address in tags.loaded if not address.startswith(("data:image/png;base64,", "#"))] == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert len([of for of in tags.pictures if of.get("src")]) >= COUNT
    assert all(of.get("alt") or of.get("aria-label") for of in tags.pictures)


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
    assert {row["judge"] for row in rows_of(text)} == {"not judged"}
    assert "The judge accepted" not in text


def test_a_header_of_another_claim_is_no_page_of_accepted_certificates(fresh: Path):
    value = json.loads((fresh / "run.json").read_bytes())
    del value["sha256"]
    value["settings"]["alpha"] = 0.6
    (fresh / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    text, _ = page_of(fresh)
    assert "Not every certificate was accepted" in text
    assert {row["verdict"] for row in rows_of(text)} <= {"open", "attackable"}
    assert "speaks of alpha = 0.75, the run of 0.6" in text


def test_a_header_that_hides_its_claim_is_refused(fresh: Path, capsys: pytest.CaptureFixture[str]):
    value = json.loads((fresh / "run.json").read_bytes())
    del value["sha256"], value["settings"]["alpha"]
    (fresh / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    assert main(["report", str(fresh)]) == 2
    assert "does not say alpha" in capsys.readouterr().err


def test_a_refusal_by_the_judge_is_shown_as_one(fresh: Path):
    path = fresh / "certificates.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"label":', b'"label": ', 1))
    assert main(["check", str(fresh)]) == 2
    text, _ = page_of(fresh)
    assert "Not every certificate was accepted" in text
    assert "1 malformed" in text
    rows = rows_of(text)
    assert rows[0]["verdict"] in ("open", "attackable")
    assert rows[0]["certified radius"] == ""
    assert json.loads((fresh / "summary.json").read_text())["certified"] == 100.0 * (COUNT - 1) / COUNT


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


def test_what_a_folder_says_is_text_and_no_code(fresh: Path):
    hostile = "</script><script>alert(1)</script><!--"
    found = read(fresh, None, 0)
    header = {**found.header, "settings": {**found.header["settings"], "standard": hostile, "command": [hostile]}}
    inputs = (dataclasses.replace(found.inputs[0], why=hostile), *found.inputs[1:])
    formula = (dataclasses.replace(found.inputs[0], why='=HYPERLINK("http://x")'),)
    whole = page.write(dataclasses.replace(found, header=header, inputs=inputs)).read_text(encoding="utf-8")
    assert whole.count("<script") == whole.count("</script>") == 2  # the data and the page's own
    assert "<!--" not in whole
    assert rows_of(whole)[0]["why"] == hostile
    assert next(csv.DictReader(io.StringIO(page.as_csv(formula))))["why"].startswith("'=")


def report_summary(folder: Path) -> dict:
    assert main(["report", str(folder)]) == 0
    return json.loads((folder / "summary.json").read_bytes())


NOISE = {"noise_std": 0.25, "base": "soft", "failure_probability": 0.001, "grid": 255, "networks": "robust"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "L2"}, "ℓ2 distance"),
        ({"domain": None}, "at most the radius shown, the mix"),
        ({"semantics": "float32"}, "IEEE float32"),
        ({"standard": None}, "g may be any network"),
        ({"smoothing": NOISE}, "fails with probability at most 0.001"),
        ({"smoothing": {**NOISE, "networks": "both"}}, "softmax(g) and softmax(T·h) are smoothed"),
    ],
)
def test_the_claim_says_what_the_certificates_say(run: Path, change: dict, words: str):
    said = read(run, None, 0).said
    assert words not in " ".join(claims.claim(said))
    text = " ".join(claims.claim({**said, **change}))
    assert words in text
    assert ("lie in [0, 1]" in text) == ("domain" not in change)


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
            ("(1 − a(x))·softmax(g) + a(x)·softmax(T·h)", "a(x): any function, between 0.75 and 1."),
        ),
        (
            {"alpha": {"network": "ab" * 32, "low": 0.6, "high": 0.9}, "transform": None},
            ("a(x): given by the network abababababab…, between 0.6 and 0.9.",),
        ),
        (
            {"alpha": None, "transform": {"shift": 0.5, "power": 2.0, "clamp": True}},
            ("(1 − α)·softmax(g) + α·softmax(T·M(h))", "M(z) = max(z + 0.5, 0)^2"),
        ),
    ],
)
def test_the_claim_of_an_adaptive_mix_names_its_weight_and_transform(run: Path, adaptive: dict, words: tuple[str, ...]):
    said = {**read(run, None, 0).said, "adaptive": adaptive}
    if adaptive["alpha"]:
        del said["alpha"]
    assert all(part in " ".join(claims.claim(said)) for part in words)
    settings = {"radius": None, "method": "margin"}
    assert ("α = " in claims.title(COUNT, settings, said)) == (adaptive["alpha"] is None)


def test_no_page_speaks_of_several_claims_in_one_sentence(run: Path):
    inputs = read(run, None, 0).inputs
    header = json.loads((run / "run.json").read_bytes())
    transform = {"alpha": None, "transform": {"shift": 0.5, "power": 2.0, "clamp": True}}
    for name, other in (("adaptive", transform), ("alpha", 0.6), ("domain", None), ("norm", "L2")):
        line = inputs[-1].certificate
        assert line is not None
        forged = dataclasses.replace(inputs[-1], certificate={**line, name: other})
        with pytest.raises(UsageError, match=f"several claims \\({name} is"):
            claims.said(header["settings"], header, [*inputs[:-1], forged])
    assert claims.said(header["settings"], header, [])["alpha"] == 0.75


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
