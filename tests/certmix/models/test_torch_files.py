"""Files of torch: a state dict with its architecture; pickles and programs, where they are allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from refusals import refusal
from torch import nn

import certmix
from certmix.__main__ import main
from certmix.errors import UsageError
from certmix.models.sources import beside

CODE = """
import torch
from beside_it import WIDTH

class Net(torch.nn.Module):
    def __init__(self, wave):
        super().__init__()
        self.a, self.b, self.wave = torch.nn.Linear(64, WIDTH), torch.nn.Linear(WIDTH, 10), wave

    def forward(self, x):
        y = torch.relu(self.a(x.flatten(1)))
        return self.b(torch.sin(y) if self.wave else y)

def build():
    return Net(False)

def waves():
    return Net(True)

def broken():
    raise KeyError("no weights\\nfor you")

number = 3
def no_module():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """arch.py and its weights: the first layers of a random net."""
    path = tmp_path_factory.mktemp("arch")
    (path / "arch.py").write_text(CODE)
    (path / "beside_it.py").write_text("WIDTH = 7\n")
    torch.manual_seed(0)
    state = module().state_dict()
    safetensors.torch.save_file(state, path / "w.safetensors")
    safetensors.torch.save_file({f"module.{k}": v for k, v in state.items()}, path / "parallel.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, path / "w.pth")
    torch.save(Path, path / "code.pt")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), path / "whole.pt")
    torch.save(state, path / "state.pt")
    whole = np.load(digits / "audit.npz")
    np.savez(path / "d.npz", images=whole["images"][:2], labels=whole["labels"][:2])
    shapes = ({0: torch.export.Dim("n", min=1, max=1024)},)
    program = torch.export.export(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes
    )
    torch.export.save(program, path / "p.pt2")
    return path


def module() -> nn.Module:
    net = nn.Module()
    net.a, net.b = nn.Linear(64, 7), nn.Linear(7, 10)
    return net


def loaded(folder: Path, name: str, **more: bool) -> certmix.Model:
    return certmix.load_model(beside(folder, name), input_shape=(1, 8, 8), **more)


def test_a_state_dict_and_its_architecture_are_a_plain_network_with_these_weights(folder: Path) -> None:
    model = loaded(folder, "arch.py:build@w.safetensors")
    state = safetensors.torch.load_file(folder / "w.safetensors")
    _, _, first, _, last = model.require_network().nodes
    assert np.array_equal(first.weight, state["a.weight"].numpy())  # type: ignore[union-attr]
    assert np.array_equal(last.weight, state["b.weight"].numpy())  # type: ignore[union-attr]
    assert model.source.endswith("arch.py:build@" + str(folder / "w.safetensors"))
    same = [
        loaded(folder, "arch.py:build@parallel.safetensors"),
        loaded(folder, "arch.py:build@w.pth", allow_code=True),
    ]
    assert {m.require_network().sha256 for m in same} == {model.require_network().sha256}


def test_without_plain_network_it_runs_in_onnxruntime_as_g(folder: Path) -> None:
    model = loaded(folder, "arch.py:waves@w.safetensors")
    assert "operator Sin" in (model.no_network or "")
    assert model.file is not None
    state = safetensors.torch.load_file(folder / "w.safetensors")
    x = torch.rand(3, 1, 8, 8)
    y = torch.sin(torch.relu(x.flatten(1) @ state["a.weight"].T + state["a.bias"]))
    torch.testing.assert_close(model.module(x), y @ state["b.weight"].T + state["b.bias"])


@pytest.mark.parametrize("name", ["whole.pt", "p.pt2"])
def test_pickles_and_programs_are_read_where_they_are_allowed(folder: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=r"reading a \.pt2? file can run code that it holds: if you trust it, --allow-code"
    ):
        loaded(folder, name)
    model = loaded(folder, name, allow_code=True)
    assert [type(n).__name__ for n in model.require_network().nodes] == ["Input", "Flatten", "Linear"]


def test_a_pickle_that_nobody_allowed_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"state_dict": Evil()}, tmp_path / "e.pt")
    with pytest.raises(UsageError, match="can run code"):
        certmix.load_model(tmp_path / "e.pt", input_shape=(1, 8, 8))
    (tmp_path / "arch.py").write_text(
        (folder / "arch.py").read_text().replace("from beside_it import WIDTH", "WIDTH = 7")
    )
    with pytest.raises(UsageError, match="holds more than tensors"):
        certmix.load_model(f"{tmp_path}/arch.py:build@{tmp_path}/e.pt", input_shape=(1, 8, 8), allow_code=True)
    assert not (tmp_path / "ran").exists(), "state dicts are read without running anything"


WRONG = {
    "arch.py:build@absent.safetensors": "no such file",
    "absent.py:build@w.safetensors": "no such file",
    "arch.py:other@w.safetensors": "defines no function other",
    "arch.py:number@w.safetensors": "defines no function number",
    "arch.py:no_module@w.safetensors": "gives int, needs a torch.nn.Module",
    "arch.py:broken@w.safetensors": "broken.. fails: KeyError",
    "arch.py:build@arch.py": "not a complete file of safetensors",
    "arch.py:build@wrong.safetensors": "is not of the module that build builds: .*Missing key",
    "state.pt": "no module: name its architecture, arch.py:build@",
    "code.pt": "no module|cannot be unpickled",
    "arch.py:build@code.pt": "holds more than tensors",
    "broken.pt": "cannot be unpickled",
    "broken.pt2": "not a program saved by torch.export.save",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_them_is_said_in_one_line(folder: Path, name: str) -> None:
    safetensors.torch.save_file({"c": torch.zeros(3)}, folder / "wrong.safetensors")
    for broken in ("broken.pt", "broken.pt2"):
        (folder / broken).write_bytes(b"nothing")
    with pytest.raises(UsageError, match=WRONG[name]) as caught:
        loaded(folder, name, allow_code=True)
    assert "\n" not in str(caught.value)


def test_an_audit_takes_them_and_check_compares_with_them(folder: Path, digits: Path, tmp_path: Path, capsys) -> None:
    """From a configuration file, whose paths are relative to it."""
    (folder / "a.toml").write_text(
        f'standard = "arch.py:waves@w.safetensors"\nrobust = "{digits}/robust.onnx"\ndata = "d.npz"\n'
        "alpha = 0.8\nradius = 0.01\nattack-steps = 2\n"
    )
    out = tmp_path / "run"
    assert main(["audit", "--config", str(folder / "a.toml"), "--out", str(out)]) == 0
    of = json.loads((out / "provenance.json").read_bytes())[0]["files"]["standard"]
    assert of["bytes"] == sum((folder / n).stat().st_size for n in ("arch.py", "w.safetensors"))
    assert main(["check", str(out), "--standard", beside(folder, "arch.py:waves@w.safetensors")]) == 0
    assert main(["check", str(out), "--standard", beside(folder, "arch.py:build@w.safetensors")]) == 4
    capsys.readouterr()
    given = [
        "--standard",
        str(folder / "p.pt2"),
        "--robust",
        str(digits / "robust.onnx"),
        "--data",
        str(folder / "d.npz"),
    ]
    words = ["audit", *given, "--alpha", "0.8", "--radius", "0.01", "--attack-steps", "2", "--out", str(tmp_path / "p")]
    assert "--allow-code" in refusal(capsys, words)
    assert main([*words, "--allow-code"]) == 0
    assert main(["check", str(tmp_path / "p"), "--standard", str(folder / "p.pt2"), "--allow-code"]) == 0
