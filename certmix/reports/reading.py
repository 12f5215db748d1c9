"""Everything that reports show of a run, read from its folder and worked out once.

What the judge accepted comes from the lines; what nobody judges is worked out again from the networks and inputs in the
folder, or labelled as the writer's word.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.records import assumptions, attack_archive
from certmix.reports import attacked, claims
from certmix.reports.accuracy import Share
from certmix.reports.attacked import MIX, G, H
from certmix.reports.inputs import Input, inputs_of
from certmix.reports.judged import Judged
from certmix.runs import provenance
from certmix.runs.finished import OpenedRun, opened
from certmix.runs.store import FINAL, OPAQUE, Store
from certmix.settings import ADDED, Settings
from proofs_check.certificate import Adaptive, Assumption

RECOMPUTED = "worked out for this report"
WRITERS = "as the writer says"
NEEDED = {field.name for field in dataclasses.fields(Settings)} - set(ADDED)  # of a header: its claim in words
# rules that hold for every g
BOUND_H = ("network_margin", "branched_margin", "engine_margin", "lipschitz_", "engine_lipschitz_")


@dataclass(frozen=True)
class Classes:
    """Classes (N,) that a model gives to the inputs, and whose word that is."""

    classes: tuple[int, ...]
    source: str


@dataclass(frozen=True, eq=False)
class AuditReport:
    """said: what every certificate says. inputs: one per line. values: (N, …) the inputs, None where the folder's
    cannot be read. clean: classes by model. reference: the radius at which accuracies under attack are compared: the
    one asked for, or the middle one of the radii certified as the label; None if there is none. attacked: whether the
    run looked for attacks on the mix. survivors: of g and h alone at the reference radius, by attacks of attack_steps
    steps made for the report; empty where there were none. refuted: indices of certificates that an attack contradicts.
    provenance: sessions, as in provenance.json. trouble: why something was not worked out, or ""."""

    path: Path
    header: dict[str, Any]
    audit: dict[str, Any]
    verdict: Judged | None
    said: dict[str, Any]
    inputs: tuple[Input, ...]
    values: NDArray[np.float32] | None
    clean: dict[str, Classes]
    reference: float | None
    attacked: bool
    survivors: dict[str, list[bool]]
    attack_steps: int
    refuted: tuple[int, ...]
    provenance: list[dict[str, Any]]
    trouble: str

    @property
    def settings(self) -> dict[str, Any]:
        return self.header["settings"]

    @property
    def g_without_gradients(self) -> bool:
        """Whether g ran in onnxruntime: attacks followed the gradients of h alone, and searched at random."""
        return OPAQUE in self.settings

    @property
    def labelled(self) -> bool:
        """Whether the inputs have labels; if not, nothing is known to be correct."""
        return any(i.label >= 0 for i in self.inputs)

    @property
    def n(self) -> int:
        return len(self.inputs)

    @property
    def assumptions(self) -> frozenset[Assumption]:
        """What the certificates that count rest on."""
        lines = [i.certificate for i in self.inputs if i.certificate is not None]
        return frozenset().union(*map(assumptions.of_line, lines))

    def right(self, model: str) -> list[bool]:
        """(N,) whether `model` gives the label at the input."""
        return [c == i.label for c, i in zip(self.clean[model].classes, self.inputs, strict=True)]

    def clean_share(self, model: str) -> Share | None:
        return Share(sum(self.right(model)), self.n, "counted") if model in self.clean else None

    def attacked_share(self, model: str) -> Share | None:
        """At most so many inputs keep their label at the reference radius; None where nothing was attacked."""
        if model in self.survivors:
            return Share(sum(self.survivors[model]), self.n, "most")
        radius = self.reference
        if model != MIX or radius is None or MIX not in self.clean or not self.attacked:
            return None
        kept = [
            ok and not (i.attack is not None and i.attack.radius <= radius)
            for ok, i in zip(self.right(MIX), self.inputs, strict=True)
        ]
        return Share(sum(kept), self.n, "most")

    def certified_share(self, model: str) -> Share | None:
        """At least so many inputs keep their label at the reference radius. Of h alone: a rule that holds for every g
        holds for one that prefers no class, and then the mix's class is h's."""
        least = 0.0 if self.reference is None else self.reference
        inputs = [i for i in self.inputs if i.counts and i.radius is not None and i.radius >= least]
        if model == H:
            inputs = [i for i in inputs if i.certificate and i.certificate["evidence"]["rule"].startswith(BOUND_H)]
        return None if model == G or (model == H and not inputs) else Share(len(inputs), self.n, "least")


def read(path: Path, verdict: Judged | None, attack_steps: int) -> AuditReport:
    """The report of the finished run in `path`. attack_steps: of the attacks on g and h alone, 0 for none. Raises
    UsageError unless the folder holds a finished audit."""
    store = Store(path)
    header, audit = _files(store)
    settings = header["settings"]
    inputs = inputs_of(store.lines(), verdict)
    said = claims.said(settings, header, inputs)
    reference = _reference(settings, inputs)
    values, survivors, refuted, trouble = None, dict[str, list[bool]](), list[int](), ""
    clean = _as_the_writer_says(audit, len(inputs))
    try:
        run = opened(path)
        if len(run.data) != len(inputs):
            raise UsageError(f"{path} holds {len(run.data)} inputs and {len(inputs)} lines")
        values = run.data.inputs
        clean |= _recomputed(run, said)
        if said["adaptive"] == settings.get("adaptive"):  # else of an earlier version, whose header did not say
            attacks = attacked.standing(run, attack_archive.read(path))
            inputs = tuple(dataclasses.replace(i, attack=attacks.get(i.index)) for i in inputs)
            refuted = attacked.refuted(run, inputs)
        if attack_steps and said["smoothing"] is None and any(i.label >= 0 for i in inputs):
            survivors = _survivors(run, reference, attack_steps)
    except UsageError as error:  # the judge says what is wrong with such a folder; the page is still one
        trouble = str(error)
    return AuditReport(
        path=path,
        header=header,
        audit=audit,
        verdict=verdict,
        said=said,
        inputs=inputs,
        values=values,
        clean=clean if any(i.label >= 0 for i in inputs) else {},
        reference=reference,
        attacked=bool(settings["attack_steps"]) and said["smoothing"] is None and not trouble,
        survivors=survivors,
        attack_steps=attack_steps if survivors else 0,
        refuted=tuple(sorted({*refuted, *(i.index for i in inputs if i.falsified)})),
        provenance=provenance.sessions(path),
        trouble=trouble,
    )


def _files(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """run.json and audit.json."""
    try:
        header = json.loads((store.path / "run.json").read_bytes())
        audit = json.loads((store.path / "audit.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{store.path} holds no finished audit: {error}") from None
    if not (store.path / FINAL).exists():
        raise UsageError(f"{store.path} holds an unfinished audit: run certmix audit again to go on")
    lacking = sorted(NEEDED - set(header["settings"]))
    if lacking:
        raise UsageError(f"{store.path}/run.json does not say {', '.join(lacking)}: it is no run of certmix audit")
    return header, audit


def _reference(settings: dict[str, Any], inputs: Sequence[Input]) -> float | None:
    if settings["radius"] is not None:
        return settings["radius"]
    radii = sorted(i.radius for i in inputs if i.counts and i.radius is not None)
    return radii[(len(radii) - 1) // 2] if radii else None


def _as_the_writer_says(audit: dict[str, Any], n: int) -> dict[str, Classes]:
    names = {"standard": G, "robust": H, "mix": MIX, "robust, not smoothed": "h alone, not smoothed"}
    predictions = {names[name]: tuple(p) for name, p in audit["predictions"].items() if name in names and len(p) == n}
    return {name: Classes(classes, WRITERS) for name, classes in predictions.items()}


def _recomputed(run: OpenedRun, said: dict[str, Any]) -> dict[str, Classes]:
    """Classes of the plain networks and their mix; not of one that is smoothed or whose weight is a module, whose draws
    or code are elsewhere."""
    x, mix = run.data.inputs, run.mix(said.get("alpha", run.settings.alpha), said["temperature"])
    if mix is not None and said["smoothing"] is None and said["adaptive"] == _plain(run.settings.adaptive):
        predictions = attacked.mix_classes(mix, x)
    else:
        name = H if said["smoothing"] is None else f"{H}, not smoothed"
        predictions = {name: attacked.classes(run.robust.module, x)}
        if run.standard is not None:
            predictions[G] = attacked.classes(run.standard.module, x)
    return {name: Classes(tuple(classes), RECOMPUTED) for name, classes in predictions.items()}


def _plain(adaptive: Adaptive | None) -> dict[str, Any] | None:
    return None if adaptive is None else dataclasses.asdict(adaptive)


def _survivors(run: OpenedRun, radius: float | None, steps: int) -> dict[str, list[bool]]:
    if radius is None or radius <= 0:
        return {}
    models = {H: run.robust.module} | ({} if run.standard is None else {G: run.standard.module})
    return {name: attacked.survivors(run, model, radius, steps) for name, model in models.items()}
