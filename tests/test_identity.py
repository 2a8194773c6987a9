"""A study goes on with what it was begun with, or says what has changed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
import tracked
from hpsearch.config import stored
from hpsearch.errors import RequestError
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder

SETTINGS = make.compose_settings("budget.train_examples=1000")


def check(folder: Path, force: bool = False, test: str = "c" * 16, **budget: object) -> list[str]:
    settings = SETTINGS.model_copy(update={"budget": SETTINGS.budget.model_copy(update=budget)})
    return identity.check(StudyFolder(folder), settings, tracked.data_ref(folder, test), force)


def test_the_same_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        assert check(tmp_path) == []
    assert check(tmp_path, max_trials=99) == []


def test_other_settings_and_data_are_refused_even_if_forced(tmp_path: Path) -> None:
    check(tmp_path)
    before = StudyFolder(tmp_path).identity.read_text()
    for force in (False, True):
        with pytest.raises(RequestError, match=r"budget\.train_examples: \d+ -> 7"):
            check(tmp_path, force, train_examples=7)
        with pytest.raises(RequestError, match=r"data\.test: 'c+' -> 'd+'"):
            check(tmp_path, force, test="d" * 16)
    assert StudyFolder(tmp_path).identity.read_text() == before


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("_libraries", {"torch": "9.9"}, r"libraries\.torch: '[\d.]+' -> '9\.9'"),
        ("_code", {"training/trial": "0" * 16}, r"  - code: training/trial\n"),
        ("_code", {f"data/{n}": "0" * 16 for n in range(9)}, r"  - code: data/0, .*, data/4 and 4 more modules\n"),
    ],
)
def test_other_code_and_libraries_are_refused_or_forced_and_kept(
    part: str, changed: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path)
    before, real = StudyFolder(tmp_path).identity.read_text(), getattr(identity, part)()
    monkeypatch.setattr(identity, part, lambda: real | changed)
    with pytest.raises(RequestError, match=said) as caught:
        check(tmp_path)
    assert caught.value.exit_code == 2
    assert "--force" in str(caught.value)
    assert StudyFolder(tmp_path).identity.read_text() == before
    [kept] = check(tmp_path, force=True)
    assert kept.split(": ", 1)[1] == str(caught.value).splitlines()[1].removeprefix("  - ")
    assert check(tmp_path) == [kept], "it is kept, and needs no force again"
    assert json.loads(StudyFolder(tmp_path).identity.read_text())["forced"] == [kept]


@pytest.mark.parametrize(("written", "age"), [({}, "an older"), ({"format": identity.FORMAT + 1}, "a newer")])
def test_what_another_version_wrote_is_refused_even_if_forced(
    written: dict[str, int], age: str, tmp_path: Path
) -> None:
    check(tmp_path)
    path = StudyFolder(tmp_path).identity
    content = json.loads(path.read_text())
    assert content.pop("format") == identity.FORMAT
    path.write_text(json.dumps(content | written))
    with pytest.raises(RequestError, match=f"was written by {age} version"):
        check(tmp_path, force=True)


def test_a_study_of_modules_that_had_other_names_is_refused_or_forced_in_one_sentence(tmp_path: Path) -> None:
    check(tmp_path)
    path = StudyFolder(tmp_path).identity
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"code": {f"flat{n}": "0" * 16 for n in range(28)}}))
    with pytest.raises(RequestError, match="code: its modules had other names then") as caught:
        check(tmp_path)
    assert str(caught.value).count("\n  - ") == 1
    [kept] = check(tmp_path, force=True)
    assert "code: its modules had other names then" in kept
    assert json.loads(path.read_text())["code"] == identity.made_by()["code"]


def test_a_setting_that_came_later_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path)
    path = StudyFolder(tmp_path).identity
    content = json.loads(path.read_text())
    del content["settings"]["train"]["log_every"], content["settings"]["search"]["keep"]
    for dimension in content["settings"]["search"]["space"].values():
        del dimension["when"]
    path.write_text(json.dumps(content))
    former = {"train.log_every": SETTINGS.train.log_every, "search.keep": 0.99, "budget.max_trials": 1}
    monkeypatch.setattr(stored, "CAME_LATER", former)
    with pytest.raises(RequestError, match=r"  - search\.keep: 0\.99 -> [\d.]+\ngive"):
        check(tmp_path)
    monkeypatch.setitem(former, "search.keep", SETTINGS.search.keep)
    assert check(tmp_path) == []


def test_a_setting_that_is_gone_is_a_difference_where_it_meant_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path)
    path = StudyFolder(tmp_path).identity
    content = json.loads(path.read_text())
    content["settings"]["train"]["retired"] = 3
    path.write_text(json.dumps(content))
    monkeypatch.setattr(stored, "GONE", {"train.retired": 3})
    assert check(tmp_path) == []
    monkeypatch.setattr(stored, "GONE", {"train.retired": 2})
    with pytest.raises(RequestError, match=r"  - train\.retired: 3 -> None\n"):
        check(tmp_path)


@pytest.mark.parametrize("found", [4, 5, 6])
def test_every_format_from_the_oldest_on_is_read(found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path)
    path = StudyFolder(tmp_path).identity
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": found}))
    monkeypatch.setattr(identity, "FORMAT", 6)
    assert check(tmp_path) == []
    assert json.loads(path.read_text())["format"] == 6, "what it writes from here on, a former version can't read"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": found - 4}))
    with pytest.raises(RequestError, match=r"files have format [012], and this version reads 4 to 6;"):
        check(tmp_path)


PLAIN = '''
def double(x):
    """Twice."""
    assert x, "no number"
    if x < 0:
        raise ValueError(f"x={x}: is below 0", x) from None
    fault = f"{x} has no double" if x > 9 else "too much is too much"
    return 2 * x if "two" and not fault else f"{x}-{x}"
'''
REWORDED = """
def double(x):
    assert x
    if x < 0:
        raise ValueError("give a number that is not negative") from None
    fault = f"what is above {9} is not doubled" if x > 9 else "it can not be done"
    return 2 * x if "two" and not fault else f"{x}-{x}"
"""


@given(st.sampled_from(["# a comment", '"""A text."""', "", "   "]))
def test_words_for_people_are_no_change(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "a.py").write_text(PLAIN)
    (folder / "b.py").write_text(REWORDED.replace("(x):\n", f"(x):\n    {line}\n") + line.strip())
    bare = [identity._bare(folder / f"{name}.py") for name in "ab"]
    assert bare[0] == bare[1]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        *[("2 * x", "3 * x"), ("assert x", "assert -x"), ("x < 0", "x <= 0"), ("ValueError", "KeyError")],
        *[("two", "three"), ("{x}-{x}", "{x} {x}"), ("x > 9", "x > 8")],
    ],
)
def test_what_can_decide_a_result_is_a_change(before: str, now: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PLAIN)
    (tmp_path / "b.py").write_text(PLAIN.replace(before, now))
    assert PLAIN.count(before) >= 1
    assert identity._bare(tmp_path / "a.py") != identity._bare(tmp_path / "b.py")


def test_every_module_and_library_is_there() -> None:
    code = identity._code()
    assert {name.partition("/")[0] for name in code} == set(identity.PACKAGES)
    assert len(code) >= 20
    assert {"training/trial", "tasks/kind", "data/tokens"} <= code.keys()
    assert identity._libraries().keys() == set(identity.LIBRARIES)
