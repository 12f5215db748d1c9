"""What a night may bring: each is refused or survived, and says what to do.

Full disks, foreign folders, two writers and kills: test_interruption.py; damaged shards: test_merge.py; machines with
another certmix: test_cluster.py.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refusal
from small_runs import contents

from certmix.__main__ import main
from certmix.runs import provenance, store
from certmix.runs.store import FINAL, Store
from proofs_check.__main__ import main as judge
from proofs_check.certificate import FORMAT
from proofs_check.reading import parse

COUNT, BATCH = 4, 2


@pytest.fixture(scope="module")
def words(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An audit of four inputs, without --out."""
    data = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(digits / "audit.npz") as whole:
        np.savez(data, images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    options = ["--alpha", "0.75", "--radius", "0.05", "--engine", "crown", "--batch-size", str(BATCH)]
    return ["audit", *models, "--data", str(data), *options, "--optimise", "1", "--attack-steps", "2"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*words, "--out", str(out)]) == 0
    return out


def half(whole: Path, out: Path) -> Path:
    """The run, interrupted after its first batch."""
    shutil.copytree(whole, out)
    lines = (out / FINAL).read_bytes().splitlines()
    (out / FINAL).unlink()
    Store(out).add(0, lines[:BATCH])
    return out


def read_only(*_: Any, **__: Any) -> None:
    raise OSError(errno.EROFS, "Read-only file system", "run")


@pytest.mark.parametrize("fails", ["mkdir", "rename"], ids=["from the start", "where a file is to be replaced"])
def test_a_folder_that_cannot_be_written_is_named_and_the_run_goes_on_where_it_can(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, fails: str,
):  # fmt: skip
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, read_only)
        said = refusal(capsys, [*words, "--out", str(out)])
    assert said == "certmix: Read-only file system run; what was finished is kept, run again to go on\n"
    assert not (out / "run.json").exists()
    assert main([*words, "--out", str(out)]) == 0
    assert contents(out) == contents(whole)


def test_a_folder_that_becomes_read_only_loses_nothing(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = half(whole, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", read_only)
        assert main([*words, "--out", str(out)]) == 2
    assert "Read-only file system run; what was finished is kept" in capsys.readouterr().err
    assert main([*words, "--out", str(out)]) == 0
    assert contents(out) == contents(whole)


def test_a_path_through_a_file_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("mine")
    assert "Not a directory" in refusal(capsys, [*words, "--out", str(tmp_path / "file" / "run")])
    assert (tmp_path / "file").read_text() == "mine"


def resealed(path: Path, changed: dict[str, Any]) -> None:
    """A header that says something else, sealed again."""
    value = {**json.loads(path.read_bytes()), **changed}
    del value["sha256"]
    path.write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))


def test_a_run_of_a_newer_version_is_refused_and_left_as_it_is(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = half(whole, tmp_path / "run")
    settings = json.loads((out / "run.json").read_bytes())["settings"]
    resealed(out / "run.json", {"settings": {**settings, "foresight": 3}})
    before = contents(out)
    assert "foresight is 3 there, None here" in refusal(capsys, [*words, "--out", str(out)])
    resealed(out / "run.json", {"format": "certmix-run 99"})
    before["run.json"] = (out / "run.json").read_bytes()
    assert "is of another version of certmix" in refusal(capsys, [*words, "--out", str(out)])
    assert contents(out) == before


def test_a_clock_that_goes_backwards_changes_nothing_but_what_it_says(
    words: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Backwards(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Backwards:
            return cls(1970, 1, 1, tzinfo=tz)

    ticks = iter(range(10**6, 0, -1))
    out = half(whole, tmp_path / "run")
    (out / "shards").touch()
    os.utime(out / "shards", (2**32, 2**32))  # files of a time to come
    with monkeypatch.context() as patch:
        patch.setattr(provenance.datetime, "datetime", Backwards)
        patch.setattr(store.time, "monotonic", lambda: float(next(ticks)))
        patch.setattr(time, "time", lambda: 0.0)
        assert main([*words, "--out", str(out)]) == 0
    assert contents(out) == contents(whole)
    assert json.loads((out / "provenance.json").read_bytes())[-1]["began"].startswith("1970-")
    assert judge([str(out), "--quiet"]) == 0


def test_a_shard_that_somebody_put_there_counts_for_nothing_until_it_is_judged(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = half(whole, tmp_path / "run")
    lines = (whole / FINAL).read_bytes().splitlines()
    k, forged = next((k, v) for k, line in enumerate(lines) if (v := json.loads(line))["outcome"] == "certified")
    assert k < BATCH
    forged["predicted"] = forged["label"] = forged["label"]
    forged["alpha"] = 0.50000001
    del forged["sha256"]
    lines[k] = parse.seal(json.dumps(forged, separators=(",", ":")).encode()[:-1])
    assert parse.unseal(lines[k], FORMAT, "line")["alpha"] == 0.50000001
    Store(out).add(0, lines[:BATCH])
    assert main([*words, "--out", str(out), "--fail-under", "0"]) in (1, 2)
    said = capsys.readouterr()
    assert f"input {k}" in said.err
    assert "the others as their lines say" in said.out


def test_a_gate_on_a_run_that_goes_on_counts_what_the_judge_accepts(words: list[str], whole: Path, tmp_path: Path):
    right = sum(line["outcome"] == "certified" and line["predicted"] == line["label"] for line in Store(whole).lines())
    assert right > 0
    for name, share, code in (("a", 100 * right / COUNT, 0), ("b", 100 * right / COUNT + 1e-6, 3)):
        if share <= 100:
            out = half(whole, tmp_path / name)
            assert main([*words, "--out", str(out), "--fail-under", repr(share)]) == code
