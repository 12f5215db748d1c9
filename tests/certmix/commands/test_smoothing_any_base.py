"""The base of smoothing may be any ONNX file: claims then speak of the file, and the judge reads its digest alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from refusals import refusal
from torch import Tensor, nn

import certmix
from certmix.__main__ import main
from certmix.models.runtime import Runtime
from certmix.settings import Settings, SmoothingSettings
from proofs_check.__main__ import main as judge
from proofs_check.certificate import Accepted, Assumption, ModelFile
from proofs_check.reading import parse

COUNT = 3
DRAWS = SmoothingSettings(0.25, samples=600, selection_samples=100, failure_probability=0.01)
WORDS = ["--alpha=0.8", "--norm=L2", "--method", "smoothing", "--noise-std=0.25"]
WORDS += ["--samples=600", "--selection-samples=100", "--failure-probability=0.01"]


def without_network(source: Path, path: Path) -> Path:
    """The model with its logits times cos(0), which no plain network has a node for: the same function."""
    model = onnx.load(source)
    (name,) = (v.name for v in model.graph.output)
    for node in model.graph.node:
        node.output[:] = ["inner" if o == name else o for o in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nought"))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["inner", "nought"], ["zeros"]),
            helper.make_node("Cos", ["zeros"], ["ones"]),
            helper.make_node("Mul", ["inner", "ones"], [name]),
        ]
    )
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("standard", "robust"):
        without_network(digits / f"{name}.onnx", folder / f"{name}.onnx")
    whole = np.load(digits / "audit.npz")
    np.savez(folder / "d.npz", images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    return folder


def audit(folder: Path, out: Path, *more: str) -> list[str]:
    given = [f"--{name}={folder / name}.onnx" for name in ("standard", "robust")]
    return ["audit", *given, f"--data={folder / 'd.npz'}", *WORDS, f"--out={out}", *more]


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(audit(files, out)) == 0
    return out


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]


def test_the_claim_names_the_file_and_the_judge_accepts_it(run: Path, files: Path, capsys) -> None:
    digest = hashlib.sha256((files / "robust.onnx").read_bytes()).hexdigest()
    named = {"sha256": digest, "input_shape": [1, 8, 8], "classes": 10}
    certified = [line for line in lines(run) if line["outcome"] == "certified"]
    assert certified
    assert all((line["robust"], line["standard"]) == (named, None) for line in certified)
    assert json.loads((run / "run.json").read_bytes())["robust"] == named
    assert (run / "models" / f"{digest}.onnx").read_bytes() == (files / "robust.onnx").read_bytes()
    capsys.readouterr()
    assert judge([str(run), "--json"]) == 0
    (*_, of_run) = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert set(of_run["assumptions"]) == {"COUNTS_TRUSTED", "MODEL_FILE", "REAL_ARITHMETIC_BASE", "SAMPLES_IID"}
    assert of_run["digests"]["robust"] == named
    assert f"h is the model in the ONNX file {digest}, of 10 classes and inputs (1, 8, 8)." in of_run["words"]


def test_it_counts_what_the_plain_network_does(run: Path, digits: Path, files: Path) -> None:
    g, h = (certmix.load_model(digits / f"{name}.onnx") for name in ("standard", "robust"))
    x = certmix.load_data(files / "d.npz").inputs
    expected = certmix.certify(g, h, x, settings=Settings(0.8, "L2", method="smoothing", smoothing=DRAWS))
    for line, outcome in zip(lines(run), expected, strict=True):
        assert line["outcome"] == ("certified" if isinstance(outcome, certmix.Certified) else "abstained")
        assert line["predicted"] == outcome.predicted
        if isinstance(outcome, certmix.Certified):
            assert line["radius"] == pytest.approx(outcome.radius, rel=0.01)


def test_it_holds_in_python_and_is_replayed_shown_reported_and_compared(run: Path, files: Path, capsys) -> None:
    g, h = (certmix.load_model(files / f"{name}.onnx") for name in ("standard", "robust"))
    x = certmix.load_data(files / "d.npz").inputs
    s = Settings(0.4, "L2", method="smoothing", smoothing=DRAWS, use_standard=True)
    certified = [o for o in certmix.certify(g, h, x, settings=s) if isinstance(o, certmix.Certified)]
    assert certified
    for outcome in certified:
        assert (outcome.robust, outcome.standard) == (h.file, g.file)
        verdict = certmix.check(outcome)
        assert isinstance(verdict, Accepted)
        assert Assumption.MODEL_FILE in verdict.assumptions
    assert main(["replay", str(run), "--seed", "0"]) == 0
    assert "at least 0 differ" in capsys.readouterr().out
    assert main(["show", str(run), "0"]) == 0
    assert main(["report", str(run)]) == 0
    digest = h.file.sha256 if h.file else ""
    assert f"none, but the ONNX file {digest}" in (run / "report.html").read_text()
    check = ["check", str(run), "--data", str(files / "d.npz"), "--robust"]
    assert main([*check, str(files / "robust.onnx")]) == 0
    assert f"robust.onnx is the robust model {digest} that the run's certificates speak of" in capsys.readouterr().out
    assert main([*check, str(files / "standard.onnx")]) == 4
    assert main(["smoothing-bounds", *audit(files, run)[1:-1], "--prediction-samples", "10"]) == 0


def test_with_both_models_smoothed_it_names_both_files(files: Path, tmp_path: Path) -> None:
    assert main([*audit(files, tmp_path / "run", "--use-standard", "--limit", "1")]) == 0
    header = json.loads((tmp_path / "run" / "run.json").read_bytes())
    for name in ("standard", "robust"):
        assert header[name]["sha256"] == hashlib.sha256((files / f"{name}.onnx").read_bytes()).hexdigest()
    assert judge([str(tmp_path / "run")]) == 0
    assert main(["replay", str(tmp_path / "run")]) == 0


def resealed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    members = json.loads(data)
    members.pop("sha256")
    change(members)
    return parse.seal(json.dumps(members, separators=(",", ":")).encode()[:-1])


def forged(run: Path, out: Path, change: Callable[[dict[str, Any]], None], everywhere: bool) -> list[str]:
    """The run with what it says of h changed in its lines, and also in its header."""
    shutil.copytree(run, out)
    path = out / "certificates.jsonl"
    claims = [resealed(line, change) if b'"certified"' in line else line for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(line + b"\n" for line in claims))
    if everywhere:
        (out / "run.json").write_bytes(resealed((out / "run.json").read_bytes(), change))
    return [str(out)]


def test_a_claim_on_another_file_or_another_signature_is_rejected(run: Path, files: Path, tmp_path: Path) -> None:
    other = (files / "standard.onnx").read_bytes()
    digest = hashlib.sha256(other).hexdigest()
    check = forged(run, tmp_path / "a", lambda m: m["robust"].update(sha256=digest), False)
    (tmp_path / "a" / "models" / f"{digest}.onnx").write_bytes(other)
    assert judge(check) == 1
    assert judge(forged(run, tmp_path / "b", lambda m: m["robust"].update(classes=9), False)) == 1
    assert judge(forged(run, tmp_path / "c", lambda m: m["robust"].update(classes=11), True)) == 1, "names no rival 10"
    assert judge(forged(run, tmp_path / "d", lambda m: m["robust"].update(input_shape=[64]), True)) == 1
    assert judge(forged(run, tmp_path / "e", lambda m: m["robust"].update(classes=1), True)) == 2
    assert judge(forged(run, tmp_path / "f", lambda m: m.update(robust=m["robust"]["sha256"]), True)) == 2, "no network"


def test_a_file_with_another_name_or_none_is_malformed(run: Path, files: Path, tmp_path: Path) -> None:
    for name, content in (("swapped", (files / "standard.onnx").read_bytes()), ("gone", None)):
        moved = tmp_path / name
        shutil.copytree(run, moved)
        robust = json.loads((run / "run.json").read_bytes())["robust"]["sha256"]
        file = moved / "models" / f"{robust}.onnx"
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        assert judge([str(moved)]) == 2
        assert main(["replay", str(moved)]) == 2


def test_nothing_but_counting_certifies_a_model_of_which_only_the_file_is_known(files: Path, tmp_path, capsys) -> None:
    words = audit(files, tmp_path / "run")
    words[words.index("smoothing")] = "margin"
    assert "robust.onnx has no plain network" in refusal(capsys, words)
    h = certmix.load_model(files / "robust.onnx")
    x = certmix.load_data(files / "d.npz").inputs
    with pytest.raises(certmix.UsageError, match="no plain network"):
        certmix.certify(h, h, x, alpha=0.8)
    rough = dataclasses.replace(DRAWS, precision="bfloat16")
    with pytest.raises(certmix.UsageError, match="runs in onnxruntime, as it is"):
        certmix.certify(h, h, x, settings=Settings(0.8, "L2", method="smoothing", smoothing=rough))
    assert h.file == ModelFile(h.file.sha256 if h.file else "", (1, 8, 8), 10)


class Wave(nn.Module):
    """Cosines, which no plain network has a node for, then a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cos(x.flatten(1))) * 20


class Steered(Wave):
    """Its path depends on values: torch exports no such module."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > -1 else x.flatten(1)[:, :10]


def test_a_torch_module_without_plain_network_is_named_by_the_file_that_torch_writes(files: Path) -> None:
    torch.manual_seed(0)
    module, x = Wave().eval(), certmix.load_data(files / "d.npz").inputs
    settings = Settings(0.8, "L2", method="smoothing", smoothing=dataclasses.replace(DRAWS, base="hard"))
    outcomes = certmix.certify(module, module, x, settings=settings)
    certified = [o for o in outcomes if isinstance(o, certmix.Certified)]
    assert certified
    named = certmix.from_module(module, (1, 8, 8), name_it=True)
    assert all(o.robust == named.file and isinstance(certmix.check(o), Accepted) for o in certified)
    assert named.onnx is not None
    found = Runtime(named.onnx).logits(x)
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(certmix.UsageError, match=r"no claim can name the torch module Steered: .* export it yourself"):
        certmix.certify(module, Steered().eval(), x, settings=settings)
    assert certmix.from_module(module, (1, 8, 8)).file is None, "exported where it is needed only"
