"""README and documents: README is short, links lead somewhere, commands are commands. `test_imdb` runs README's."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from hpsearch.config import loading
from hpsearch.config.composition import compose

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
READ = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
MODULES = sorted((ROOT / "src" / "hpsearch").rglob("*.py"))
LONGEST = 35  # words of a sentence
VARIABLES = {"TASK": "task", "MODEL": "model", "SEARCH": "search", "BUDGET": "budget", "STUDY": "study"}


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("make ")]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


def test_readme_is_read_in_three_minutes() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 110
    assert max(map(len, lines)) <= 120
    assert {command.split()[1] for command in commands_of(README)} >= {"sweep", "ui", "promote", "serve", "rollback"}


def sentences_of(page: Path) -> list[str]:
    """Of its prose: without code, tables and titles."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    blocks = re.split(r"\n\s*\n|\n(?=[-|#]|\d+\. )", text)
    prose = [" ".join(block.split()) for block in blocks if not block.lstrip().startswith(("|", "#"))]
    return [sentence for block in prose for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[])", block)]


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sentences_are_short(page: Path) -> None:
    assert [sentence for sentence in sentences_of(page) if len(sentence.split()) > LONGEST] == []


def docstrings_of(module: Path) -> list[str]:
    """Paragraphs of all docstrings of a module, and of the texts below its fields."""
    texts = [
        node.value.value
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return [
        " ".join(part.split()) for text in texts for part in re.split(r"\n\s*\n|\n(?=\s*[\w`]+:)|\n(?=\s*- )", text)
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(ROOT).as_posix())
def test_docstrings_have_short_sentences(module: Path) -> None:
    parts = [
        sentence for text in docstrings_of(module) for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`]|[a-z_]+: )", text)
    ]
    assert [sentence for sentence in parts if len(sentence.split()) > LONGEST] == []


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"[\w\-/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page != README}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_targets_and_settings(command: str) -> None:
    _, target, *given = shlex.split(command, comments=True)
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE), target
    overrides: list[str] = []
    for one in given:
        name, _, value = one.partition("=")
        if name == "ARGS" and ("--config-dir" in value or "<" in value):
            return  # a folder, or an id, that is the reader's
        parts = shlex.split(value) if name == "ARGS" else [f"{VARIABLES[name]}={value}"]
        overrides += [f"train.{part}" if target == "try" else part for part in parts if "=" in part]
    loading.load(compose(overrides))
