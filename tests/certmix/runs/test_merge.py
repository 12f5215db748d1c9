"""Parts of a run, proven apart, are the run; and nothing else is put together."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from small_runs import Recorder, audit, contents

from certmix.__main__ import main
from certmix.runs import shards
from certmix.runs.listener import After, Before
from certmix.runs.shards import Part, Shard
from certmix.runs.store import FINAL, Store, Writer
from proofs_check.__main__ import main as judge

COUNT, BATCH = 5, 2


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert audit(digits, out).run() == 0
    return out


def part(whole: Path, out: Path, start: int, stop: int) -> Path:
    """A folder in which only these inputs are proven."""
    shutil.copytree(whole, out)
    lines = (out / FINAL).read_bytes().splitlines()
    (out / FINAL).unlink()
    Store(out).add(start, lines[start:stop])
    for path in [*(out / "curves").iterdir(), *(out / "attacks").iterdir()]:
        if not start <= int(path.stem) < stop:
            path.unlink()
    return out


def merged(*folders: Path, out: Path) -> list[str]:
    return ["merge", *map(str, folders), "--out", str(out)]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 12))
def test_the_parts_of_a_run_hold_each_input_once_in_whole_batches(total: int, size: int, of: int):
    parts = [Part(k + 1, of).inputs(total, size) for k in range(of)]
    assert [index for inputs in parts for index in inputs] == list(range(total))
    assert all(inputs.start % size == 0 or not inputs for inputs in parts)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 7))
def test_what_is_left_is_what_no_shard_holds_cut_at_batches(done: list[bool], size: int):
    held = [Shard(k, k + 1, Path()) for k, there in enumerate(done) if there]
    left = [task for gap in shards.gaps(held, len(done)) for task in shards.cut(gap, size)]
    assert [index for task in left for index in task] == [k for k, there in enumerate(done) if not there]
    assert all(task.start // size == (task.stop - 1) // size for task in left)


def test_parts_proven_apart_are_the_run(whole: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k in (1, 2):
        recorder = Recorder()
        of = audit(digits, tmp_path / str(k), listener=recorder)
        assert type(of)(**{**vars(of), "shard": Part(k, 2)}).run() == 0
        after = recorder.heard[-1]
        assert isinstance(after, After)
        assert (after.missing, after.session, after.resumed) == ((3, 2, False) if k == 1 else (2, 3, False))
    assert main(merged(tmp_path / "1", tmp_path / "2", out=tmp_path / "run")) == 0
    assert contents(tmp_path / "run") == contents(whole)
    assert judge([str(tmp_path / "run")]) == 0
    told, record = (json.loads((out / "audit.json").read_bytes()) for out in (whole, tmp_path / "run"))
    assert record["predictions"] == told["predictions"]
    assert record["inputs"] == COUNT
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_bytes())) == 0  # of a run without a command
    assert "5 of 5 inputs of 2 folders" in capsys.readouterr().out


def test_what_is_missing_is_said_and_the_same_audit_goes_on_with_it(whole, digits, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(merged(part(whole, tmp_path / "a", 2, 4), out=out)) == 0
    assert "missing: inputs 0 to 1, 4 to 4" in capsys.readouterr().out
    assert main(["check", str(out)]) == 2
    assert "unfinished" in capsys.readouterr().err
    assert audit(digits, out).run() == 0
    assert contents(out) == contents(whole)


def test_the_same_lines_may_be_in_two_folders(whole: Path, tmp_path: Path):
    folders = part(whole, tmp_path / "a", 0, 4), part(whole, tmp_path / "b", 2, 5)
    assert main(merged(*folders, whole, out=tmp_path / "run")) == 0
    assert contents(tmp_path / "run") == contents(whole)


def test_what_is_no_part_of_the_run_is_refused_before_anything_is_written(whole, digits, tmp_path, capsys):
    a, b, out = part(whole, tmp_path / "a", 0, 2), part(whole, tmp_path / "b", 2, 5), tmp_path / "run"
    assert "is given twice" in refusal(capsys, merged(a, a, out=out))
    assert "holds no run of certmix audit" in refusal(capsys, merged(a, digits, out=out))
    assert "is not empty" in refusal(capsys, merged(a, b, out=whole))
    other = tmp_path / "other"
    command = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    command += ["--data", str(digits / "audit.npz"), "--limit", "5", "--alpha", "0.8", "--radius", "0.01"]
    assert (
        main(["audit", *command, "--attack-steps", "0", "--shard", "1/5", "--batch-size", "1", "--out", str(other)])
        == 0
    )
    capsys.readouterr()
    assert "alpha is 0.75 there, 0.8 here" in refusal(capsys, merged(a, other, out=out))
    (path,) = (b / shards.FOLDER).iterdir()
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"index":3', b'"index":4', 1))
    assert "input 3" in refusal(capsys, merged(a, b, out=out))
    path.write_bytes(good[:-1])
    assert "or torn" in refusal(capsys, merged(a, b, out=out))
    path.write_bytes(good)
    shutil.copy(path, path.with_name("00000001-00000004.jsonl"))
    assert "speak of the same inputs" in refusal(capsys, merged(a, b, out=out))
    assert not out.exists()


def test_an_input_with_two_different_lines_is_refused(whole: Path, digits: Path, tmp_path: Path, capsys):
    a, b = part(whole, tmp_path / "a", 0, 2), part(whole, tmp_path / "b", 2, 5)
    (path,) = (b / shards.FOLDER).iterdir()
    first = (whole / FINAL).read_bytes().splitlines()
    path.unlink()
    of = audit(digits, b)
    abstained = of._worker().given_up(type(of._tasks([])[0])(1, 2), "another")
    Store(b).add(1, [*abstained.lines, *first[2:]])
    assert "input 1 has one line in" in refusal(capsys, merged(a, b, out=tmp_path / "run"))


def test_a_damaged_shard_is_said_and_its_inputs_are_proven_again(whole: Path, digits: Path, tmp_path: Path):
    out = part(whole, tmp_path / "a", 0, 2)
    (path,) = (out / shards.FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    (out / "audit.json").write_text('{"seconds": 1.0}')  # as another version may have left one
    recorder = Recorder()
    assert audit(digits, out, listener=recorder).run() == 0
    assert json.loads((out / "audit.json").read_bytes())["inputs"] == COUNT
    before = recorder.heard[0]
    assert isinstance(before, Before)
    assert any("inputs 0 to 1 are proven again" in text for text in before.doubts)
    assert contents(out) == contents(whole)


def test_a_damaged_shard_is_put_aside_and_not_thrown_away(whole: Path, tmp_path: Path):
    out = part(whole, tmp_path / "a", 0, 2)
    (path,) = (out / shards.FOLDER).iterdir()
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    sound, damaged = Store(out).done(BATCH)
    assert (sound, len(damaged)) == ([], 1)
    assert path.with_suffix(".damaged").read_bytes() == torn


@pytest.mark.parametrize("words", [("--shard", "0/2"), ("--shard", "3/2"), ("--shard", "half"), ("--jobs", "0"),
                                   ("--jobs", "-1"), ("--jobs", "many")])  # fmt: skip
def test_no_such_part_and_no_such_number_of_processes(capsys, words: tuple[str, str]):
    text = refusal(capsys, ["audit", *words])
    assert words[0] in text
    assert repr(words[1]) in text


@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_lines_come_in_any_order_and_are_written_in_few_shards(order: list[int], waits: list[bool]):
    added: list[tuple[int, list[bytes]]] = []
    told: list[int] = []

    class Recording(Store):
        def add(self, start: int, lines: Any) -> None:
            added.append((start, list(lines)))

    write = Writer(Recording(Path()), told.extend, seconds=math.inf)
    for k, wait in zip(order, waits, strict=True):
        write.seconds = math.inf if wait else -math.inf
        write(2 * k, [b"%d" % (2 * k), b"%d" % (2 * k + 1)])
        written = {start + j for start, lines in added for j in range(len(lines))}
        assert wait or {2 * k, 2 * k + 1} <= written
        assert set(told) == written
    write.flush()
    assert sorted(told) == list(range(12))
    numbered = sorted(line for start, lines in added for line in enumerate(lines, start))
    assert numbered == [(k, b"%d" % k) for k in range(12)]
