"""What the pages of docs/ show works as shown: Python and shell blocks run, commands parse, names and links exist."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from certmix.__main__ import COMMANDS
from certmix.commands.parsing import Parser
from certmix.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EVERYWHERE = [
    *PAGES,
    ROOT / "README.md",
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
FIRST_HOUR = DOCS / "first-hour.md"  # replayed by test_first_hour.py
RUN = ("your-own-models.md", "branching.md", "lipschitz.md")  # whose blocks are run here


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_every_page_with_blocks_to_run_is_run():
    found = {p.name for p in PAGES if p != FIRST_HOUR and (blocks(p, "python") or blocks(p, "sh"))}
    assert found == set(RUN)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with g.onnx, h.onnx and images.npz, as the pages have it."""
    folder = tmp_path_factory.mktemp("pages")
    digits = ROOT / "examples" / "digits"
    for name, source in (("g.onnx", "standard.onnx"), ("h.onnx", "robust.onnx"), ("images.npz", "audit.npz")):
        (folder / name).symlink_to(digits / source)
    return folder


@pytest.mark.parametrize("name", RUN)
def test_blocks_run(name: str, pair: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pair)
    for code in blocks(DOCS / name, "python"):
        exec(compile(code, name, "exec"), {"__name__": "page"})
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    for script in blocks(DOCS / name, "sh"):
        for line in commands(script):
            done = subprocess.run(
                [sys.executable, "-m", *line], env=surroundings, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout}{done.stderr}"


def commands(text: str) -> list[list[str]]:
    """Every `certmix …` of shell text, as words; comments and prompts are left out."""
    joined = text.replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [shlex.split(line, comments=True) for line in lines if re.match(r"certmix [a-z]", line)]


def shown() -> Iterator[tuple[Path, list[str]]]:
    """Commands of all pages: fenced or indented blocks, and `certmix … --option …` in the text."""
    for page in EVERYWHERE:
        text = page.read_text()
        fenced = re.findall(r"^```(?:sh|console|text)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        indented = re.findall(r"(?:^ {4,}.*\n?)+", text, flags=re.MULTILINE)
        for block in (*fenced, *indented):
            for words in commands(block):
                if words[1] in COMMANDS and "…" not in " ".join(words):
                    yield page, words


def test_every_command_shown_is_one_that_certmix_reads():
    """Options are known, values have their form; what files hold is not looked at."""
    seen = 0
    for page, (_, command, *words) in shown():
        parser = Parser(prog=command, allow_abbrev=False)
        importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
        words = ["tradeoff" if w == "NAME" else re.sub(r"[)>|].*", "", w) for w in words if w not in ("|", ">")]
        try:
            with contextlib.suppress(SystemExit):  # --help
                parser.parse_intermixed_args(words)
        except UsageError as error:
            pytest.fail(f"{page.relative_to(ROOT)}: certmix {command} {shlex.join(words)}: {error}")
        seen += 1
    assert seen > 30


def test_every_name_of_the_code_that_a_page_shows_exists():
    """`certmix.provers.certify` and the like."""
    for page in EVERYWHERE:
        for name in set(re.findall(r"`((?:certmix|verifiers|proofs_check)(?:\.\w+)+)`", page.read_text())):
            assert exists(name), f"{page.relative_to(ROOT)}: {name}"


def test_every_file_of_the_source_that_a_page_names_exists():
    for page in EVERYWHERE:
        folders = "benchmarks|examples|tests|docs|certmix|verifiers|proofs_check"
        for file in set(re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text())):
            assert "PAIR" in file or (ROOT / file).exists(), f"{page.relative_to(ROOT)}: {file}"


def exists(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        try:
            for attribute in parts[cut:]:
                value = getattr(value, attribute)
        except AttributeError:
            return False
        return True
    return False


def test_every_link_leads_to_a_file_of_the_repository():
    for page in EVERYWHERE:
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", page.read_text()):
            target = (page.parent / link).resolve()
            generated = target.parent == DOCS and target.name in ("api.md", "options.md")
            assert target.exists() or generated, f"{page.relative_to(ROOT)}: {link}"


def test_the_night_that_is_shown_is_the_one_that_was_measured():
    figures = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text())["figures"]
    (night,) = [figure for figure in figures if figure["case"] == "night"]
    assert night["every_input_once"]
    shown = "".join(f"    {line}\n" for line in night["transcript"])
    text = (DOCS / "scale.md").read_text()
    assert shown in text
    assert f"{round(night['seconds'])} s in all" in text
