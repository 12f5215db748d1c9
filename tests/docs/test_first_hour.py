"""docs/first-hour.md, replayed: what a newcomer types, and what is answered.

Figures may differ, for the networks are trained anew and processors round differently; words, order and exit codes may
not. A line … stands for whatever comes.
"""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from certmix.__main__ import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-hour.md"
NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?")


def steps() -> list[tuple[str, str]]:
    """(command, what it answers), in order."""
    blocks = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    return blocks


def words(text: str) -> list[str]:
    """Lines with figures, digests and frames of tables made alike; pictures of inputs left out."""
    lines = []
    for line in text.splitlines():
        if not line.strip() or re.fullmatch(r"[\s░▒▓█]+", line) or set(line.strip()) <= set("┏━┳┓┡╇┩└─┴┘"):
            continue
        line = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", line)
        lines.append(re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip())
    return lines


def test_the_first_hour_goes_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """In this process, which has loaded torch already; that commands start as programs is tested elsewhere."""
    (code,) = re.findall(r"^```python\n# pair.py.*?\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "pair.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for command, answer in steps():
        program, *rest = shlex.split(command)
        if program == "certmix":
            assert main(rest) == 0, command
        else:
            assert (program, rest) == ("python", ["pair.py"])
            runpy.run_path("pair.py", run_name="__main__")
        expected, found = words(answer), words(capfd.readouterr().out)
        if expected and expected[-1] == "…":
            expected.pop()
            found = found[: len(expected)]
        assert found == expected or not expected, command


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("46 of 50 inputs certified: run", "7 of 9 inputs certified: run"),
        ("0      17.72            -18.77 .. -13.92    box (3a)   >= 0.8761", "1 2.0 -1 .. -3e-5 box (3a) >= 0.1"),
    ],
)
def test_only_figures_are_free(line: str, same: str):
    assert words(line) == words(same)
    assert words(line) != words(line.replace("certified", "open").replace("box", "exponential"))
