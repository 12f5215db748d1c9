"""Tasks on a real Ray cluster of this machine: the bytes of one process, whatever dies on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretender import TASKS, Echo, offspring, pretender, why
from refusals import refusal
from small_runs import audit, contents

from certmix.__main__ import main
from certmix.errors import UsageError
from certmix.installation import code
from certmix.runs import cluster, cluster_judge
from certmix.runs.attempts import WorkerError
from certmix.runs.audit import Audit
from certmix.runs.batches import Task, Worker, here
from certmix.runs.cluster import Cluster
from certmix.runs.cluster_judge import ClusterJudge
from certmix.runs.store import FINAL
from certmix.settings import SmoothingSettings
from proofs_check.run import Run

ACCEPTED = Path(__file__).parents[2] / "proofs_check" / "accepted"
STORE = 80_000_000  # bytes; Ray allows no less than 75 MiB
ray: Any = pytest.importorskip("ray", reason="needs certmix[ray]")


def started(**options: Any) -> None:
    """A cluster of this machine. Ray waits for its own processes by the clock: too little on a machine that is busy."""
    for tries_left in (2, 1, 0):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **options)
            return
        except Exception:  # Exception is what Ray raises
            ray.shutdown()
            if not tries_left:
                raise


@pytest.fixture(scope="module", autouse=True)
def rays_own_settings() -> Iterator[None]:
    tests = str(Path(__file__).parents[2])  # the modules that several folders of tests share
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_py_gcs_connect_timeout_s", "300")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", tests, prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def one_core(rays_own_settings: None) -> Iterator[Cluster]:
    """A cluster of one core, started here: what executes finds it and leaves it running."""
    started(num_cpus=1)
    yield Cluster("local")
    ray.shutdown()


@pytest.fixture
def some(digits: Path, tmp_path: Path) -> Audit:
    return audit(digits, tmp_path / "unused")


def test_a_cluster_writes_the_run_of_one_process(one_core: Cluster, digits: Path, tmp_path: Path):
    assert audit(digits, tmp_path / "here").run() == 0
    assert audit(digits, tmp_path / "there", one_core).run() == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert FINAL in contents(tmp_path / "here")


def test_a_process_that_is_killed_leaves_no_trace(one_core: Cluster, some: Audit, tmp_path: Path):
    said = why(one_core(pretender(some, fault="kill", once=tmp_path / "killed"), TASKS))
    assert (tmp_path / "killed").exists()
    assert list(map(said.get, range(5))) == [f"pretended with {n}" for n in (2, 2, 2, 2, 1)]


def test_memory_that_runs_out_halves_a_batch(one_core: Cluster, some: Audit):
    said = why(one_core(pretender(some, fault="memory", least=2), TASKS))
    assert list(map(said.get, range(5))) == [f"pretended with {n}" for n in (2, 2, 1, 1, 1)]


@pytest.mark.parametrize(("fault", "error", "text"), [
    ("usage", UsageError, "input 3 is odd"),
    ("bug", WorkerError, "ZeroDivisionError: deep inside"),
])  # fmt: skip
def test_what_is_wrong_in_a_task_is_raised_here(
    one_core: Cluster, some: Audit, fault: str, error: type[Exception], text: str
):
    with pytest.raises(error, match=text):
        list(one_core(pretender(some, fault=fault), TASKS))


def test_a_machine_with_another_certmix_is_refused(one_core: Cluster, some: Audit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code, "sha256", lambda: "0" * 64)
    with pytest.raises(UsageError, match=r"certmix's code is \w{16} there, 0{16} here\): install the same"):
        list(one_core(pretender(some), TASKS))


def test_more_cores_than_a_machine_has_are_refused(one_core: Cluster, some: Audit):
    work = pretender(some)
    wide = dataclasses.replace(work, settings=dataclasses.replace(work.settings, threads=1000))
    with pytest.raises(UsageError, match=r"no machine of the Ray cluster has 1000 cores"):
        list(one_core(wide, TASKS))


@pytest.mark.parametrize("name", ["adaptive_network", "branched", "smoothing_model_file", "margin_float32"])
def test_a_cluster_judges_as_one_process_does(one_core: Cluster, name: str):
    one, other = Run(ACCEPTED / name), Run(ACCEPTED / name)
    assert list(one.results(execute=ClusterJudge("local"))) == list(other.results())
    assert one.digests == other.digests


def test_lines_judged_on_a_cluster_are_said_in_order_also_those_that_fail(
    one_core: Cluster, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "run"
    assert audit(digits, path).run() == 0
    lines = (path / FINAL).read_bytes().splitlines(keepends=True)
    (path / FINAL).write_bytes(b"".join([*lines[:1], lines[1].replace(b'"radius":0', b'"radius":1', 1), *lines[2:]]))
    monkeypatch.setattr(cluster_judge, "LINES", 2)
    codes, said = [], []
    for where in (["--ray", "local"], []):
        codes.append(main(["check", str(path), "--json", *where]))
        said.append(capfd.readouterr().out.splitlines())
    assert codes[0] == codes[1] == 2
    assert [json.loads(line)["state"] for line in said[0][:-1]].count("malformed") == 1
    assert said[0] == said[1]
    assert main(["check", str(path), "--ray", "local"]) == 2
    assert "the word of the machines of the Ray cluster (local)" in capfd.readouterr().out


def test_a_judge_on_a_machine_with_another_certmix_is_refused(one_core: Cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code, "sha256", lambda: "0" * 64)
    with pytest.raises(UsageError, match="install the same on every machine"):
        list(Run(ACCEPTED / "branched").results(execute=ClusterJudge("local")))


def test_a_judge_that_is_killed_is_not_heard_of(one_core: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(ACCEPTED / "margin_linf")
    once, judged = tmp_path / "killed", cluster_judge._judged

    def killed(*words: Any) -> Any:
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return judged(*words)

    monkeypatch.setattr(cluster_judge, "_judged", killed)
    assert list(run.results(execute=ClusterJudge("local"))) == list(Run(ACCEPTED / "margin_linf").results())
    assert once.exists()


def test_addresses_that_are_none_are_refused(capsys: pytest.CaptureFixture[str], some: Audit):
    with pytest.raises(UsageError, match="ray job submit"):
        Cluster("ray://head:10001")
    with pytest.raises(UsageError, match="ray job submit"):
        ClusterJudge("ray://head:10001")
    with pytest.raises(UsageError, match=r"got 1\.5"):
        Cluster("auto", 1.5)
    options = ["--standard", "g", "--robust", "h", "--data", "d", "--out", "o", "--alpha", "0.7"]
    assert "give --ray, too" in refusal(capsys, ["audit", *options, "--gpus-per-worker", "1"])


def test_what_a_machine_sees_of_another_run_is_none_of_its_business(tmp_path: Path):
    assert cluster._header_sha256(tmp_path) is None
    (tmp_path / "run.json").write_bytes(b"one")
    one = cluster._header_sha256(tmp_path)
    (tmp_path / "run.json").write_bytes(b"other")
    assert cluster._header_sha256(tmp_path) != one


# ---------------------------------------------------------------- clusters of their own


@pytest.fixture
def two_cores(rays_own_settings: None) -> Iterator[Cluster]:
    """A cluster of two cores and the smallest object store that Ray allows."""
    ray.shutdown()
    started(num_cpus=2, object_store_memory=STORE)
    yield Cluster("local")
    ray.shutdown()


@pytest.mark.slow
def test_inputs_that_no_object_store_holds_at_once_all_arrive(two_cores: Cluster, some: Audit):
    inputs = np.random.default_rng(0).random((300, 2**17), dtype=np.float32)
    assert inputs.nbytes > 1.5 * STORE
    worker = pretender(some)
    values = {f.name: getattr(worker, f.name) for f in dataclasses.fields(Worker)}
    echo = Echo(**{**values, "inputs": inputs, "labels": np.zeros(300, dtype=np.int64)})
    batches = {b.task.start: b.lines for b in two_cores(echo, [Task(k, k + 10) for k in range(0, 300, 10)])}
    lines = [line for start in sorted(batches) for line in batches[start]]
    assert lines == [hashlib.sha256(x.tobytes()).hexdigest().encode() for x in inputs]


@pytest.mark.slow
@pytest.mark.parametrize("changed", [
    {"norm": "L2", "radius": 0.4, "branch_parts": 20},
    {"method": "smoothing", "norm": "L2", "smoothing": SmoothingSettings(samples=1000, selection_samples=50)},
], ids=["branching", "smoothing"])  # fmt: skip
def test_every_method_writes_the_run_of_one_process(
    two_cores: Cluster, digits: Path, tmp_path: Path, changed: dict[str, Any]
):
    for name, execute in (("here", here), ("there", two_cores)):
        one = audit(digits, tmp_path / name, execute)
        assert dataclasses.replace(one, settings=dataclasses.replace(one.settings, **changed)).run() == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
def test_an_audit_on_a_cluster_that_is_killed_goes_on_and_leaves_no_process(digits: Path, tmp_path: Path):
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    words = [*models, "--data", str(digits / "audit.npz"), "--limit", "40", "--batch-size", "2", "--alpha", "0.75"]
    words += ["--engine", "crown"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(["audit", *words, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "certmix", "audit", *words, "--out", str(out), "--ray", "local"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((out / "shards").glob("*.jsonl")):
            time.sleep(0.02)
        others = list(descendants(process.pid))
        process.kill()
    assert not (out / FINAL).exists()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in others):
        assert time.monotonic() < deadline, others
        time.sleep(0.1)
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert contents(out) == contents(whole)


def descendants(process: int) -> Iterator[int]:
    """Of the processes that it has started, and theirs, those that run."""
    for child in offspring(process):
        yield child
        yield from descendants(child)
