"""A run's folder beside the model and data files that somebody brings: are these the networks, inputs and labels that
its certificates speak of?

A network is the same if the plain network that the ONNX file gives has the digest that the run names; inputs are the
same if their float32 values are, bit for bit. The judge ties every certificate to these digests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certmix.data.dataset import Dataset, load_data
from certmix.errors import UsageError
from certmix.formatting import upper
from certmix.runs.provenance import GivenFile
from certmix.runs.store import ENDS, LABELS, OPAQUE, scaling
from proofs_check.certificate import MalformedError, ModelFile, PlainNetwork
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE

WHAT = ("standard", "robust", "data")
NAMED = 5  # differences that are spelled out
PROBED = 64  # inputs on which a network is compared with onnxruntime


@dataclass(frozen=True)
class Compared:
    """One file beside the run. what: standard, robust or data; alpha: a network of the run's own, of an alpha that
    depends on the input. same: None where there is nothing to compare. words: one sentence if it is the same, else one
    per difference."""

    what: str
    file: str
    bytes: int
    sha256: str
    same: bool | None
    words: tuple[str, ...]


def compare(
    path: Path,
    standard: Path | None,
    robust: Path | None,
    data: Path | None,
    limit: int | None,
    labels: str | None = None,
    allow_code: bool = False,
) -> tuple[Compared, ...]:
    """The run in `path` beside the files given. limit: of the data file, its first inputs only. labels: as of
    `load_data`; None: as the run was told. allow_code: as of `load_model`.

    Raises UsageError where a file, or the folder, cannot be read.
    """
    if data is None and (limit is not None or labels is not None):
        raise UsageError(f"--{'labels' if limit is None else 'limit'} is about --data: give both, or neither")
    try:
        header = parse.run_header(folder.header_bytes(path))
        told = labels or header.settings.get(LABELS)
        dataset = None if data is None else load_data(data, limit, scaling(header.settings) or _domain(header), told)
        comparisons: list[Compared] = []
        for what, file, digest in (("standard", standard, header.standard), ("robust", robust, header.robust)):
            if file is not None:
                kept = header.settings.get(OPAQUE) if what == "standard" else None
                found = _network(path, header, what, file, digest or kept, dataset, allow_code)
                comparisons.append(_compared(what, file, *found))
        if dataset is not None and data is not None:
            differences = list(_data_differences(list(folder.rows(path)), dataset))
            text = f"{'the first' if limit else 'all'} {len(dataset)} inputs and labels of {data} are those of the run"
            comparisons.append(_compared("data", data, not differences, differences or [text]))
        for digest in _alpha_networks(path):
            alpha_path = path / "networks" / f"{digest}.safetensors"
            comparisons.append(
                _compared("alpha", alpha_path, None, [f"the network of a(x), {alpha_path}, is not compared"])
            )
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    except MalformedError as error:
        raise UsageError(f"{path}: {error}") from error
    return tuple(comparisons)


def all_same(found: tuple[Compared, ...]) -> bool:
    return all(each.same is not False for each in found)


def verdict(found: tuple[Compared, ...]) -> list[str]:
    """Lines to print: every file, and what follows."""
    shown = [f"{'' if each.same is not False else 'DIFFERS: '}{text}" for each in found for text in each.words]
    if not all_same(found):
        return [*shown, "The run is not about these files."]
    same = [each.what for each in found if each.same]
    not_compared = [
        what for what in (*WHAT, *(each.what for each in found if each.what not in WHAT)) if what not in same
    ]
    if not not_compared:
        return [*shown, "These are your models and your data."]
    return [*shown, f"The same as yours: {', '.join(same) or 'nothing'}; not compared: {', '.join(not_compared)}."]


def _compared(what: str, file: Path, same: bool | None, words: list[str]) -> Compared:
    of = GivenFile.of(file)
    return Compared(what, str(file), of.bytes, of.sha256, same, tuple(words))


def _domain(header: parse.RunHeader) -> tuple[float, float] | None:
    """That of the run: it says what uint8 data mean. (The judge holds it against every certificate.)"""
    stored = header.settings.get("domain")
    return None if stored is None else parse.read(tuple[float, float], stored, "run.json.settings.domain")


def _network(
    path: Path,
    header: parse.RunHeader,
    what: str,
    file: Path,
    named: str | ModelFile | None,
    data: Dataset | None,
    allow_code: bool,
) -> tuple[bool | None, list[str]]:
    """named: the run's network, or its model that ran in onnxruntime."""
    if named is None:
        return None, [f"{file} is not compared: the run names no standard network, its certificates hold for any"]
    from certmix.models.model import load_asked  # with torch and onnx, which the comparison of data does without
    from certmix.models.onnx.ends import Asked

    h, digest = header.robust, named.sha256 if isinstance(named, ModelFile) else named
    shape = h.input_shape if isinstance(h, ModelFile) else folder.network(path, h).input_shape
    asked = parse.read(dict, header.settings.get(ENDS, {}), f"run.json.settings.{ENDS}").get(what)
    known = None if asked is None else {**dataclasses.asdict(Asked()), **asked}  # what older runs could not be asked
    end = Asked() if known is None else parse.read(Asked, known, f"run.json.settings.{ENDS}.{what}")
    probed = None if data is None else data.inputs[:PROBED]
    model = load_asked(file, shape, end, probed, allow_code)
    if model.onnx is not None and hashlib.sha256(model.onnx).hexdigest() == digest:
        told = "certificates" if isinstance(named, ModelFile) else "accuracies and attacks"
        return True, [f"{file} is the {what} model {digest} that the run's {told} speak of"]
    if isinstance(named, ModelFile) or header.settings.get(OPAQUE) == digest:
        return False, [f"{file} is not the {what} model of the run, {digest}"]
    if model.network is None:
        return False, [f"{file} is not the network of the run: it has no plain network ({model.no_network})"]
    network = model.network
    if network.sha256 == digest:
        differs = upper(model.faithfulness, 2)
        return True, [
            f"{file} is the network {digest} of the run (largest difference from onnxruntime seen: {differs})"
        ]
    return False, [f"{file} is not the network of the run: {_first_difference(folder.network(path, digest), network)}"]


def _alpha_networks(path: Path) -> list[str]:
    """Those that lines name. (What is wrong with a line the judge says.)"""
    named: set[str] = set()
    for data in folder.lines(path):
        with contextlib.suppress(MalformedError):
            line = parse.line(data, EVIDENCE)
            if isinstance(line, parse.Certificate) and line.claim.alpha_network is not None:
                named.add(line.claim.alpha_network)
    return sorted(named)


def _first_difference(held: PlainNetwork, own: PlainNetwork) -> str:
    if (held.input_shape, held.classes) != (own.input_shape, own.classes):
        there, here = (f"{n.input_shape} -> {n.classes} classes" for n in (held, own))
        return f"the run's is {there}, yours {here}"
    if len(held.nodes) != len(own.nodes):
        return f"the run's has {len(held.nodes)} nodes, yours {len(own.nodes)}"
    for k, (there, here) in enumerate(zip(held.nodes, own.nodes, strict=True)):
        if type(there) is not type(here):
            return f"node {k} is {type(there).__name__} in the run, {type(here).__name__} in yours"
        for field in dataclasses.fields(there):
            a, b = getattr(there, field.name), getattr(here, field.name)
            if not np.array_equal(a, b):
                by = f" by up to {upper(float(np.abs(a - b).max()), 3)}" if np.shape(a) == np.shape(b) != () else ""
                return f"{field.name} of node {k} ({type(there).__name__}) differs{by}"
    return "the same values are stored otherwise: export it as the audited model was"


def _data_differences(rows: list[folder.Row], own: Dataset) -> Iterator[str]:
    shape = rows[0].value.shape
    if shape != own.inputs.shape[1:]:
        yield f"{own.source}: inputs have shape {own.inputs.shape[1:]}, in the run {shape}"
        return
    run_digests, yours = ([parse.array_sha256(v) for v in values] for values in ([r.value for r in rows], own.inputs))
    if len(run_digests) != len(yours):
        text = f"{own.source}: {len(yours)} inputs, in the run {len(run_digests)}"
        if run_digests == yours[: len(run_digests)]:
            yield f"{text}, its first: say --limit {len(run_digests)} if no more were to be audited"
            yours = yours[: len(run_digests)]
        else:
            yield text
    first_place = {digest: k for k, digest in reversed(list(enumerate(yours)))}
    places = [k if yours[k : k + 1] == [digest] else first_place.get(digest) for k, digest in enumerate(run_digests)]
    there = set(run_digests)
    missing = [f"{own.source}: input {k} is not in the run" for k, digest in enumerate(yours) if digest not in there]
    others = [
        f"input {k} of the run is {'not in' if place is None else f'input {place} of'} {own.source}"
        for k, place in enumerate(places)
        if place != k
    ]
    labels = [
        f"{own.source}: the label of input {place} is {own.labels[place]}, in the run {row.label}"
        for place, row in zip(places, rows, strict=True)
        if place is not None and row.label != own.labels[place]
    ]
    for sentences in (missing, others, labels):
        yield from sentences[:NAMED]
        if len(sentences) > NAMED:
            yield f"and {len(sentences) - NAMED} more such inputs"
