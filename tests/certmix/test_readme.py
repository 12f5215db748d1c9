"""What README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from certmix.__main__ import COMMANDS, main

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()


def test_the_python_example_runs(digits: Path, capsys: pytest.CaptureFixture[str]):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = code.replace('"g.onnx"', repr(str(digits / "standard.onnx")))
    code = code.replace('"h.onnx"', repr(str(digits / "robust.onnx")))
    images = np.load(digits / "audit.npz")["images"][:3]
    x = torch.from_numpy(images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1))
    exec(compile(code, "README.md", "exec"), {"x": x})
    shown = capsys.readouterr().out
    assert "Accepted(assumptions=frozenset())" in shown


def test_every_command_is_shown_and_every_shown_command_exists():
    shown = set(re.findall(r"\bcertmix ([a-z][a-z-]*)", README))
    assert shown - {"in", "tells"} <= set(COMMANDS)
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_every_link_of_the_readme_leads_somewhere():
    root = Path(__file__).resolve().parent.parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / target).exists(), target
