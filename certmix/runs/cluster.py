"""A run's tasks on a cluster of machines, by Ray (extra certmix[ray]), of which any may go away.

Every machine must have the same certmix, to the byte, and the same packages that the bytes of a run depend on. None
needs the run's folder, the models' files or the data: all that a task takes travels with it, and what it gives travels
back to the process that writes the run. Where the folder is seen all the same, branching keeps there what an
interruption must not lose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import math
import platform
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.installation import code
from certmix.runs.attempts import Attempt, Failed, Lost, WorkerError, attempted
from certmix.runs.batches import Batch, Task, Worker
from certmix.runs.provenance import versions

AHEAD = 2  # tasks that travel for each that can be executed: a machine never waits for its next
PATIENCE = 1.0  # seconds between two looks at how large the cluster is
ANSWERS = 5.0  # seconds that a cluster has to answer in


@dataclass(frozen=True)
class Cluster:
    """Executes the tasks of a run on the Ray cluster at `address`: HOST:PORT, "auto": the one that runs here, "local":
    a new one, of this machine alone, for as long as the run takes. gpus_per_worker: of each task, also a part of one.

    A task whose process or machine dies is tried again, then in halves (attempts.py); machines that come later are
    used. Ensures: where no task kills twice, and the machines' processors are alike, the batches of one process. Raises
    what a task raised: UsageError and OSError as they are; UsageError for want of Ray, of a cluster, of a machine that
    is large enough, or where a machine has another certmix.
    """

    address: str
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        need_ray(self.address)
        gpus = self.gpus_per_worker
        if not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus.is_integer())):
            raise UsageError(f"GPUs per worker must be a part of one, or a whole number of them, got {gpus}")

    def __call__(self, work: Worker, tasks: Iterable[Task]) -> Iterator[Batch]:
        ray: Any = importlib.import_module("ray")
        left = deque(Attempt(task) for task in tasks)
        if left:
            with connected(ray, self.address), contextlib.closing(self._batches(ray, work, left)) as batches:
                yield from batches

    def _batches(self, ray: Any, work: Worker, left: deque[Attempt]) -> Generator[Batch]:
        needs = {"CPU": float(work.settings.threads), "GPU": self.gpus_per_worker}
        largest = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0.0) >= n for name, n in needs.items()) for node in largest):
            asked = f"{exact(needs['CPU'])} cores (--threads) and {exact(needs['GPU'])} GPUs (--gpus-per-worker)"
            raise UsageError(f"no machine of the Ray cluster has {asked}, as each task is to have")
        remote = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)(_prove)
        travels = ray.put(work.of(Task(work.first, work.first)))  # without inputs: each task takes its own
        same = installed()
        run = None if work.desk is None else _header_sha256(work.desk.run)
        running: dict[Any, Attempt] = {}
        free, looked = 0, -math.inf
        try:
            while left or running:
                if time.monotonic() >= looked + PATIENCE:
                    free, looked = slots(ray.cluster_resources(), needs), time.monotonic()
                while left and len(running) < AHEAD * max(free, 1):
                    attempt = left.popleft()
                    own = work.of(attempt.task)
                    sent = remote.remote([travels], same, run, attempt.task, own.inputs, own.labels)
                    running[sent] = attempt
                for done in ray.wait(list(running), timeout=PATIENCE)[0]:
                    answer = _answer(ray, done, running.pop(done))
                    if isinstance(answer, Batch):
                        yield answer
                        continue
                    again = answer.again()
                    left.extendleft(reversed(again))
                    if not again:
                        yield work.given_up(answer.attempt.task, answer.why)
        finally:
            for sent in running:
                ray.cancel(sent, force=True)


def need_ray(address: str) -> None:
    """Raises UsageError where Ray is not installed, or the address is one of its client."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("a cluster needs Ray: pip install 'certmix[ray]', or use --jobs")
    if address.startswith("ray://"):
        raise UsageError(
            f"{address} is for Ray's client, which this is not: start the command on a machine of the cluster, "
            "with --ray auto (ray job submit does), or give HOST:PORT of its head"
        )


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Generator[None]:
    """To the cluster at `address`. Raises UsageError where none answers."""
    if ray.is_initialized():  # by whoever calls: theirs
        yield
        return
    host, colon, port = address.rpartition(":")
    try:
        if colon:  # Ray asks for minutes before it gives up
            socket.create_connection((host, int(port)), ANSWERS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:  # that there is none is a ConnectionError
        why = str(error).splitlines()[0]
        raise UsageError(
            f"no Ray cluster answers at {address} ({why}): start one (ray start --head), or say --ray local "
            "for one of this machine alone"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def slots(resources: dict[str, float], needs: dict[str, float]) -> int:
    """How many tasks the cluster executes at once."""
    return min(int(resources.get(name, 0.0) / n) for name, n in needs.items() if n > 0)


def _answer(ray: Any, done: Any, attempt: Attempt) -> Batch | Lost:
    """What became of it. Raises what it raised."""
    died = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,  # what it gave, or what it was given, went away with a machine
    )
    try:
        answer: Batch | Failed = ray.get(done)
    except ray.exceptions.OutOfMemoryError as error:
        return Lost(attempt, f"the machine that proves it has too little memory: {_line(error)}", memory=True)
    except died as error:
        return Lost(attempt, f"the process that proves it ended: {_line(error)}")
    except ray.exceptions.RayTaskError as error:
        raise WorkerError(f"a machine of the cluster could not begin: {error}") from None
    return answer.lost(attempt) if isinstance(answer, Failed) else answer


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# ---------------------------------------------------------------- on the cluster's machines

_at_hand: dict[str, Worker] = {}  # the run of this process, with all that it has prepared


def _prove(
    travels: list[Any],
    same: dict[str, str],
    run: str | None,
    task: Task,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Batch | Failed:
    """Execute a task. travels: a reference to the worker, in a list so that it is not read before it is known that
    this machine is one of those that can. run: the sha256 of the run's header."""
    text = other_installation(same)
    if text is not None:
        return Failed(False, UsageError(text), text)
    key = travels[0].hex()
    if key not in _at_hand:
        work: Worker = importlib.import_module("ray").get(travels[0])
        if work.desk is not None and _header_sha256(work.desk.run) != run:  # not to be seen from here, or another run
            work = dataclasses.replace(work, desk=None)
        _at_hand.clear()
        _at_hand[key] = work
    own = inputs.copy(), labels.copy()  # what travels cannot be written to, which torch warns of
    return attempted(dataclasses.replace(_at_hand[key], inputs=own[0], labels=own[1], first=task.start), task)


def other_installation(same: dict[str, str]) -> str | None:
    """Why this machine is none of those that can; None if it is."""
    here = installed()
    differing = sorted(n for n in {**same, **here} if here.get(n) != same.get(n))
    words = "; ".join(f"{n} is {here.get(n)} there, {same.get(n)} here" for n in differing)
    text = f"{platform.node()} has another installation ({words}): install the same on every machine"
    return text if differing else None


def installed() -> dict[str, str]:
    """What must be the same on every machine."""
    return {**versions(), "certmix's code": code.sha256()[:16]}


def _header_sha256(folder: Path) -> str | None:
    """None: no run is to be seen there."""
    try:
        return hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()
    except OSError:
        return None
