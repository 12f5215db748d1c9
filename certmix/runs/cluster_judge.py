"""The judge on a cluster of machines, by Ray: a run's lines travel in small parts, and what became of each comes back.

Every machine reads the run's networks again, from bytes whose digests it takes itself; what is wrong with them, with
the dataset or with a file of a model is said here, before anything travels. What a machine says of a line is its word:
whoever trusts none of them judges on their own, without --ray.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from certmix.errors import UsageError
from certmix.runs.cluster import AHEAD, connected, installed, need_ray, other_installation, slots
from proofs_check.certificate import MalformedError, PlainNetwork, RejectedError
from proofs_check.reading import folder, parse
from proofs_check.run import ProcessJudge, Result, Run, Task, judge_of, open_judge

LINES, BYTES = 32, 2**20  # that travel at once, about
RETRIES = 3  # of Ray's, where a process or a machine goes away; what the judge says of a line depends on nothing else


@dataclass(frozen=True)
class ClusterJudge:
    """Judges a run's lines on the Ray cluster at `address` (as `Cluster`), one core for each part.

    Ensures: the results of one process, in order. Raises UsageError for want of Ray or of a cluster, or where a machine
    has another certmix; RejectedError where a part ends every process that takes it.
    """

    address: str

    def __post_init__(self) -> None:
        need_ray(self.address)

    def __call__(self, run: Run) -> Iterator[Result]:
        open_judge(run.path, run.header)
        ray: Any = importlib.import_module("ray")
        with connected(ray, self.address):
            yield from _results(ray, run)


def _results(ray: Any, run: Run) -> Iterator[Result]:
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_judged)
    networks: dict[str, Any] = {}
    for path in (run.path / "networks").glob("*.safetensors"):
        with contextlib.suppress(MalformedError):  # a line that names it will be
            networks[path.stem] = ray.put(folder.network_bytes(run.path, path.stem))
    key, same, waiting = ray.put(run.header), installed(), deque[Any]()
    for part in _parts(run.tasks()):
        waiting.append(remote.remote([key], networks, same, part))
        while len(waiting) > AHEAD * max(1, slots(ray.cluster_resources(), {"CPU": 1.0})):
            yield from _answer(ray, waiting.popleft())
    while waiting:
        yield from _answer(ray, waiting.popleft())


def _parts(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    part: list[Task] = []
    size = 0
    for task in tasks:
        part.append(task)
        size += len(task[1]) + (0 if task[2] is None else task[2].value.nbytes)
        if len(part) >= LINES or size >= BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _answer(ray: Any, sent: Any) -> list[Result]:
    try:
        answer: list[Result] | str = ray.get(sent)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        why = " ".join(str(error).split())[:300]
        raise RejectedError("memory", f"a process of the judge was ended, as for want of it: {why}") from error
    if isinstance(answer, str):
        raise UsageError(answer)
    return answer


# ---------------------------------------------------------------- on the cluster's machines

_at_hand: dict[str, ProcessJudge] = {}  # of the run that this process judges


def _judged(header: list[Any], networks: dict[str, Any], same: dict[str, str], tasks: list[Task]) -> list[Result] | str:
    """What becomes of these lines. header: a reference to the run's, in a list so that it is not read before it is
    known that this machine is one of those that can; networks: references to the bytes of files."""
    text = other_installation(same)
    if text is not None:
        return text
    key = header[0].hex()
    if key not in _at_hand:
        said: parse.RunHeader = _get(header[0])
        _at_hand.clear()
        _at_hand[key] = judge_of(said, lambda sha256: _network(networks, sha256))
    return [_at_hand[key].measured(*task) for task in tasks]


def _network(networks: dict[str, Any], sha256: str) -> PlainNetwork:
    if sha256 not in networks:
        raise MalformedError(f"networks/{sha256}.safetensors", "cannot be read")
    return folder.network_of(_get(networks[sha256]), sha256)


def _get(reference: Any) -> Any:
    return importlib.import_module("ray").get(reference)
