"""Bounding engines, all untrusted: they answer `engine.MarginQuery`."""

from verifiers.auto_lirpa.engine import AutoLirpa
from verifiers.crown.engine import Crown
from verifiers.engine import Engine

ENGINES: dict[str, type[Engine]] = {
    "auto_lirpa": AutoLirpa,
    "crown": Crown,
}
