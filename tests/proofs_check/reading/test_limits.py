"""JSON and lines that would exhaust the reader: depth, memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proofs_check import certificate as c
from proofs_check.reading import folder, parse
from verifiers.network.module import build


def test_json_that_would_fill_the_memory_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = build([c.Input((2,)), c.Flatten((0,))])
    monkeypatch.setattr(parse, "MAX_HEADER", 100)
    with pytest.raises(c.MalformedError, match="more than 100"):
        parse.network(network.data)
    with (tmp_path / "run.json").open("wb") as stream:
        stream.truncate(folder.MAX_LINE + 1)
    with pytest.raises(c.MalformedError, match="larger than 67108864 bytes"):
        folder.header(tmp_path)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_may_nest_so_deep_and_no_deeper(opening: str, closing: str):
    deep = parse.MAX_DEPTH
    assert parse.strict_json((opening * deep + "1" + closing * deep).encode(), "here") is not None
    for depth in (deep + 1, 900, 10**5):
        for inside in ("1", "[]", "{}", '"a"'):
            with pytest.raises(c.MalformedError, match=r"nests deeper|not strict JSON"):
                parse.strict_json((opening * depth + inside + closing * depth).encode(), "here")
    with pytest.raises(c.MalformedError, match="nests deeper"):
        parse.strict_json(("[" * (deep + 1) + "]" * (deep + 1)).encode(), "here")


def test_a_line_of_any_depth_is_a_verdict_not_a_crash():
    """Python's own limit may fall between reading and showing a value."""
    for depth in range(20, 1100, 7):
        text = json.dumps({"smoothing": {"base": 0}}).replace("0", "[" * depth + "1" + "]" * depth)
        with pytest.raises(c.MalformedError):
            parse.line(parse.seal(text[:-1].encode()), {})
