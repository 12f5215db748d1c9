"""Attacks that a folder holds are looked at again, and the page's card shows what a run recorded of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from certmix.__main__ import main
from certmix.records import attack_archive
from certmix.records.outcomes import Attack
from certmix.reports import page, provenance
from certmix.reports.reading import MIX, G, H, read

COUNT, RADIUS = 12, 0.15


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attacked") / "run"
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    given = ["audit", *models, "--data", str(digits / "audit.npz"), "--alpha", "0.75", "--limit", str(COUNT)]
    assert main([*given, "--radius", str(RADIUS), "--out", str(out)]) == 0
    return out


@pytest.fixture
def fresh(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_attackable_inputs_are_those_whose_recorded_attack_stands(run: Path):
    attacks, found = attack_archive.read(run), read(run, None, 0)
    assert attacks
    assert {i.index for i in found.inputs if i.verdict == "attackable"} == set(attacks)
    assert {i.verdict for i in found.inputs} >= {"certified", "attackable"}
    most = found.attacked_share(MIX)
    assert most is not None
    lost = sum(not ok or i.attack is not None for ok, i in zip(found.right(MIX), found.inputs, strict=True))
    assert most.hits == COUNT - lost
    least = found.certified_share(MIX)
    assert least is not None
    assert least.hits <= most.hits
    assert not found.refuted


@pytest.mark.parametrize("forged", ["outside", "harmless", "of another class"])
def test_a_forged_attack_makes_no_input_attackable(fresh: Path, forged: str):
    attacks = attack_archive.read(fresh)
    k, honest = next(iter(attacks.items()))
    x = read(fresh, None, 0).values
    assert x is not None
    change = {
        "outside": Attack(honest.radius / 2, honest.predicted, honest.rival, honest.point),
        "harmless": Attack(honest.radius, honest.predicted, honest.rival, x[k]),
        "of another class": Attack(honest.radius, honest.rival, honest.predicted, honest.point),
    }
    shutil.rmtree(fresh / attack_archive.FOLDER)
    attack_archive.write(fresh, 0, {**attacks, k: change[forged], COUNT + 7: honest})
    found = read(fresh, None, 0)
    assert found.inputs[k].verdict == "open"
    assert {i.index for i in found.inputs if i.verdict == "attackable"} == set(attacks) - {k}


def test_an_attack_inside_a_certificate_is_shown_as_the_contradiction_that_it_is(fresh: Path):
    """The certificate is forged: the judge is not asked."""
    attacks = attack_archive.read(fresh)
    lines = (fresh / "certificates.jsonl").read_bytes().splitlines()
    certified = json.loads(next(line for line in lines if json.loads(line)["outcome"] == "certified"))
    k = next(iter(attacks))
    forged = {**certified, **{name: json.loads(lines[k])[name] for name in ("index", "label", "predicted")}}
    lines[k] = json.dumps(forged).encode()
    (fresh / "certificates.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    found = read(fresh, None, 0)
    assert found.refuted == (k,)
    assert "An attack contradicts 1 of the certificates" in page.write(found).read_text(encoding="utf-8")
    assert main(["report", str(fresh), "--no-check", "--attack-steps", "0"]) == 1
    assert main(["report", str(fresh), "--attack-steps", "0"]) == 0  # the judge did not accept it: it does not count


def test_g_and_h_alone_are_attacked_for_the_report(run: Path):
    found, without = read(run, None, 4), read(run, None, 0)
    for name in (G, H):
        share, clean = found.attacked_share(name), found.clean_share(name)
        assert share is not None
        assert clean is not None
        assert share.hits <= clean.hits
        assert without.attacked_share(name) is None
    fragile, robust = found.attacked_share(G), found.attacked_share(H)
    assert fragile is not None
    assert robust is not None
    assert fragile.hits < robust.hits
    assert found.certified_share(G) is None


def test_the_card_names_the_files_as_given(run: Path, digits: Path):
    found = read(run, None, 0)
    standard, robust, data = provenance.parts(found)
    for part, name in ((standard, "standard.onnx"), (robust, "robust.onnx"), (data, "audit.npz")):
        content = (digits / name).read_bytes()
        assert part.sha256 == hashlib.sha256(content).hexdigest()
        assert part.file.startswith(f"{name}, {len(content):,} bytes")
    assert data.file.endswith(f"the first {COUNT} of 400 inputs")
    assert robust.digest == found.header["robust"]
    rows = dict(provenance.circumstances(found))
    assert rows["command that repeats it"].startswith("certmix audit --standard ")
    assert "torch" in rows["versions"]
    text = page.write(found).read_text(encoding="utf-8")
    assert all(part.sha256 in text and part.digest in text for part in (standard, robust, data))


def test_a_reviewers_own_files_are_compared_and_the_page_says_how_that_ended(fresh: Path, digits: Path):
    own = ["--standard", str(digits / "standard.onnx"), "--data", str(digits / "audit.npz"), "--limit", str(COUNT)]
    quick = ["report", str(fresh), "--no-check", "--attack-steps", "0"]
    page_of = fresh / "report.html"
    assert main([*quick, *own, "--robust", str(digits / "robust.onnx")]) == 0
    assert "✓ These are your models and your data." in page_of.read_text(encoding="utf-8")
    assert main([*quick, *own, "--robust", str(digits / "smoothed.onnx")]) == 4
    text = page_of.read_text(encoding="utf-8")
    assert "✗ The run is not about these files." in text
    assert "DIFFERS" in text
    assert main(quick) == 0
    assert "about these files" not in page_of.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["[]", "[{}]", '[{"files": 3}]', "[7]"])
def test_what_is_not_recorded_is_said_not_to_be(fresh: Path, content: str):
    (fresh / "provenance.json").write_text(content)
    found = read(fresh, None, 0)
    assert {part.sha256 for part in provenance.parts(found)} == {provenance.NOT_RECORDED}
    assert {value for _, value in provenance.circumstances(found)} == {provenance.NOT_RECORDED}
    assert found.header["robust"] in page.write(found).read_text(encoding="utf-8")


def test_an_input_whose_class_differs_from_the_model_as_given_is_named(run: Path):
    found = read(run, None, 0)
    assert "no logit differs by more than" in page.faithfulness(found)[0]
    of = {"differences": [0.0, 0.25], "class_differs": [3, 7]}
    audit = {**found.audit, "faithfulness": {"standard": of}}
    shown = page.faithfulness(dataclasses.replace(found, audit=audit))
    assert "0.25" in shown[0]
    assert "other classes at inputs 3, 7" in shown[0]
    assert "not recorded" in shown[1]


def test_recomputed_classes_win_over_the_writers(fresh: Path):
    audit = json.loads((fresh / "audit.json").read_bytes())
    honest = {name: list(of.classes) for name, of in read(fresh, None, 0).clean.items()}
    audit["predictions"] = {name: [0] * COUNT for name in audit["predictions"]}
    (fresh / "audit.json").write_text(json.dumps(audit))
    assert {name: list(of.classes) for name, of in read(fresh, None, 0).clean.items()} == honest
    np.savez(fresh / "inputs.npz", inputs=np.zeros(3), labels=np.zeros(3))  # not the run's: nothing is worked out
    found = read(fresh, None, 0)
    assert found.trouble
    assert all(of.source == "as the writer says" for of in found.clean.values())
    assert "Not worked out again" in page.write(found).read_text(encoding="utf-8")
