"""The command line from audit to report, and its refusals, each one line and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import instead, refusal
from torch import nn

from certmix.__main__ import main
from certmix.runs import audit
from certmix.runs.batches import Task
from proofs_check.__main__ import main as judge
from verifiers.auto_lirpa import compat
from verifiers.engine import EngineError

COUNT = 6


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first few inputs of the digits audit split."""
    whole = np.load(digits / "audit.npz")
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    return path


@pytest.fixture(scope="module")
def finished(digits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of largest radii."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*arguments(digits, data), "--out", str(out)]) == 0
    return out


def arguments(digits: Path, data: Path) -> list[str]:
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    return ["audit", *models, "--data", str(data), "--alpha", "0.75", "--norm", "Linf"]


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]


def test_every_input_has_one_line_with_the_promised_fields(finished: Path):
    found = lines(finished)
    assert [line["index"] for line in found] == list(range(COUNT))
    promised = {"index", "label", "outcome", "radius", "predicted", "class_of", "method", "alpha", "norm"}
    assert all(promised <= set(line) for line in found)
    assert any(line["outcome"] == "certified" for line in found)


def test_the_judge_accepts_every_certificate_without_assumptions(finished: Path, capsys):
    assert judge([str(finished)]) == 0
    text = capsys.readouterr().out
    assert "0 rejected" in text
    assert "assumptions: none beyond exact export" in text


def test_two_processes_say_what_one_says(finished: Path, capsys):
    assert judge([str(finished)]) == 0
    alone = capsys.readouterr().out
    assert judge([str(finished), "--jobs", "2"]) == 0
    assert capsys.readouterr().out == alone


def test_certmix_check_gives_the_judges_exit_code(finished: Path, tmp_path: Path):
    assert main(["check", str(finished)]) == 0
    assert main(["check", str(tmp_path / "nothing")]) == 2


def test_the_report_counts_what_the_lines_say(finished: Path, capsys):
    assert main(["report", str(finished)]) == 0
    summary = json.loads((finished / "summary.json").read_text())
    found = lines(finished)
    certified = [line for line in found if line["outcome"] == "certified"]
    correct = [line for line in certified if line["predicted"] == line["label"]]
    assert summary["n"] == COUNT
    assert summary["certified"] == 100 * len(certified) / COUNT
    assert summary["certified_correct"] == 100 * len(correct) / COUNT
    assert summary["radii"]["1"] == max(line["radius"] for line in certified)
    assert "certified and correct" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_to_the_same_lines(finished: Path, digits: Path, data: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    whole = (out / "certificates.jsonl").read_bytes()
    kept = whole.splitlines(keepends=True)
    (out / "certificates.jsonl").unlink()
    (out / "certificates.partial.jsonl").write_bytes(b"".join(kept[:2]) + kept[2][:40])
    assert main(["check", str(out)]) == 2
    assert main(["report", str(out)]) == 2
    assert main([*arguments(digits, data), "--out", str(out)]) == 0
    assert (out / "certificates.jsonl").read_bytes() == whole


def test_a_full_disk_loses_nothing_that_was_finished(finished, digits, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    given = [*arguments(digits, data), "--batch-size", "2", "--out", str(out)]
    whole, calls = os.fsync, iter(range(100))

    def full(descriptor: int) -> None:
        if (out / "shards").exists() and next(calls) == 3:  # after the first batch is saved
            raise OSError(errno.ENOSPC, "No space left on device", str(out))
        whole(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in refusal(capsys, given)
    assert not (out / "certificates.jsonl").exists()
    assert [path.name for path in (out / "shards").glob("*.jsonl")] == ["00000000-00000002.jsonl"]
    assert main(given) == 0
    assert judge([str(out)]) == 0


def test_a_fixed_radius_is_decided(digits: Path, data: Path, tmp_path: Path):
    out = tmp_path / "run"
    assert main([*arguments(digits, data), "--radius", "1/255", "--out", str(out)]) == 0
    assert {line["radius"] for line in lines(out)} == {1 / 255}
    assert judge([str(out)]) == 0


def test_alpha_of_a_half_or_less_abstains_with_the_reason(digits: Path, data: Path, tmp_path: Path):
    out = tmp_path / "run"
    given = instead(arguments(digits, data), "--alpha", "0.4", "--out", str(out))
    assert main(given) == 0
    assert {line["reason"] for line in lines(out)} == {"NO_THEOREM"}


def test_engine_evidence_is_accepted_with_the_engine_trusted(digits: Path, data: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    given = [*arguments(digits, data), "--radius", "0.01", "--evidence", "engine", "--engine", "auto_lirpa"]
    assert main([*given, "--out", str(out)]) == 0
    capsys.readouterr()
    assert judge([str(out)]) == 0
    assert "ENGINE_TRUSTED" in capsys.readouterr().out


def test_a_configuration_file_gives_the_same_run(finished: Path, digits: Path, data: Path, tmp_path: Path):
    config = tmp_path / "audit.toml"
    config.write_text(
        f'standard = "{digits / "standard.onnx"}"\nrobust = "{digits / "robust.onnx"}"\n'
        f'data = "{data}"\nalpha = 0.75\nnorm = "Linf"\ndomain = [0, 1]\n'
    )
    out = tmp_path / "run"
    assert main(["audit", "--config", str(config), "--out", str(out)]) == 0
    assert (out / "certificates.jsonl").read_bytes() == (finished / "certificates.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--alpha", "1.2"], "alpha must be in [0, 1], got 1.2"),
        (["--alpha", "half"], "'half'"),
        (["--norm", "L3"], "'L3'"),
        (["--radius", "-1"], "radius must be >= 0"),
        (["--radius", "1/0"], "'1/0'"),
        (["--temperature", "0"], "temperature"),
        (["--domain", "1", "0"], "domain"),
        (["--domain", "0", "0.5"], "outside the domain"),
        (["--limit", "0"], "limit"),
        (["--radius", "0.5/0"], "'0.5/0'"),
        (["--radius", "1/2/3"], "'1/2/3'"),
        (["--fail-under", "101"], "--fail-under is a share in percent, in [0, 100], got 101"),
        (["--engine", "magic"], "magic"),
        (["--device", "warp"], "warp"),
        (["--standard", "nowhere.onnx"], "nowhere.onnx"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(digits, data, tmp_path, capsys, extra: list[str], words: str):
    out = tmp_path / "run"
    assert words in refusal(capsys, instead([*arguments(digits, data), "--out", str(out)], *extra))
    assert not out.exists()


def test_a_missing_argument_is_named(capsys):
    assert "--alpha" in refusal(capsys, ["audit"])


def test_an_unknown_command_is_named(capsys):
    assert "dance" in refusal(capsys, ["dance"])


def test_a_truncated_model_is_refused(digits: Path, data: Path, tmp_path: Path, capsys):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((digits / "robust.onnx").read_bytes()[:500])
    assert "broken.onnx" in refusal(capsys, instead(arguments(digits, data), "--robust", str(broken), "--out", "x"))


def test_an_unknown_key_in_a_configuration_is_named(tmp_path: Path, capsys):
    config = tmp_path / "audit.toml"
    config.write_text("alpa = 0.7\n")
    assert "alpa" in refusal(capsys, ["audit", "--config", str(config)])


def test_another_runs_folder_is_not_overwritten(finished: Path, digits: Path, data: Path, capsys):
    before = (finished / "certificates.jsonl").read_bytes()
    given = [*arguments(digits, data), "--out", str(finished)]
    assert "finished" in refusal(capsys, given)
    assert "another run" in refusal(capsys, instead(given, "--alpha", "0.8"))
    assert (finished / "certificates.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(digits: Path, data: Path, tmp_path: Path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    assert "not empty" in refusal(capsys, [*arguments(digits, data), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64), "at least one entry"),
        (np.full((1, 1, 8, 8), np.nan, np.float32), np.zeros(1, np.int64), "not finite"),
        (np.zeros((1, 1, 9, 9), np.float32), np.zeros(1, np.int64), "(1, 9, 9)"),
        (np.zeros((1, 1, 8, 8), np.float32), np.full(1, 10), "10"),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros(1, np.int64), "labels"),
        (np.full((1, 1, 8, 8), 2.0, np.float32), np.zeros(1, np.int64), "outside the domain"),
    ],
)
def test_bad_data_is_refused(digits, data, tmp_path, capsys, images, labels, words: str):
    path = tmp_path / "bad.npz"
    np.savez(path, images=images, labels=labels)
    given = instead(arguments(digits, data), "--data", str(path), "--out", str(tmp_path / "run"))
    assert words in refusal(capsys, given)


def test_data_without_labels_is_refused(digits: Path, data: Path, tmp_path: Path, capsys):
    path = tmp_path / "bad.npz"
    np.savez(path, images=np.zeros((1, 1, 8, 8), np.float32))
    assert "labels" in refusal(
        capsys, instead(arguments(digits, data), "--data", str(path), "--out", str(tmp_path / "run"))
    )


@pytest.mark.parametrize(
    "more", [["--norm", "L2"], ["--norm=L2"], ["--limit", "1", "--limit", "2"], ["--use-standard"] * 2]
)
def test_an_option_given_twice_is_refused(digits, data, tmp_path, capsys, more: list[str]):
    out = tmp_path / "run"
    text = refusal(capsys, [*arguments(digits, data), "--out", str(out), *more])
    assert "give it once" in text
    assert more[0].partition("=")[0] in text
    assert not out.exists()


def test_an_option_may_stand_in_the_configuration_and_on_the_command_line(digits, data, tmp_path):
    config = tmp_path / "audit.toml"
    config.write_text('limit = 5\nradius = "0.5/255"\n')
    out = tmp_path / "run"
    assert main([*arguments(digits, data), "--config", str(config), "--limit", "1", "--out", str(out)]) == 0
    assert [line["radius"] for line in lines(out)] == [0.5 / 255]


def test_accuracies_are_said_before_anything_is_proven(digits, data, tmp_path, capsys, monkeypatch):
    def stop(self: audit.Audit, tasks: list[Task]) -> list[tuple[float, float]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit.Audit, "_certify", stop)
    assert main([*arguments(digits, data), "--out", str(tmp_path / "run")]) == 130
    text = capsys.readouterr()
    assert text.out == "accuracy on the 6 inputs: standard 100.0 %, robust 100.0 %, mix 100.0 %\n"
    assert "WARNING" not in text.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": lambda x: x / 20}, "% of the domain [0, 1]: is it in their units?"),
        ({"labels": lambda y: (y + 1) % 10}, "guessing among 10 classes on 10.0 %"),
    ],
)
def test_what_looks_like_a_mistake_is_said_aloud(digits, tmp_path, capsys, change, words: str):
    whole = np.load(digits / "audit.npz")
    scaled = {"images": (whole["images"][:24] / np.float32(255)).astype(np.float32), "labels": whole["labels"][:24]}
    path = tmp_path / "odd.npz"
    np.savez(path, **{name: change.get(name, lambda v: v)(value) for name, value in scaled.items()})
    given = [*arguments(digits, path), "--radius", "0", "--attack-steps", "0", "--out", str(tmp_path / "run")]
    assert main(given) == 0
    assert any(words in line and line.startswith("WARNING") for line in capsys.readouterr().err.splitlines())


def flat(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def exported(folder: Path, module: nn.Module, *shape: int) -> str:
    path = folder / "other.onnx"
    torch.onnx.export(
        module, (torch.zeros(1, *shape),), str(path), dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
    )
    return str(path)


PAIRS = {
    "another shape": (lambda: nn.Linear(63, 10), (63,), ("takes (63,)", "takes (1, 8, 8)")),
    "more classes": (lambda: flat(11), (1, 8, 8), ("has 11", "has 10")),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("command", ["audit", "smoothing-bounds", "tune", "experiment"])
def test_a_pair_that_does_not_fit_is_refused_naming_both(digits, data, tmp_path, capsys, kind: str, command: str):
    make, shape, words = PAIRS[kind]
    other, out = exported(tmp_path, make(), *shape), tmp_path / "run"
    models = ["--standard", other, "--robust", str(digits / "robust.onnx"), "--data", str(data)]
    grid = ["--alpha", "0.6,0.75", "--temperature", "1", "--clean-accuracy", "0.5"]
    more = {
        "audit": ["--alpha", "0.75", "--out", str(out)],
        "smoothing-bounds": ["--alpha", "0.75", "--noise-std", "0.1", "--samples", "10", "--selection-samples", "10"],
        "tune": [*grid, "--radius", "0.01", "--audit-data", str(digits / "tune.npz"), "--out", str(out)],
        "experiment": ["--radius", "0.01", "--out", str(out)],
    }[command]
    name = ["experiment", "confidence"] if command == "experiment" else [command]
    text = refusal(capsys, [*name, *models, *more])
    assert all(word in text for word in words)
    assert "other.onnx" in text
    assert "robust.onnx" in text
    assert not out.exists()


def test_an_engine_that_is_not_installed_is_refused_before_anything_runs(digits, data, tmp_path, capsys, monkeypatch):
    def absent() -> object:
        raise EngineError("auto_LiRPA is not installed; install it with: pip install auto_LiRPA")

    monkeypatch.setattr(compat, "load", absent)
    out = tmp_path / "run"
    text = refusal(capsys, [*arguments(digits, data), "--engine", "auto_lirpa", "--out", str(out)])
    assert "engine auto_lirpa: auto_LiRPA is not installed" in text
    assert not out.exists()


def test_a_gate_fails_a_run_that_certifies_too_little(digits, data, tmp_path, capsys):
    """At this radius some of the six inputs are certified, and not all."""
    out = tmp_path / "run"
    given = [*arguments(digits, data), "--radius", "0.12", "--out", str(out)]
    assert main([*given, "--fail-under", "100"]) == 3
    assert "inputs are certified and correct, fewer than 100 %" in capsys.readouterr().err
    hits = sum(line["outcome"] == "certified" and line["predicted"] == line["label"] for line in lines(out))
    assert 0 < hits < COUNT
    assert main(["report", str(out), "--fail-under", "100"]) == 3
    assert main(["report", str(out), "--fail-under", repr(100 * hits / COUNT - 1e-9)]) == 0
    assert main(["report", str(out), "--fail-under", repr(100 * hits / COUNT + 1e-9)]) == 3
    assert "leave out --no-check" in refusal(capsys, ["report", str(out), "--fail-under", "1", "--no-check"])
    path = out / "certificates.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"alpha":0.75', b'"alpha":0.95'))
    assert main(["report", str(out), "--fail-under", "1"]) in (1, 2)


def test_the_summary_says_how_many_of_how_many_are_certified(digits, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*arguments(digits, data), "--radius", "0.12", "--out", str(out)]) == 0
    certified = sum(line["outcome"] == "certified" for line in lines(out))
    assert f"{certified} of {COUNT} inputs certified: {out}" in capsys.readouterr().out


class Probabilities(nn.Module):
    """Ten probabilities without a softmax, which no plain network has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.linear(x.flatten(1)))
        return torch.cat([share * 0.2, share * -0.2 + 0.2], dim=1)


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "--radius", "0.01"],
        ["smoothing-bounds", "--samples", "200", "--selection-samples", "50", "--prediction-samples", "20"],
        ["lipschitz", "--radius", "0.01", "--no-lipsdp", "--steps", "1", "--restarts", "1"],
        ["experiment", "confidence", "--radius", "0.01", "--steps", "1"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_says_that_a_model_gives_probabilities(data: Path, digits: Path, tmp_path: Path, capsys, words):
    """Softmax of softmax is a legal mix and hardly ever the one that is deployed."""
    torch.manual_seed(0)
    module = Probabilities().eval()
    path = tmp_path / "probabilities.onnx"
    torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), str(path), dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})  # fmt: skip
    alone = words[0] == "lipschitz"
    models = ["--robust", str(path if alone else digits / "robust.onnx")]
    models += (
        []
        if alone
        else ["--standard", str(path), "--alpha", "0.75"]
        if words[0] != "experiment"
        else ["--standard", str(path)]
    )
    out = ["--out", str(tmp_path / "out")] if words[0] != "smoothing-bounds" else []
    assert main([*words, *models, "--data", str(data), "--limit", "2", *out]) == 0
    assert "probabilities.onnx): its outputs are probabilities, not logits" in capsys.readouterr().err


def test_the_report_calls_models_as_the_command_line_does(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(finished), "--attack-steps", "0"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "clean accuracy, " in line]
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["clean_accuracy"]) == list(summary["clean_accuracy_source"]) == ["standard", "robust", "mix"]
    for row, (name, share) in zip(rows, summary["clean_accuracy"].items(), strict=True):
        assert f"clean accuracy, {name} " in row
        assert f"{share:.1f}" in row
