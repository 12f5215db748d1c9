"""A sceptic brings their own files: what a forger can reseal is visible beside them, or refused without them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from refusals import refusal

from certmix.__main__ import main
from certmix.data.dataset import load_data
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.models.model import from_module, load_model
from certmix.runs.adaptive import audit_adaptive
from certmix.runs.store import dataset_sha256
from certmix.settings import Settings
from proofs_check.reading import parse

COUNT, WHOLE = 5, 7  # audited; in the file


@dataclass(frozen=True)
class Files:
    """A run, and the files that it was made of."""

    run: Path
    standard: Path
    robust: Path
    data: Path

    def check(self, *more: str, **other: Path) -> int:
        """The exit code of the sceptic's command, with other files where they are named."""
        given = {"standard": self.standard, "robust": self.robust, "data": self.data, **other}
        options = [text for name, path in given.items() for text in (f"--{name}", str(path))]
        return main(["check", str(self.run), *options, *more])


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An audit of the first inputs of a file; the last one's label is not the class that is certified."""
    folder = tmp_path_factory.mktemp("check")
    whole = np.load(digits / "audit.npz")
    labels = whole["labels"][:WHOLE].copy()
    labels[COUNT - 1] = (labels[COUNT - 1] + 1) % 10
    np.savez(folder / "data.npz", images=whole["images"][:WHOLE], labels=labels)
    files = Files(folder / "run", digits / "standard.onnx", digits / "robust.onnx", folder / "data.npz")
    given = ["--standard", str(files.standard), "--robust", str(files.robust), "--data", str(files.data)]
    more = ["--limit", str(COUNT), "--alpha", "0.75", "--radius", "0.002", "--out", str(files.run)]
    assert main(["audit", *given, *more]) == 0
    return files


@pytest.fixture
def files(made: Files, tmp_path: Path) -> Files:
    return Files(shutil.copytree(made.run, tmp_path / "run"), made.standard, made.robust, made.data)


def seal(value: dict[str, Any]) -> bytes:
    body = {name: entry for name, entry in value.items() if name != "sha256"}
    return parse.seal(json.dumps(body, separators=(",", ":")).encode()[:-1])


def forge(run: Path, change: Callable[[list[dict], np.ndarray, np.ndarray], tuple[list[dict], Any, Any]]) -> None:
    """The run of other lines, inputs and labels, its header recounted and everything sealed anew."""
    lines = [json.loads(line) for line in (run / "certificates.jsonl").read_bytes().splitlines()]
    with np.load(run / "inputs.npz") as stored:
        lines, inputs, labels = change(lines, stored["inputs"], stored["labels"])
    lines = [{**line, "index": k, "label": int(labels[k])} for k, line in enumerate(lines)]
    header = json.loads((run / "run.json").read_bytes())
    header["count"], header["dataset"] = len(lines), dataset_sha256(inputs, labels)
    np.savez(run / "inputs.npz", inputs=inputs, labels=labels)
    (run / "run.json").write_bytes(seal(header))
    (run / "certificates.jsonl").write_bytes(b"".join(seal(line) + b"\n" for line in lines))


def test_the_files_of_the_run_are_recognised(made: Files, capfd: pytest.CaptureFixture[str]):
    assert made.check("--limit", str(COUNT)) == 0
    text = capfd.readouterr().out
    assert text.splitlines()[-1] == "These are your models and your data."
    assert f"{COUNT} of {COUNT} inputs, {COUNT - 1} of them as the label's class" in text
    assert "DIFFERS" not in text


def test_a_program_learns_the_same(made: Files, capfd: pytest.CaptureFixture[str]):
    assert made.check("--limit", str(COUNT), "--json") == 0
    *_, run, yours = map(json.loads, capfd.readouterr().out.splitlines())
    assert run["summary"]["accepted"] == COUNT
    assert yours["yours"] is True
    assert [(f["what"], f["same"]) for f in yours["files"]] == [("standard", True), ("robust", True), ("data", True)]
    for found, path in zip(yours["files"], (made.standard, made.robust, made.data), strict=True):
        assert (found["file"], found["bytes"]) == (str(path), path.stat().st_size)
        assert found["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_what_was_not_brought_is_said_not_to_be_compared(made: Files, capfd: pytest.CaptureFixture[str]):
    assert main(["check", str(made.run), "--robust", str(made.robust)]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "The same as yours: robust; not compared: standard, data."


def test_inputs_that_were_left_out_at_the_end_are_visible(made: Files, capfd: pytest.CaptureFixture[str]):
    assert made.check() == 4
    text = capfd.readouterr().out
    assert f"DIFFERS: {made.data}: {WHOLE} inputs, in the run {COUNT}, its first: say --limit {COUNT}" in text
    assert text.splitlines()[-1] == "The run is not about these files."


def test_a_hard_input_left_out_with_the_header_recounted_is_visible(files: Files, capfd: pytest.CaptureFixture[str]):
    forge(files.run, lambda lines, x, y: (lines[:2] + lines[3:], np.delete(x, 2, 0), np.delete(y, 2)))
    assert main(["check", str(files.run)]) == 0, "every certificate that is there is true"
    assert files.check("--limit", str(COUNT)) == 4
    text = capfd.readouterr().out
    assert f"DIFFERS: {files.data}: {COUNT} inputs, in the run {COUNT - 1}\n" in text
    assert f"DIFFERS: {files.data}: input 2 is not in the run\n" in text
    assert f"DIFFERS: input 2 of the run is input 3 of {files.data}\n" in text
    assert "label of input" not in text


def test_labels_set_to_the_predictions_are_visible(files: Files, capfd: pytest.CaptureFixture[str]):
    forge(files.run, lambda lines, x, y: (lines, x, np.array([line["predicted"] for line in lines])))
    assert main(["check", str(files.run)]) == 0
    assert f"{COUNT} of {COUNT} inputs, {COUNT} of them as the label's class" in capfd.readouterr().out
    assert files.check("--limit", str(COUNT)) == 4
    differs = [line for line in capfd.readouterr().out.splitlines() if line.startswith("DIFFERS")]
    assert len(differs) == 1
    assert f"{files.data}: the label of input {COUNT - 1} is " in differs[0]


def test_two_runs_spliced_are_refused_or_visible(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Lines of another alpha are refused; another run's inputs in place of the hard ones are not in the file."""
    other = tmp_path / "other"
    given = ["--standard", str(files.standard), "--robust", str(files.robust), "--data", str(files.data)]
    assert main(["audit", *given, "--alpha", "0.9", "--radius", "0.002", "--out", str(other)]) == 0
    lines = (other / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    own = (files.run / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (files.run / "certificates.jsonl").write_bytes(b"".join([*own[:3], *lines[3:COUNT]]))
    capfd.readouterr()
    assert files.check("--limit", str(COUNT)) == 2
    text = capfd.readouterr().out
    assert "malformed input 3: speaks of alpha = 0.9, the run of 0.75" in text
    assert "DIFFERS" not in text, "the models and the data are theirs, and still nothing is accepted"


def test_the_inputs_of_a_run_of_other_data_are_visible(files: Files, capfd: pytest.CaptureFixture[str]):
    forge(files.run, lambda lines, x, y: ([*lines[:3], lines[0], lines[4]], x[[0, 1, 2, 0, 4]], y[[0, 1, 2, 0, 4]]))
    assert main(["check", str(files.run)]) == 0, "an easy input may be counted twice"
    assert files.check("--limit", str(COUNT)) == 4
    text = capfd.readouterr().out
    assert f"{files.data}: input 3 is not in the run" in text
    assert f"input 3 of the run is input 0 of {files.data}" in text


def altered(path: Path, folder: Path) -> Path:
    """The model with one weight moved by its last bit."""
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda t: numpy_helper.to_array(t).size)
    value = numpy_helper.to_array(tensor).copy()
    value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, folder / "altered.onnx")
    return folder / "altered.onnx"


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_another_model_is_named_with_what_differs(made: Files, tmp_path: Path, which: str, capfd):
    path = altered(getattr(made, which), tmp_path)
    assert made.check("--limit", str(COUNT), **{which: path}) == 4
    differs = [line for line in capfd.readouterr().out.splitlines() if line.startswith("DIFFERS")]
    assert len(differs) == 1
    assert f"{path} is not the network of the run: weight of node " in differs[0]
    assert made.check("--limit", str(COUNT), standard=made.robust, robust=made.standard) == 4
    text = capfd.readouterr().out
    assert f"{made.robust} is not the network of the run: the run's has 9 nodes, yours 7" in text
    assert f"{made.standard} is not the network of the run: the run's has 7 nodes, yours 9" in text


def test_a_refused_certificate_outweighs_files_that_differ(files: Files, capfd: pytest.CaptureFixture[str]):
    def larger(lines: list[dict], x: np.ndarray, y: np.ndarray) -> tuple[list[dict], np.ndarray, np.ndarray]:
        return [{**line, "radius": 3.0} for line in lines], x, y

    forge(files.run, larger)
    header = json.loads((files.run / "run.json").read_bytes())
    header["settings"]["radius"] = 3.0
    (files.run / "run.json").write_bytes(seal(header))
    assert files.check() == 1
    assert "0 accepted, 5 rejected" in capfd.readouterr().out


def test_misuse_is_refused_before_anything_is_judged(made: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    check = ["check", str(made.run)]
    assert "--limit is about --data" in refusal(capsys, [*check, "--limit", "3"])
    assert "no such file" in refusal(capsys, [*check, "--robust", str(tmp_path / "h.onnx")])
    assert "no such file" in refusal(capsys, [*check, "--data", str(tmp_path / "d.npz")])
    assert "run.json" in refusal(capsys, ["check", str(tmp_path), "--data", str(made.data)])


def test_a_run_that_holds_for_any_standard_model_is_compared_with_none(files: Files, capfd):
    header = json.loads((files.run / "run.json").read_bytes())
    lines = [json.loads(line) for line in (files.run / "certificates.jsonl").read_bytes().splitlines()]
    (files.run / "run.json").write_bytes(seal({**header, "standard": None}))
    sealed = [seal({**line, "standard": None}) + b"\n" for line in lines]
    (files.run / "certificates.jsonl").write_bytes(b"".join(sealed))
    assert files.check("--limit", str(COUNT)) == 0
    text = capfd.readouterr().out
    assert f"{files.standard} is not compared: the run names no standard network" in text
    assert "g is any network with as many classes." in text
    assert text.splitlines()[-1] == "The same as yours: robust, data; not compared: standard."


def test_a_network_of_alpha_is_said_not_to_be_compared(digits: Path, files: Files, tmp_path: Path, capfd):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    weight = SigmoidAlpha(from_module(module, (1, 8, 8)).require_network(), 0.75, 0.95)
    pair = [load_model(digits / f"{name}.onnx") for name in ("standard", "robust")]
    data, out = load_data(files.data, COUNT), tmp_path / "adaptive"
    mix = AdaptiveMix(weight)
    assert audit_adaptive(pair[0], pair[1], data, mix, Settings(0.75, radius=0.001, attack_steps=0), out) == 0
    adaptive = dataclasses.replace(files, run=out)
    assert adaptive.check("--limit", str(COUNT)) == 0
    text = capfd.readouterr().out
    assert "a(x) is given by the network " in text
    assert f"the network of a(x), {out}/networks/" in text
    assert text.splitlines()[-1] == "The same as yours: standard, robust, data; not compared: alpha."
