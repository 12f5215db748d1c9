"""Bounding engines, all untrusted: they answer `engine.MarginQuery`."""

from verifiers.auto_lirpa import AutoLirpa
from verifiers.crown import Crown
from verifiers.engine import Engine

ENGINES: dict[str, type[Engine]] = {
    "auto_lirpa": AutoLirpa,
    "crown": Crown,
}
