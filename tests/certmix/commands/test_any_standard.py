"""The standard model may be any ONNX file: a small vision transformer goes through all that wants its values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from refusals import refusal
from torch import Tensor, nn

import certmix
from certmix.__main__ import main
from certmix.runs.finished import open_run
from proofs_check.certificate import Accepted

COUNT = 4


class Block(nn.Module):
    """Attention with two heads, then a perceptron with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        heads = self.mix(self.before(x)).reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        x = x + self.out(attended.transpose(1, 2).reshape(n, tokens, width))
        return x + self.perceptron(self.between(x))


class VisionTransformer(nn.Module):
    """Of 8 x 8 grey images, in patches of 4 x 4. waves: with a sine, of which there is no plain network."""

    def __init__(self, width: int = 12, waves: bool = True) -> None:
        super().__init__()
        self.waves = waves
        self.patches, self.blocks = nn.Conv2d(1, width, 4, 4), nn.Sequential(Block(width), Block(width))
        self.position = nn.Parameter(0.1 * torch.randn(1, 4, width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        tokens = tokens + torch.sin(tokens) if self.waves else tokens
        return self.head(self.blocks(tokens).mean(1)) * 5


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported as torch exports by default; its weights lie in a second file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("g") / "vit.onnx"
    torch.onnx.export(
        VisionTransformer().eval(), (torch.zeros(2, 1, 8, 8),), str(path), dynamic_shapes=({0: "n"},), verbose=False
    )
    return path


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "d.npz"
    whole = np.load(digits / "audit.npz")
    np.savez(path, images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    return path


def given(standard: Path, digits: Path, data: Path) -> list[str]:
    return ["--standard", str(standard), "--robust", str(digits / "robust.onnx"), "--data", str(data)]


@pytest.fixture(scope="module")
def run(transformer: Path, digits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    words = [*given(transformer, digits, data), "--alpha", "0.8", "--attack-steps", "3", "--out", str(out)]
    assert main(["audit", *words]) == 0
    return out


def test_the_run_speaks_of_any_standard_model_and_is_accepted(run: Path, transformer: Path) -> None:
    header = json.loads((run / "run.json").read_bytes())
    assert header["standard"] is None
    assert (run / "models" / f"{header['settings']['standard_model']}.onnx").is_file()
    assert main(["check", str(run)]) == 0
    lines = [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]
    assert any(line["outcome"] == "certified" for line in lines)
    assert all(line["standard"] is None for line in lines if line["outcome"] == "certified")


def test_without_waves_it_is_a_plain_network_as_g_of_an_audit(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attention, layer norm and GELU: the run names its digest, attacks have its gradients, and the judge agrees."""
    torch.manual_seed(0)
    torch.onnx.export(
        VisionTransformer(4, waves=False).eval(), (torch.zeros(2, 1, 8, 8),), str(tmp_path / "vit.onnx"),
        dynamic_shapes=({0: "n"},), verbose=False,
    )  # fmt: skip
    whole, data, out = np.load(digits / "audit.npz"), tmp_path / "d.npz", tmp_path / "run"
    np.savez(data, images=whole["images"][:1], labels=whole["labels"][:1])
    words = [*given(tmp_path / "vit.onnx", digits, data), "--alpha", "0.8", "--attack-steps", "3", "--out", str(out)]
    assert main(["audit", *words]) == 0
    network = certmix.load_model(tmp_path / "vit.onnx").require_network()
    assert json.loads((out / "run.json").read_bytes())["standard"] == network.sha256
    capsys.readouterr()
    assert main(["check", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert any(line["outcome"] == "certified" for line in lines)


def test_its_values_come_from_the_folder_alone(run: Path, transformer: Path, tmp_path: Path) -> None:
    """What a later command works out is what the module gives."""
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    opened = open_run(moved)
    torch.manual_seed(0)
    module = VisionTransformer().eval()
    x = torch.from_numpy(opened.data.inputs)
    with torch.no_grad():
        torch.testing.assert_close(opened.standard.module(x), module(x), rtol=1e-4, atol=1e-4)
    assert main(["sweep", str(moved), "--alpha", "0.7,0.8", "--temperature", "1", "--attack-steps", "2"]) == 0
    point = json.loads((moved / "sweep.json").read_bytes())["points"][0]
    mix = certmix.MixedClassifier(module, opened.robust.module, point["alpha"], 1.0)
    right = (mix(x).argmax(1).numpy() == opened.data.labels).mean()
    assert point["clean"] == pytest.approx(100 * right)


def test_audit_and_report_say_that_attacks_have_no_gradient_of_it(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["report", str(run), "--attack-steps", "2"]) == 0
    words = "runs in onnxruntime, without gradients: attacks follow h's gradients and search at random"
    assert words in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert words.replace("'", "&#39;") in page
    assert "g: it has no plain network, and was run as given" in page
    summary = json.loads((run / "summary.json").read_bytes())
    assert summary["standard_without_gradients"] is True
    assert set(summary["clean_accuracy"]) == {"standard", "robust", "mix"}


def test_the_header_says_why_it_has_no_plain_network(transformer, digits, data, tmp_path, capsys) -> None:
    words = [*given(transformer, digits, data), "--limit", "1", "--radius", "0", "--alpha", "0.8"]
    assert main(["audit", *words, "--attack-steps", "0", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "vit.onnx) runs in onnxruntime, without gradients" in said
    assert "(operator" in said


def test_a_certificate_for_any_standard_model_holds_in_python_too(transformer: Path, digits: Path) -> None:
    g, h = certmix.load_model(transformer), certmix.load_model(digits / "robust.onnx")
    x = certmix.load_data(digits / "audit.npz", 2).inputs
    outcomes = certmix.certify(g, h, x, alpha=0.8, radius=0.01)
    certified = [o for o in outcomes if isinstance(o, certmix.Certified)]
    assert certified
    assert all(o.standard is None and isinstance(certmix.check(o), Accepted) for o in certified)


def test_bounding_it_is_refused_with_the_node_that_stands_in_the_way(transformer, digits, data, tmp_path, capsys):
    words = [
        "audit",
        *given(transformer, digits, data),
        "--use-standard",
        "--alpha",
        "0.4",
        "--out",
        str(tmp_path / "r"),
    ]
    text = refusal(capsys, words)
    assert "use_standard bounds g" in text
    assert "(operator" in text
    assert not (tmp_path / "r" / "run.json").exists()


def test_as_robust_model_it_is_refused(transformer, digits, data, tmp_path, capsys) -> None:
    words = ["--standard", str(digits / "standard.onnx"), "--robust", str(transformer), "--data", str(data)]
    text = refusal(capsys, ["audit", *words, "--alpha", "0.8", "--out", str(tmp_path / "r")])
    assert "vit.onnx has no plain network (operator" in text
    assert "can still be g, the standard one" in text
    text = refusal(capsys, ["experiment", "confidence", *words, "--radius", "0.01", "--out", str(tmp_path / "r")])
    assert "vit.onnx has no plain network" in text


def test_experiments_take_it_but_for_the_one_that_needs_its_gradients(transformer, digits, data, tmp_path, capsys):
    words = [*given(transformer, digits, data), "--radius", "0.05", "--steps", "2", "--out", str(tmp_path)]
    assert main(["experiment", "confidence", *words]) == 0
    assert main(["experiment", "accuracy-vs-alpha", *words, "--alphas", "0.5", "0.8"]) == 0
    assert "norms of g's gradients" in refusal(capsys, ["experiment", "tradeoff", *words])


def other(transformer: Path, folder: Path) -> Path:
    """The transformer with its logits negated."""
    model = onnx.load(transformer)
    (name,) = (v.name for v in model.graph.output)
    for node in model.graph.node:
        node.output[:] = ["positive" if o == name else o for o in node.output]
    model.graph.node.append(helper.make_node("Neg", ["positive"], [name]))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def test_check_compares_it_and_a_run_goes_on_with_no_other(run, transformer, digits, data, tmp_path, capsys) -> None:
    another = other(transformer, tmp_path)
    files = ["check", str(run), "--robust", str(digits / "robust.onnx"), "--data", str(data), "--standard"]
    assert main([*files, str(transformer)]) == 0
    assert "These are your models and your data." in capsys.readouterr().out
    assert main([*files, str(another)]) == 4
    assert "other.onnx is not the standard model of the run" in capsys.readouterr().out
    assert main([*files, str(digits / "standard.onnx")]) == 4
    words = [*given(another, digits, data), "--alpha", "0.8", "--attack-steps", "3", "--out", str(run)]
    assert "standard_model is" in refusal(capsys, ["audit", *words])


def test_a_model_changed_in_the_folder_is_not_run(run: Path, tmp_path: Path, capsys) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (file,) = (moved / "models").iterdir()
    file.write_bytes(file.read_bytes() + b"\0")
    assert "its digest differs" in refusal(capsys, ["sweep", str(moved)])
    file.unlink()
    assert "cannot be read" in refusal(capsys, ["sweep", str(moved)])
