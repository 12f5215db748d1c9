"""Which packages are there, in which versions, and which kind of auto_LiRPA this is."""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement

from certmix.errors import UsageError
from certmix.installation.finding import Finding

ASIDE = {"dev", "docs"}  # extras for those who change certmix


def findings() -> list[Finding]:
    """Python, every package that certmix asks for, every extra as a whole, auto_LiRPA."""
    try:
        asked = [Requirement(text) for text in metadata.requires("certmix") or []]
        pythons = metadata.metadata("certmix")["Requires-Python"]
    except metadata.PackageNotFoundError:
        raise UsageError(
            "certmix is not installed here, it only lies on the path: pip install it, so that its needs are known"
        ) from None
    version = ".".join(map(str, sys.version_info[:3]))
    found = [_of("python", version, Requirement(f"python{pythons}"), "wrong", "make an environment with it")]
    found += [_required(r, "wrong", f"pip install '{r}'") for r in asked if not r.marker]
    extras = [e for e in metadata.metadata("certmix").get_all("Provides-Extra") or [] if e not in ASIDE]
    return [*found, *(_extra(extra, asked) for extra in extras), _auto_lirpa()]


def _required(need: Requirement, otherwise: str, way_out: str) -> Finding:
    return _of(need.name, _version(need.name), need, otherwise, way_out)


def _of(name: str, version: str | None, need: Requirement, otherwise: str, way_out: str) -> Finding:
    good = version is not None and need.specifier.contains(version, prereleases=True)
    words = version or "not installed"
    if good:
        return Finding(name, "ok", words)
    return Finding(name, "wrong" if otherwise == "wrong" else "note", f"{words}; {need} is needed", way_out)


def _extra(extra: str, asked: list[Requirement]) -> Finding:
    """One line for each extra: what it lacks."""
    of_it = [r for r in asked if r.marker and r.marker.evaluate({"extra": extra})]
    lacking = [f.of for r in of_it if (f := _required(r, "note", "")).state != "ok"]
    if lacking:
        return Finding(f"certmix[{extra}]", "note", f"lacks {', '.join(lacking)}", f"pip install 'certmix[{extra}]'")
    return Finding(f"certmix[{extra}]", "ok", ", ".join(f"{r.name} {_version(r.name)}" for r in of_it))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _auto_lirpa() -> Finding:
    from verifiers.auto_lirpa import compat
    from verifiers.engine import EngineError

    try:
        lirpa = compat.load()
    except EngineError as error:
        reason, _, way_out = str(error).partition("; ")
        return Finding("auto_LiRPA", "note", reason, way_out or compat.REMEDY)
    version = getattr(lirpa, "__version__", "of unknown version")
    if compat.is_old(lirpa):
        words = "as released on PyPI: bounds and slopes, repaired for this torch; no bounds of Jacobians"
        return Finding("auto_LiRPA", "ok", f"{version}, {words}")
    return Finding("auto_LiRPA", "ok", f"{version}, upstream: bounds, slopes, and bounds of Jacobians")
