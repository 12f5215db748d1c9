"""What README and the page of commands show works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from certmix.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
README, COMMANDS_PAGE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/commands.md"))


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
    shown = set(re.findall(r"`?certmix ([a-z][a-z-]*)", COMMANDS_PAGE))
    assert shown == set(COMMANDS)
    assert set(re.findall(r"^ +certmix ([a-z-]+)", README, re.MULTILINE)) == {"audit", "check", "report"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_is_short():
    """What, why, two commands, one picture, one table, links."""
    assert len(README.split()) < 700
    assert README.count("![") == 1
    assert len(re.findall(r"^\|[-|]+\|$", README, re.MULTILINE)) == 1
    assert {"make demo", "make test"} <= set(re.findall(r"^    (make \w+)", README, re.MULTILINE))
