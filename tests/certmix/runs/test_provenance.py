"""A run says which files it read, on what machine, and which command repeats it."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.__main__ import main
from certmix.commands import audit, parsing
from certmix.errors import UsageError
from certmix.runs import provenance
from certmix.runs.provenance import GivenFile


def parsed(words: list[str]) -> argparse.Namespace:
    parser = parsing.Parser(allow_abbrev=False)
    audit.add_arguments(parser)
    return parsing.parse(parser, words)


numbers = st.floats(1e-6, 1.0).map(repr)
words = st.fixed_dictionaries(
    {"--alpha": numbers},
    optional={
        "--temperature": numbers,
        "--radius": numbers,
        "--limit": st.integers(1, 99).map(str),
        "--norm": st.sampled_from(["Linf", "L2", "L1"]),
        "--data": st.text("ab c'\"$-é/", min_size=1).filter(lambda t: not t.startswith("-")),
        "--looks": st.lists(numbers, min_size=1, max_size=3).map(",".join),
        "--noise-std": numbers,
        "--engine": st.sampled_from(["crown", "auto_lirpa"]),
    },
)


@given(words, st.booleans(), st.booleans())
def test_the_recorded_command_reads_back_as_the_same_options(given, standard: bool, domain: bool):
    line = [word for pair in given.items() for word in pair]
    line += ["--use-standard"] * standard + ["--domain", "0", "255"] * domain
    options = parsed(line)
    spelled = shlex.split(parsing.spelled("audit", audit.add_arguments, options))
    assert spelled[:2] == ["certmix", "audit"]
    assert vars(parsed(spelled[2:])) == vars(options)


def test_a_run_records_its_files_and_a_command_that_repeats_it(digits: Path, tmp_path: Path):
    config = tmp_path / "audit.toml"
    config.write_text(f'alpha = 0.75\nlimit = 2\nradius = 0.01\nrobust = "{digits / "robust.onnx"}"\n')
    more = ["--standard", str(digits / "standard.onnx"), "--data", str(digits / "audit.npz")]
    assert main(["audit", "--config", str(config), *more, "--out", str(tmp_path / "run")]) == 0
    (session,) = provenance.sessions(tmp_path / "run")
    assert session["files"]["robust"]["sha256"] == hashlib.sha256((digits / "robust.onnx").read_bytes()).hexdigest()
    assert session["files"]["data"]["bytes"] == (digits / "audit.npz").stat().st_size
    assert (session["used"], session["available"]) == (2, len(np.load(digits / "audit.npz")["labels"]))
    again = [w if w != str(tmp_path / "run") else str(tmp_path / "again") for w in shlex.split(session["command"])]
    assert main(again[1:]) == 0
    for name in ("run.json", "certificates.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    recorded = json.loads((tmp_path / "run" / "audit.json").read_text())["faithfulness"]
    assert recorded["robust"]["class_differs"] == []
    assert len(recorded["standard"]["differences"]) == 10


def test_a_resumed_run_records_both_sessions(digits: Path, tmp_path: Path, monkeypatch):
    words = ["audit", "--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    words += ["--data", str(digits / "audit.npz"), "--limit", "2", "--alpha", "0.75", "--radius", "0.01"]
    words += ["--out", str(tmp_path / "run")]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("certmix.runs.audit.Audit._certify", stop)
        assert main(words) == 130
    assert main(words) == 0
    assert len(provenance.sessions(tmp_path / "run")) == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"absent\.onnx: cannot be read"):
        GivenFile.of(tmp_path / "absent.onnx")
    (tmp_path / provenance.NAME).write_text("{")
    with pytest.raises(UsageError, match=r"provenance\.json cannot be read"):
        provenance.sessions(tmp_path)
