"""A run's folder: the same bytes wherever it was interrupted, one writer at a time, and nothing finished too early."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal

from certmix.__main__ import main
from certmix.errors import UsageError
from certmix.runs.finished import opened
from certmix.runs.store import FINAL, PARTIAL, Store
from certmix.settings import ADDED
from proofs_check.__main__ import main as judge
from proofs_check.reading import parse

COUNT = 5
BATCH = 2
DIGITS = Path(__file__).parents[3] / "examples" / "digits"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = np.load(DIGITS / "audit.npz")
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    return path


def audit(data: Path, out: Path, **changed: str) -> list[str]:
    """Arguments of the run that these tests are about; `changed` replaces options."""
    options = {
        "standard": str(DIGITS / "standard.onnx"),
        "robust": str(DIGITS / "robust.onnx"),
        "data": str(data),
        "alpha": "0.75",
        "engine": "crown",  # an audit ends with no comparison of engines, which takes longer than these
        "batch-size": str(BATCH),
        "tolerance": "0.1",
        "optimise": "1",
        "attack-steps": "2",
        "out": str(out),
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return ["audit", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(audit(data, out)) == 0
    return out


def content(out: Path) -> dict[str, bytes]:
    """Every file of a finished run but audit.json and provenance.json, which say how long it took, and when."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    told = {"audit.json", "provenance.json"}
    assert told <= set(files)
    return {name: data for name, data in files.items() if name not in told}


def goes_on(data: Path, out: Path) -> bool:
    """Whether the same command finishes the run; one that is finished it leaves as it is, and says so."""
    code = 2 if (out / FINAL).exists() else 0
    return main(audit(data, out)) == code


@pytest.mark.parametrize("kept", range(COUNT + 1))
def test_a_run_cut_after_any_line_ends_with_the_same_bytes(finished: Path, data: Path, tmp_path: Path, kept: int):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    whole = (out / FINAL).read_bytes().splitlines(keepends=True)
    (out / FINAL).unlink()
    torn = whole[kept][:50] if kept < COUNT else b""
    (out / PARTIAL).write_bytes(b"".join(whole[:kept]) + torn)
    assert main(audit(data, out)) == 0
    assert content(out) == content(finished)


def test_a_disk_that_fails_at_any_write_leaves_a_run_that_can_go_on(finished: Path, data: Path, tmp_path, monkeypatch):
    whole = os.fsync
    for failing in range(100):
        out = tmp_path / str(failing)
        calls = iter(range(1000))

        def full(descriptor: int, calls=calls, failing=failing, out=out) -> None:
            if next(calls) == failing:
                raise OSError(errno.ENOSPC, "No space left on device", str(out))
            whole(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            code = main(audit(data, out))
        if code == 0:
            break
        assert goes_on(data, out)
        assert content(out) == content(finished)
    assert failing > 6


def test_the_writers_thread_count_is_the_settings_and_not_the_environments(finished: Path, data: Path, tmp_path: Path):
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-m", "certmix", *audit(data, out)], env=environment, check=True)
    assert content(out) == content(finished)


def test_an_audit_gives_the_threads_back(data: Path, tmp_path: Path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert main(audit(data, tmp_path / "run", limit="1", threads="1")) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_threads_are_refused(data: Path, tmp_path: Path, capsys):
    assert "threads must be >= 1, got 0" in refusal(capsys, audit(data, tmp_path / "run", threads="0"))


def unfinished(finished: Path, out: Path, kept: int) -> None:
    shutil.copytree(finished, out)
    (out / PARTIAL).write_bytes(b"".join((out / FINAL).read_bytes().splitlines(keepends=True)[:kept]))
    (out / FINAL).unlink()


def test_a_run_goes_on_with_another_batch_size_and_from_a_moved_model(finished: Path, data: Path, tmp_path: Path):
    out, moved = tmp_path / "run", tmp_path / "h.onnx"
    unfinished(finished, out, BATCH)
    shutil.copy(DIGITS / "robust.onnx", moved)
    assert main(audit(data, out, batch_size="1", robust=str(moved))) == 0
    assert (out / "run.json").read_bytes() == (finished / "run.json").read_bytes()
    assert judge([str(out)]) == 0


def test_a_run_of_another_claim_is_refused_with_both_values(finished: Path, data: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    unfinished(finished, out, BATCH)
    text = refusal(capsys, audit(data, out, alpha="0.6", norm="L2"))
    assert "alpha is 0.75 there, 0.6 here" in text
    assert "norm is Linf there, L2 here" in text
    assert "robust is" in refusal(capsys, audit(data, out, robust=str(DIGITS / "standard.onnx")))
    assert "count is 5 there, 2 here" in refusal(capsys, audit(data, out, limit="2"))
    assert (out / PARTIAL).read_bytes().count(b"\n") == BATCH


def written_before(out: Path, names: tuple[str, ...]) -> None:
    """As a version that knew no such settings would have begun the run."""
    value = json.loads((out / "run.json").read_bytes())
    del value["sha256"]
    value["settings"] = {n: v for n, v in value["settings"].items() if n not in names}
    (out / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))


def test_a_run_begun_before_a_setting_was_known_goes_on_and_is_opened(
    finished: Path, data: Path, tmp_path: Path, capsys
):
    out = tmp_path / "run"
    unfinished(finished, out, BATCH)
    written_before(out, ADDED)
    assert "branch is 0.0 there, 2.0 here" in refusal(capsys, audit(data, out, branch="2", radius="0.1"))
    assert main(audit(data, out)) == 0
    assert (out / FINAL).read_bytes() == (finished / FINAL).read_bytes()
    assert judge([str(out)]) == 0
    assert opened(out).settings == opened(finished).settings
    for command in ("report", "sweep"):
        assert main([command, str(out)]) == 0
    written_before(out, ("alpha",))
    assert "alpha" in refusal(capsys, ["sweep", str(out)])


def test_a_damaged_header_is_named(finished: Path, data: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    unfinished(finished, out, BATCH)
    (out / "run.json").write_bytes((out / "run.json").read_bytes().replace(b"0.75", b"0.76"))
    assert "is damaged" in refusal(capsys, audit(data, out))


def test_a_folder_of_somebody_elses_is_left_alone(data: Path, tmp_path: Path, capsys):
    (tmp_path / "inputs.npz").write_bytes(b"mine")
    assert "holds no run" in refusal(capsys, audit(data, tmp_path))
    assert (tmp_path / "inputs.npz").read_bytes() == b"mine"


def test_a_second_writer_is_refused_and_the_lock_dies_with_the_first(data: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    hold = (
        "import sys, time, pathlib; from certmix.runs.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "another process is writing" in refusal(capsys, audit(data, out, limit="1"))
    finally:
        holder.kill()
        holder.wait()
    assert main(audit(data, out, limit="1")) == 0


def test_the_lock_is_free_after_an_error(tmp_path: Path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.locked():
        raise RuntimeError
    with store.locked(), pytest.raises(UsageError), Store(tmp_path).locked():
        pass


def test_what_branching_has_proven_outlives_an_interruption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out, options = tmp_path / "run", {"branch_parts": "24", "limit": "2", "norm": "L2"}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", interrupt)
        assert main(audit(data, out, **options)) == 128 + signal.SIGINT
    kept = [json.loads(path.read_bytes()) for path in sorted((out / "unfinished").iterdir())]
    lines = {n: json.loads(k["line"]) for n, k in enumerate(kept) if k["line"] is not None}
    assert lines
    capsys.readouterr()
    assert main(audit(data, out, **options)) == 0
    assert not (out / "unfinished").exists()
    written = [json.loads(line) for line in (out / FINAL).read_bytes().splitlines()]
    assert all(written[n]["radius"] >= line["radius"] for n, line in lines.items())
    assert judge([str(out)]) == 0
    assert opened(out).settings.branch_parts == 24


def test_branching_that_is_killed_goes_on_from_the_best_radius_so_far(data: Path, tmp_path: Path):
    out, options = tmp_path / "run", {"branch_parts": "4000", "limit": "1", "norm": "L2"}
    command = [sys.executable, "-m", "certmix", *audit(data, out, **options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept, path = dict[str, Any](), out / "unfinished" / "00000000.json"
    while process.poll() is None and not kept.get("line"):
        kept = json.loads(path.read_bytes()) if path.exists() else {}
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert kept["line"] is not None
    assert main(audit(data, out, **options)) == 0
    (written,) = [json.loads(line) for line in (out / FINAL).read_bytes().splitlines()]
    assert written["radius"] >= json.loads(kept["line"])["radius"]
    assert judge([str(out)]) == 0


def killed(data: Path, out: Path, seconds: float) -> bool:
    """Start or go on with the run and kill it after so many seconds; whether that came before its end."""
    command = [sys.executable, "-m", "certmix", *audit(data, out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(seconds) != 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def survives_kills(finished: Path, data: Path, tmp_path: Path, kills: int, seed: int) -> None:
    choice = random.Random(seed)
    started = time.monotonic()
    assert not killed(data, tmp_path / "timed", 600)
    whole = time.monotonic() - started
    left, run = kills, 0
    while left:
        run += 1
        out = tmp_path / str(run)
        while left and not (out / FINAL).exists() and killed(data, out, choice.uniform(0.2, 1.0) * whole):
            left -= 1
        assert goes_on(data, out)
        assert content(out) == content(finished)
        assert judge([str(out)]) == 0


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(finished: Path, data: Path, tmp_path: Path):
    survives_kills(finished, data, tmp_path, kills=2, seed=0)


@pytest.mark.slow
def test_forty_kills_leave_no_trace(finished: Path, data: Path, tmp_path: Path):
    survives_kills(finished, data, tmp_path, kills=40, seed=1)
