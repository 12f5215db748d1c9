"""python docs/site/build.py: the pages of docs/ as a site in out/site, warnings being errors.

To what is written there it adds the references of the Python API and of the command line, taken from the code, and a
page for every file of the source that a page links to: no link leads out of the site, and every link is checked.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from sphinx.cmd.build import main as sphinx

import certmix
from certmix.__main__ import COMMANDS, main, usage

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCE = "source"  # the folder of the site that holds files of the source
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".toml": "toml", ".v": "coq", ".json": "json"}
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md", "proofs_check/FORMAT.md")
FIRST = ("certify", "check", "load_model", "from_module", "load_data", "MixedClassifier", "Settings")


def build(out: Path) -> int:
    """The exit code of Sphinx; 0: no warning."""
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("site", "*.md"))
    for name, text in written().items():
        place = pages / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    shutil.copy(HERE / "conf.py", pages)
    os.environ.setdefault("SPHINX_BUILD_NO_COLOR", "1")
    return sphinx(["-q", "-W", "--keep-going", "-b", "html", "-d", str(out / "trees"), str(pages), str(out / "html")])


def written() -> dict[str, str]:
    """Every page of the site, by its place there."""
    found = {str(p.relative_to(ROOT / "docs")): p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md")}
    found |= {"api.md": api(), "options.md": options()}
    wanted = [*ALWAYS, *(target for place, text in found.items() for target in outside(f"docs/{place}", text))]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            text, home = page(name)
            found[place_of(name)] = text
            if (ROOT / home).suffix == ".md":  # code shows brackets that are no links
                wanted += outside(home, text)
    linked = {place: _aside(place) + text for place, text in found.items()}
    return {p: t if re.search(r"\.\w+\.md$", p) else with_moved_links(p, t) for p, t in sorted(linked.items())}


def _aside(place: str) -> str:
    """Pages of the source need not stand in a table of contents."""
    return "---\norphan: true\n---\n\n" if place.startswith(SOURCE) else ""


def with_moved_links(place: str, text: str) -> str:
    """Links of a page in the repository, as links of the page at `place` in the site."""
    home = f"docs/{place}" if not place.startswith(SOURCE) else place.removeprefix(f"{SOURCE}/")

    def moved(match: re.Match[str]) -> str:
        target = target_of(home, match[2])
        if target is None:
            return match[0]
        to = target.removeprefix("docs/") if target.startswith("docs/") else place_of(target)
        return match[1] + posixpath.relpath(to, posixpath.dirname(place) or ".") + match[3]

    return LINK.sub(moved, text)


def target_of(home: str, link: str) -> str | None:
    """What a link of the file `home` leads to in the repository; None where it leads to the web."""
    if ":" in link:
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link))
    if not (ROOT / target).exists() and target not in ("docs/api.md", "docs/options.md"):
        raise SystemExit(f"{home} links to {link}, which is not there")
    return target


def outside(home: str, text: str) -> list[str]:
    """Files and folders of the source, outside docs/, that a page links to."""
    found = (target_of(home, match[2]) for match in LINK.finditer(text))
    return [t for t in found if t is not None and not t.startswith("docs/")]


def place_of(name: str) -> str:
    if (ROOT / name).is_dir():
        return f"{SOURCE}/{name}/README.md"
    return f"{SOURCE}/{name}" if name.endswith(".md") else f"{SOURCE}/{name}.md"


def page(name: str) -> tuple[str, str]:
    """What the site shows of a file or folder of the source, and the file from which its links lead on."""
    path = ROOT / name
    if path.is_dir() and (path / "README.md").exists():
        return (path / "README.md").read_text(encoding="utf-8"), f"{name}/README.md"
    if path.is_dir():
        names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir() if p.name[0] not in "_.")
        return f"# {name}/\n\n" + "\n".join(f"- `{n}`" for n in names) + "\n", f"{name}/README.md"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text, name
    return f"# {name}\n\n`````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n`````\n", name


def api() -> str:
    """Every name that certmix hands out; its docstring says the rest."""
    parts = ["# Python\n", "What `import certmix` hands out, as its docstrings say it.\n"]
    for name in (*FIRST, *(n for n in certmix.__all__ if n not in FIRST and not n.startswith("_"))):
        value = getattr(certmix, name)
        home = getattr(value, "__module__", "")
        if not home.startswith("certmix"):  # a name for a choice of types
            parts.append(f"## {name}\n\n`{value}`\n")
            continue
        kind, members = ("autoclass", "\n   :members:") if isinstance(value, type) else ("autofunction", "")
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {home}.{name}{members}\n```\n")
    return "\n".join(parts)


def options() -> str:
    """What every command says with --help."""
    os.environ["COLUMNS"] = "100"
    parts = ["# Command line\n", f"```text\n{usage()}\n```\n"]
    for command in COMMANDS:
        said = io.StringIO()
        with redirect_stdout(said):
            try:
                main([command, "--help"])
            except SystemExit as stopped:
                if stopped.code:
                    raise
        parts.append(f"## certmix {command}\n\n```text\n{said.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(build(ROOT / "out" / "site"))
