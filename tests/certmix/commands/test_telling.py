"""How a run is told: to people, to programs, to nobody."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from certmix.commands import terminal
from certmix.commands.terminal import Bar, Events, Quiet
from certmix.provers.problem import Pursued
from certmix.runs.listener import After, Before, SoFar

BEFORE = Before(4, {"mix": 75.0}, False, ("odd",))
AFTER = After(Path("run"), 4, 0, 3, False, 4, 3, 1, 0, 0.5)


def test_events_are_json_objects_a_line(capsys: pytest.CaptureFixture[str]):
    events = Events()
    events.before(BEFORE)
    events.progress(1, 4, SoFar(1, 0, 0))
    events.pursued(Pursued(2, 0.1, 3, 4, math.inf, None))
    events.refuted(3, "why", Path("saved"))
    events.after(AFTER)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in said] == ["before", "progress", "branching", "refuted", "after"]
    assert said[1] == {"event": "progress", "done": 1, "total": 4, "certified": 1, "attackable": 0, "open": 0}
    assert (said[1]["done"], said[2]["lack"], said[3]["saved"], said[4]["path"]) == (1, None, "saved", "run")


def test_quiet_says_what_may_be_a_mistake_and_no_more(capsys: pytest.CaptureFixture[str]):
    quiet = Quiet()
    quiet.before(BEFORE)
    quiet.progress(1, 4)
    quiet.after(AFTER)
    quiet.refuted(3, "why", Path("saved"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "odd" in err
    assert "REFUTED: input 3" in err


def test_where_nobody_looks_a_line_comes_every_half_minute(capsys: pytest.CaptureFixture[str], monkeypatch):
    now = iter([0.0, 29.0, 30.0, 45.0, 61.0])
    monkeypatch.setattr(terminal, "monotonic", lambda: next(now))
    bar = Bar("certifying")
    for done in (10, 20, 25, 30, 40):
        bar.progress(done, 100, SoFar(done - 3, 1, 2))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "certifying: 25 of 100, 0.5 a second, about 150 s left (22 certified, 1 attackable, 2 open)"
    assert lines[1].startswith("certifying: 40 of 100, 0.49 a second, about ")
