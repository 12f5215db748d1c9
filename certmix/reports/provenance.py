"""What was examined, when and on what: the rows of a page's card, from what a run records of its files and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from certmix.reports.reading import AuditReport

NOT_RECORDED = "not recorded"
PARTS = (
    ("standard", "standard model g"),
    ("robust", "robust model h"),
    ("alpha_network", "network of α"),
    ("data", "data"),
)
MEANING = {
    "standard": "sha256 of the plain network that certificates name as g",
    "robust": "sha256 of the plain network that certificates name as h",
    "alpha_network": "sha256 of the plain network that certificates name as that of α",
    "data": "digest of exactly the inputs and labels used, in their order (FORMAT.md 2)",
}


@dataclass(frozen=True)
class Part:
    """One of g, h and the data. file: its name, size and how much of it was used; sha256: of that file as given.
    digest: what the certificates know it by, and meaning: what that is."""

    name: str
    file: str
    sha256: str
    digest: str
    meaning: str


def parts(report: AuditReport) -> list[Part]:
    header = report.header
    digests = {"standard": header["standard"], "robust": header["robust"], "data": header["dataset"]}
    of_alpha = (report.said["adaptive"] or {}).get("alpha")
    if of_alpha is not None and of_alpha["network"] is not None:
        digests["alpha_network"] = of_alpha["network"]
    sessions = whole(report)
    session = sessions[0] if sessions else {}
    parts_of_run: list[Part] = []
    for key, name in PARTS:
        if key not in digests:
            continue
        of: dict[str, Any] = session.get("files", {}).get(key, {})
        words = [PurePath(of["path"]).name, f"{of['bytes']:,} bytes"] if of else [NOT_RECORDED]
        if key == "data":
            words.append(_used(report, session.get("available")))
        digest = _digest(digests[key])
        parts_of_run.append(Part(name, ", ".join(words), of.get("sha256", NOT_RECORDED), digest, MEANING[key]))
    return parts_of_run


def _digest(named: str | dict[str, Any] | None) -> str:
    if isinstance(named, dict):
        return f"none, but the ONNX file {named['sha256']}"
    return named or "none: any model with as many classes may stand in its place"


def _used(report: AuditReport, available: int | None) -> str:
    if available is None:
        return f"{report.n} inputs, of how many is {NOT_RECORDED}"
    return f"all {available} inputs" if available == report.n else f"the first {report.n} of {available} inputs"


def circumstances(report: AuditReport) -> list[tuple[str, str]]:
    """(what, value): dates, versions, machine, the command that repeats the run; of several sessions the first, and
    what the others had otherwise."""
    sessions = whole(report)
    rows = [
        ("audited", " and ".join(_date(s) for s in sessions)),
        ("command that repeats it", " and ".join(dict.fromkeys(s["command"] for s in sessions))),
        ("versions", " and ".join(dict.fromkeys(_versions(s) for s in sessions))),
        ("machine", " and ".join(dict.fromkeys(_machine(s) for s in sessions))),
    ]
    return [(what, value or NOT_RECORDED) for what, value in rows]


def whole(report: AuditReport) -> list[dict[str, Any]]:
    """The sessions that hold all that is shown here; others are left out, as if they were not recorded."""
    sessions: list[dict[str, Any]] = []
    for session in report.provenance:
        try:
            files = [(f["path"] + f["sha256"], f["bytes"] + 0) for f in session["files"].values()]
            texts = [session["began"] + session["command"], _versions(session), _machine(session)]
        except (KeyError, TypeError, AttributeError):
            continue
        if files and texts:
            sessions.append(session)
    return sessions


def _date(session: dict[str, Any]) -> str:
    return str(session["began"]).replace("T", " ").replace("+00:00", " UTC")


def _versions(session: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in session["versions"].items())


def _machine(session: dict[str, Any]) -> str:
    of = session["machine"]
    return f"{of['processor']}, {of['cores']} cores, {of['system']}"
