"""A run's folder, opened again: settings, networks, inputs, archived bounds, certificates."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, mix_of
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import Model, reopened
from certmix.records import bound_archive
from certmix.runs.store import FINAL, MODELS, OPAQUE, Store
from certmix.settings import Settings, with_added
from proofs_check.certificate import Digest, MalformedError, ModelFile
from proofs_check.reading import folder, parse
from verifiers.network.module import PlainModule


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """certified: the certified lines, as plain objects. archive: every bound the run kept."""

    path: Path
    settings: Settings
    standard: Model
    robust: Model
    data: Dataset
    archive: bound_archive.BoundArchive
    certified: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """What a run was about. standard: None where the folder does not hold g, a torch module without plain network.
    adaptive: the mix that settings.adaptive is about; None where its alpha is no network, either."""

    settings: Settings
    standard: Model | None
    robust: Model
    data: Dataset
    adaptive: AdaptiveMix | None = None

    def mix(self, alpha: float, temperature: float) -> MixedClassifier | None:
        """The classifier that certificates are about (without smoothing); None where the folder holds only a part of
        it. alpha: where it does not depend on the input."""
        s = self.settings
        if self.standard is None or (s.adaptive is not None and self.adaptive is None):
            return None
        standard, robust = self.standard.module, self.robust.module
        if self.adaptive is None:
            return MixedClassifier(standard, robust, alpha, temperature)
        return self.adaptive.classifier(standard, robust, temperature)


def opened(path: Path) -> OpenedRun:
    """The finished run in `path`, from nothing but the folder. Raises UsageError."""
    if not (path / FINAL).exists():
        raise UsageError(f"{path} holds no finished audit: run certmix audit, again if it was interrupted")
    try:
        header = parse.run_header((path / "run.json").read_bytes())
        standard = _opaque(path, header) if header.standard is None else _stated(path, header.standard)
        robust = _stated(path, header.robust)
        rows = list(folder.rows(path))
        settings = _settings(header.settings)
        said = settings.adaptive
        adaptive = None if said is None else mix_of(said, settings.alpha, lambda digest: folder.network(path, digest))
    except MalformedError as error:
        raise UsageError(f"{path}: {error}") from error
    inputs = np.stack([r.value for r in rows])
    data = Dataset(inputs, np.array([r.label for r in rows], dtype=np.int64), str(path / "inputs.npz"))
    return OpenedRun(settings, standard, robust, data, adaptive)


def open_inputs(path: Path) -> tuple[Settings, Model, Model, Dataset]:
    """Settings, g, h and data of the finished run in `path`. Raises UsageError, also where g is not there."""
    run = opened(path)
    if run.standard is None:
        raise UsageError(f"{path} does not hold the standard model, which the mix's accuracy needs")
    return run.settings, run.standard, run.robust, run.data


def open_run(path: Path) -> FinishedRun:
    """The finished run in `path` with its archive of bounds. Raises UsageError."""
    settings, standard, robust, data = open_inputs(path)
    archive = bound_archive.read(path)
    if len(archive.index) and (archive.index.max() >= len(data) or archive.upper.shape[1] != robust.classes):
        raise UsageError(f"{path / bound_archive.FOLDER} belongs to another run: audit again")
    lines = tuple(r for r in Store(path).lines() if r["outcome"] == "certified")
    return FinishedRun(path, settings, standard, robust, data, archive, lines)


def _stated(path: Path, named: str | ModelFile) -> Model:
    return kept(path, named.sha256) if isinstance(named, ModelFile) else _model(path, named)


def _model(path: Path, sha256: str) -> Model:
    network = folder.network(path, sha256)
    name = f"{path}/networks/{sha256}.safetensors"
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, name, 0.0)


def _opaque(path: Path, header: parse.RunHeader) -> Model | None:
    """A g that has no plain network, as onnxruntime runs it; None where it was no ONNX file. Raises UsageError,
    MalformedError."""
    if OPAQUE not in header.settings:
        return None
    return kept(path, parse.read(Digest, header.settings[OPAQUE], f"run.json.settings.{OPAQUE}"))


def kept(path: Path, sha256: str) -> Model:
    """The model of an ONNX file that a run keeps, as onnxruntime runs it. Raises UsageError."""
    file = path / MODELS / f"{sha256}.onnx"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(f"{file} is not the model of the run: its digest differs")
    return reopened(data, str(file))


def _settings(stored: dict[str, Any]) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)}
    try:
        return parse.read(Settings, {n: v for n, v in with_added(stored).items() if n in names}, "run.json.settings")
    except MalformedError as error:
        raise UsageError(f"written by another version of certmix ({error}): audit again") from error
