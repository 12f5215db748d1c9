"""The house stands on floors: a room imports rooms of floors below its own, and nothing else (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("certmix", "verifiers", "proofs_check")
# from the top; rooms of one floor do not import each other, what lies within a room may
FLOORS: tuple[tuple[str, ...], ...] = (
    ("certmix.__main__",),
    ("certmix.commands",),
    ("certmix.experiments",),
    ("certmix.reports",),
    ("certmix.runs",),
    ("certmix", "certmix.testing.adapters", "certmix.integrations"),  # the face: names that users import
    ("certmix.provers",),
    ("certmix.attacks", "certmix.testing"),
    ("certmix.models", "certmix.settings", "certmix.installation"),
    ("certmix.data", "certmix.mixing", "certmix.records"),
    ("certmix.theorems",),
    ("certmix.errors", "certmix.formatting"),
    ("verifiers",),  # the table of engines
    ("verifiers.auto_lirpa",),
    ("verifiers.lipschitz", "verifiers.branching"),
    ("verifiers.crown", "verifiers.smoothing"),
    ("verifiers.network",),
    ("verifiers.layers",),
    ("verifiers.linear_forms",),
    ("verifiers.engine",),
    ("verifiers.perturbation",),
    ("verifiers.norms",),
    ("proofs_check.theorems",),  # beside the judge: statements for z3
    ("proofs_check.__main__",),
    ("proofs_check.run",),
    ("proofs_check.judge",),
    ("proofs_check.rules",),
    ("proofs_check.reading", "proofs_check.words"),
    ("proofs_check.kernel",),
    ("proofs_check.witness",),
    ("proofs_check.certificate", "proofs_check"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ABOVE_COMMANDS = ("certmix.__main__", "certmix.commands", "proofs_check.__main__")


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The longest prefix of `module` that is a room; single files of the top level stand for themselves."""
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(prefix for prefix in prefixes if prefix in FLOOR)


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at whatever depth, also for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if (node.module or "").split(".")[0] in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_a_file_imports_only_its_own_room_and_lower_floors(path: Path) -> None:
    room = room_of(module_of(path))
    upward = [
        f"{name} (room {room_of(name)})"
        for name in imported(path)
        if room_of(name) != room and FLOOR[room_of(name)] <= FLOOR[room]
    ]
    assert not upward, f"{module_of(path)} stands in {room} and imports upward: {', '.join(upward)}"


def test_only_commands_know_argparse() -> None:
    users = {module_of(path) for path in files() if "argparse" in _standard_modules(path)}
    stray = {module for module in users if not module.startswith(ABOVE_COMMANDS)}
    assert not stray


def test_only_commands_print() -> None:
    """What runs and provers have to say are values; the suite, a tool of its own, says how it goes."""
    users = {module_of(path) for path in files() if _prints(path)}
    stray = {m for m in users if not m.startswith((*ABOVE_COMMANDS, "certmix.testing", "certmix.reports"))}
    assert not stray - RENDERERS


RENDERERS = {"certmix.experiments.output"}  # tables on the terminal


def _prints(path: Path) -> bool:
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls) or any(
        isinstance(call.func, ast.Attribute) and call.func.attr == "print" for call in calls
    )


def _standard_modules(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_every_room_of_the_table_exists_and_every_folder_is_in_a_room() -> None:
    for room in FLOOR:
        place = ROOT.joinpath(*room.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), room
    for path in files():
        if len(path.relative_to(ROOT).parts) > 2:
            assert room_of(module_of(path)) not in PACKAGES, f"{path}: its folder is not in the table"


NORM_NAMES = {"Linf", "L2", "L1"}
NORMS_STAND_IN = {
    "proofs_check.certificate": "the type",
    "proofs_check.kernel.norms": "the judge's table",
    "verifiers.norms": "engines' and attacks' table",
    "certmix.settings": "a default",
    "certmix.integrations": "what Cohen's class certifies in",
    "certmix.commands.smoothing_bounds": "a default",
    "certmix.mixing.general": "a default",
    "certmix.testing.problem": "the suite reads the norms that anybody's certifier may write, L7 too",
    "certmix.testing.protocol": "a default",
    "certmix.testing.adapters.auto_lirpa": "a default",
    "certmix.testing.adapters.certmix_methods": "a default",
    "certmix.testing.adapters.certmix_smoothing": "what smoothing is asked in",
}


def _names_of_norms(path: Path) -> Iterator[int]:
    """Their lines; docstrings do not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in NORM_NAMES:
            yield node.lineno


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_a_norm_is_named_only_where_norms_have_their_rooms(path: Path) -> None:
    """Whoever needs to know asks the norm (docs/architecture.md)."""
    lines = list(_names_of_norms(path))
    assert bool(lines) == (module_of(path) in NORMS_STAND_IN), f"{path.relative_to(ROOT)}, lines {lines}"


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_nothing_is_decided_by_the_name_of_a_norm(path: Path) -> None:
    """No comparison, no table but the two, nor the suite's reader of names."""
    if module_of(path) in ("proofs_check.kernel.norms", "verifiers.norms", "certmix.testing.problem"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        deciding = isinstance(node, ast.Compare | ast.Dict | ast.match_case | ast.Subscript)
        if deciding and not (
            isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
        ):
            named = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in NORM_NAMES]
            assert not named, f"{path.relative_to(ROOT)}, line {node.lineno}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in files()}), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_folder_says_what_belongs_there(folder: Path) -> None:
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def test_an_import_upward_is_seen(tmp_path: Path) -> None:
    """The reader of imports sees nested ones and those for types."""
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from certmix.commands import audit\n"
        "def f():\n    import certmix.runs.store\n"
    )
    assert list(imported(path)) == ["certmix.commands.audit", "certmix.runs.store"]
