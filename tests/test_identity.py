"""A study goes on with what it was begun with, or says what has changed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
import tracked
from hpsearch.errors import RequestError
from hpsearch.state import identity

SETTINGS = make.compose_settings()


def check(folder: Path, force: bool = False, test: str = "c" * 16, **budget: object) -> list[str]:
    settings = SETTINGS.model_copy(update={"budget": SETTINGS.budget.model_copy(update=budget)})
    return identity.check(folder, settings, tracked.data_ref(folder, test), force)


def test_the_same_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        assert check(tmp_path) == []
    assert check(tmp_path, max_trials=99) == []


def test_other_settings_and_data_are_refused_even_if_forced(tmp_path: Path) -> None:
    check(tmp_path)
    before = (tmp_path / identity.IDENTITY).read_text()
    for force in (False, True):
        with pytest.raises(RequestError, match=r"budget\.train_examples: \d+ -> 7"):
            check(tmp_path, force, train_examples=7)
        with pytest.raises(RequestError, match=r"data\.test: 'c+' -> 'd+'"):
            check(tmp_path, force, test="d" * 16)
    assert (tmp_path / identity.IDENTITY).read_text() == before


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("_libraries", {"torch": "9.9"}, r"libraries\.torch: '[\d.]+' -> '9\.9'"),
        ("_code", {"training": "0" * 16}, r"code\.training: '\w{16}' -> '0{16}'"),
    ],
)
def test_other_code_and_libraries_are_refused_or_forced_and_kept(
    part: str, changed: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path)
    before, real = (tmp_path / identity.IDENTITY).read_text(), getattr(identity, part)()
    monkeypatch.setattr(identity, part, lambda: real | changed)
    with pytest.raises(RequestError, match=said) as caught:
        check(tmp_path)
    assert caught.value.exit_code == 2
    assert "--force" in str(caught.value)
    assert (tmp_path / identity.IDENTITY).read_text() == before
    [kept] = check(tmp_path, force=True)
    assert kept.split(": ", 1)[1] == str(caught.value).splitlines()[1].removeprefix("  - ")
    assert check(tmp_path) == [kept], "it is kept, and needs no force again"
    assert json.loads((tmp_path / identity.IDENTITY).read_text())["forced"] == [kept]


@pytest.mark.parametrize(("written", "age"), [({}, "an older"), ({"format": identity.FORMAT + 1}, "a newer")])
def test_what_another_version_wrote_is_refused_even_if_forced(
    written: dict[str, int], age: str, tmp_path: Path
) -> None:
    check(tmp_path)
    path = tmp_path / identity.IDENTITY
    content = json.loads(path.read_text())
    assert content.pop("format") == identity.FORMAT
    path.write_text(json.dumps(content | written))
    with pytest.raises(RequestError, match=f"was written by {age} version"):
        check(tmp_path, force=True)


PLAIN = '''
def double(x):
    """Twice."""
    return 2 * x
'''


@given(st.sampled_from(["# a comment", '"""A text."""', "", "   "]))
def test_words_for_people_are_no_change(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "a.py").write_text(PLAIN)
    (folder / "b.py").write_text(PLAIN.replace('"""Twice."""', f'"""Two times."""\n    {line}') + line.strip())
    (folder / "c.py").write_text(PLAIN.replace("2 * x", "3 * x"))
    bare = [identity._bare(folder / f"{name}.py") for name in "abc"]
    assert bare[0] == bare[1]
    assert bare[0] != bare[2]


def test_every_module_and_library_is_there() -> None:
    assert len(set(identity._code().values())) == len(identity.MODULES)
    assert identity._libraries().keys() == set(identity.LIBRARIES)
