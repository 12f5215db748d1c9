"""How the command line refuses bad input."""

from __future__ import annotations

import pytest


def instead(given: list[str], *more: str) -> list[str]:
    """The command line `given` with the options `more`, each in place of the one of its name, which may come once."""
    named = {text for text in more if text.startswith("--")}
    kept: list[str] = []
    dropping = False
    for text in given:
        if text.startswith("--"):
            dropping = text in named
        if not dropping:
            kept.append(text)
    return [*kept, *more]


def refusal(capsys: pytest.CaptureFixture[str], given: list[str]) -> str:
    """The one line printed by a command that refuses its input."""
    from certmix.__main__ import main

    capsys.readouterr()
    assert main(given) == 2
    text = capsys.readouterr().err
    assert text.startswith("certmix: ")
    assert text.count("\n") == 1
    return text
