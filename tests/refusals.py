"""How the command line refuses bad input."""

from __future__ import annotations

import pytest


def refusal(capsys: pytest.CaptureFixture[str], given: list[str]) -> str:
    """The one line printed by a command that refuses its input."""
    from certmix.__main__ import main

    capsys.readouterr()
    assert main(given) == 2
    text = capsys.readouterr().err
    assert text.startswith("certmix: ")
    assert text.count("\n") == 1
    return text
