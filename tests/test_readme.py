"""README: short, its links lead somewhere, and its commands are commands. `test_imdb` runs them."""

import re
import shlex
from pathlib import Path

import pytest

from hpsearch.config import loading
from hpsearch.config.composition import compose

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
VARIABLES = {"TASK": "task", "MODEL": "model", "SEARCH": "search", "BUDGET": "budget", "STUDY": "study"}
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^make .*", TEXT, flags=re.MULTILINE)]


def test_it_is_read_in_three_minutes() -> None:
    lines = TEXT.splitlines()
    assert len(lines) < 110
    assert max(map(len, lines)) <= 120


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 10
    for link in links:
        name, _, anchor = link.partition("#")
        assert (ROOT / name).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_its_commands_are_targets_and_settings(command: list[str]) -> None:
    _, target, *given = command
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE), target
    overrides: list[str] = []
    for one in given:
        name, _, value = one.partition("=")
        overrides += shlex.split(value) if name == "ARGS" else [f"{VARIABLES[name]}={value}"]
    loading.load(compose(overrides))


def test_it_has_the_commands_of_the_first_hour() -> None:
    assert {command[1] for command in COMMANDS} >= {"sweep", "ui", "promote", "serve", "rollback"}
