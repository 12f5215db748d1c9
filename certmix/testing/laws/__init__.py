"""The laws, in one literal order: soundness laws first (they decide), then quality laws (they warn)."""

from __future__ import annotations

from collections.abc import Sequence

from certmix.errors import UsageError
from certmix.testing.laws import quality, soundness, statistics
from certmix.testing.laws.law import Law

LAWS: tuple[Law, ...] = (*soundness.LAWS, *statistics.LAWS, *quality.LAWS, quality.RADIUS_LAW)


def laws_of(protocol: str, only: Sequence[str] = ()) -> list[Law]:
    """The laws of a protocol, or those of them named in `only`. Raises UsageError for a name that is not a law."""
    names = {law.name for law in LAWS}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(f"no law is named {unknown[0]!r}: choose from {', '.join(sorted(names))}")
    return [law for law in LAWS if protocol in law.protocols and (not only or law.name in only)]
