"""Every citation of a page of this repository, in code and in prose, leads to a heading or a file that is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import figures
import pytest

ROOT = Path(__file__).parent.parent
CITED = {"docs/maths.md": ROOT / "docs/maths.md", "FORMAT.md": ROOT / "proofs_check/FORMAT.md"}
NUMBERS = re.compile(r" (\d+[a-z]?(?:(?:, | and )\d+[a-z]?)*)\b")
ABSENT = ("MATH" + ".md", "DESIGN" + ".md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages_with(*endings: str) -> list[Path]:
    """The repository's own text files."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("the files of the project are listed by git")
    return [p for name in listed.stdout.split("\n") if (p := ROOT / name).is_file() and p.suffix in endings]


def headings(page: Path) -> set[str]:
    """Numbers of a page's headings: `## 3 …`, `### 3b …`, `## 11. …`."""
    return {m.group(1) for m in re.finditer(r"^#{2,3} (\d+[a-z]?)\.? ", page.read_text("utf-8"), re.MULTILINE)}


def anchors(page: Path) -> set[str]:
    """Anchors that a renderer makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def citations(text: str, page: str) -> Iterator[str | None]:
    """The numbers cited after each mention of `page`, None where there is none. Links and names in backticks are no
    citations."""
    for place in re.finditer(r"(?<!\]\()(?<![\w/\[.`])(?:proofs_check/)?" + re.escape(page) + r"(?!\w)", text):
        found = NUMBERS.match(text, place.end())
        yield from re.split(r", | and ", found.group(1)) if found else [None]


def faults(text: str) -> list[str]:
    """What is wrong with the citations of a text of code or prose."""
    found = [f"{name} is not in the repository" for name in ABSENT if name in text]
    for page, path in CITED.items():
        there = headings(path)
        for number in citations(text, page):
            if number is None and page == "docs/maths.md":
                found.append(f"{page} is cited without the number of a section")
            elif number is not None and number not in there:
                found.append(f"{page} {number} is no heading of that page")
    return found


def dead_links(page: Path) -> list[str]:
    dead: list[str] = []
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    return dead


def test_every_citation_in_code_and_prose_resolves_to_a_heading() -> None:
    pages = pages_with(".py", ".md", ".toml", ".yaml", ".html")
    texts = {p: p.read_text("utf-8") for p in pages if p != Path(__file__)}
    assert {str(p.relative_to(ROOT)): f for p, text in texts.items() if (f := faults(text))} == {}
    cited = [n for text in texts.values() for n in citations(text, "docs/maths.md")]
    assert len(cited) >= 30, "the pattern no longer finds the citations"


def test_every_link_between_pages_leads_somewhere() -> None:
    assert {str(p.relative_to(ROOT)): dead for p in pages_with(".md") if (dead := dead_links(p))} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Source: docs/maths.md 3b, the chord.", 0),
        ("(docs/maths.md 2 and 3), docs/maths.md 5, 6", 0),
        ("Source: docs/maths.md 3z.", 1),
        ("the chord (docs/maths.md 3z)", 1),
        ("[maths](docs/maths.md), `docs/maths.md`", 0),
        ("Source: docs/maths.md 2 and 77.", 1),
        ("Source: docs/maths.md, the chord.", 1),
        ("see FORMAT.md 99", 1),
        ("see proofs_check/FORMAT.md 99", 1),
        ("see FORMAT.md", 0),
        (f"Source: {ABSENT[0]} 3b", 1),
        (f"Source: {ABSENT[1]}", 1),
    ],
)
def test_a_citation_that_leads_nowhere_is_found(text: str, expected: int) -> None:
    assert len(faults(text)) == expected


@pytest.mark.parametrize("name", figures.SAID)
def test_figures_of_the_results_are_those_that_benchmarks_wrote(name: str) -> None:
    """`python tests/figures.py` prints what the page should say."""
    page = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    assert [said for said in figures.SAID[name]() if " ".join(said.split()) not in page] == []


def test_figures_of_the_readme_are_among_the_results() -> None:
    one_pass, branching = r"(\|(?:[^|]*\|){3})", r"((?:[^|]*\|){3})"
    rows = re.findall(
        rf"^\| \S+, ℓ∞ [^|]*{one_pass}{branching}$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == 4
    assert {row for row, _ in rows} <= set(figures.audits())
    branched = [row for _, row in rows if "–" not in row]
    assert branched == list(figures.branching_in_short())
    by_design = re.findall(
        r"^\| digits, ℓ2 .* \| – / – / (\S+) \| – \| (\S+) \|", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    clean, near, far = dict(figures.lipschitz_mixes())[".75, 10"].removesuffix(" |").split(" | ")
    assert by_design == [(clean, near), (clean, far)]


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[here](#a-page) [gone](gone.md) [nowhere](#nowhere) [out](https://a.b)\n", "utf-8")
    assert dead_links(page) == ["gone.md", "#nowhere"]
