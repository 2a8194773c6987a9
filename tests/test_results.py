"""Results as they are written and read: whole, from former files, with keys that one side alone knows, damaged."""

import json
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from hpsearch.errors import RequestError
from hpsearch.registry import champions
from hpsearch.registry.champions import Change
from hpsearch.registry.gate import GateDecision
from hpsearch.report import page
from hpsearch.state import codec
from hpsearch.state.facts import Facts
from hpsearch.state.measured import Answers, Measured, Mistake, Reading
from hpsearch.state.origin import Origin
from hpsearch.state.outcome import OnTest, StudyRun, Summary, Winner
from make import compose_settings
from test_report import Study

ARCHIVE = Path(__file__).parent / "stored" / "studies.tar.xz"
KINDS: dict[str, type] = {
    r"studies/\w+/summary\.json": Summary,
    r"artifacts/summary\.json": Summary,
    r"studies/\w+/test\.json": Reading,
    r"studies/\w+/published\.json": StudyRun,
    r"artifacts/origin\.json": Origin,
    r"_answers\.json": Answers,
    r"promotion/[^/]+\.json": GateDecision,
}

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.text(), PLAIN, max_size=3)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(Winner, st.builds(Winner, fitted=OBJECTS))
st.register_type_strategy(Mistake, st.builds(Mistake, truth=PLAIN, answer=PLAIN))
rows = st.lists(st.tuples(st.text(), PLAIN, PLAIN), max_size=3).map(tuple)
st.register_type_strategy(Answers, st.builds(Answers, data=rows))
STRATEGIES: dict[type, st.SearchStrategy[Any]] = {
    Summary: st.builds(Summary),
    Reading: st.builds(Reading, winner=st.builds(Measured), reference=st.none() | st.builds(Measured)),
    Facts: st.builds(Facts),
    Origin: st.builds(Origin, settings=OBJECTS),
    Change: st.builds(Change),
    GateDecision: st.builds(GateDecision, rule=st.just(compose_settings().promotion)),
}


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_a_result_comes_back_from_json(kind: type) -> None:
    @limits(max_examples=25, deadline=None)
    @given(STRATEGIES[kind])
    def comes_back(result: Any) -> None:
        text = codec.write(result)
        assert codec.read(kind, text, "here", "") == result
        assert codec.write(codec.read(kind, text, "here", "")) == text

    comes_back()


def stored(kind: type) -> Iterator[tuple[str, str]]:
    """(name, text) of the results of a kind that format 4 has left."""
    with tarfile.open(ARCHIVE) as archive:
        for member in archive.getmembers():
            if any(re.search(f"{pattern}$", member.name) for pattern, found in KINDS.items() if found is kind):
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read().decode()


def covered(former: Any, now: Any) -> bool:
    """Whether all that was there is there, in the same order; objects may have more keys."""
    if isinstance(former, dict):
        kept = [key for key in now if key in former]
        return kept == list(former) and all(covered(former[key], now[key]) for key in former)
    if isinstance(former, list):
        return len(former) == len(now) and all(map(covered, former, now))
    return bool(former == now)


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS.values()), ids=lambda kind: kind.__name__)
def test_what_format_4_has_left_is_read_and_keeps_its_keys(kind: type) -> None:
    found = list(stored(kind))
    assert len(found) >= 2
    for name, text in found:
        again = codec.write(codec.read(kind, text, name, ""))
        assert covered(json.loads(text), json.loads(again)), name


def test_the_changes_of_champion_of_format_4_are_read(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("home/mlflow.db", tmp_path, filter="data")
    with sqlite3.connect(tmp_path / "home" / "mlflow.db") as database:
        tags = dict(database.execute("SELECT key, value FROM registered_model_tags"))
    database.close()
    changes = [codec.read(Change, text, key, "") for key, text in tags.items() if key.startswith(champions.EVENT)]
    assert [change.version for change in changes] == [1, 2]
    assert changes[1].previous == 1
    assert not any(change.pending for change in changes)


def test_keys_that_came_later_mean_what_was_done_before() -> None:
    whole = codec.plain(Study().typed())
    del whole["phases"], whole["hardware"]["compile"], whole["hardware"]["on_a_gpu"]
    found = codec.read(Summary, json.dumps(whole), "summary.json", "")
    assert found.phases == ()
    assert (found.hardware.compile, found.hardware.on_a_gpu) == (False, 1)
    change = codec.plain(Change("now", 2, 1, "second", "by better", "it is", pending=True))
    del change["pending"]
    assert not codec.read(Change, json.dumps(change), "a tag", "").pending


def test_keys_of_a_newer_version_are_passed_over() -> None:
    def with_more(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_more(child) for key, child in value.items()} | {"of a newer version": [1]}
        return [with_more(child) for child in value] if isinstance(value, list) else value

    summary = Study().typed()
    plain = codec.plain(summary)
    by_field = {f.name: with_more(plain[f.name]) for f in fields(summary) if is_dataclass(getattr(summary, f.name))}
    newer = plain | by_field | {"newer": {}}
    for name in ("params", "fitted", "digests", "validation"):  # mappings, whose keys are data
        newer["winner"][name] = plain["winner"][name]
    newer["best"]["params"], newer["reference"]["params"] = plain["best"]["params"], plain["reference"]["params"]
    newer["test"], newer["data"] = plain["test"] | {"newer": 1}, plain["data"] | {"newer": 1}
    assert codec.read(Summary, json.dumps(newer), "summary.json", "") == summary


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda plain: json.dumps(plain)[:-1], "Invalid JSON: EOF while parsing an object"),
        (lambda plain: "[]", "Input should be an object"),
        (lambda plain: json.dumps(plain | {"study": 3}), r"study: Input should be a valid string"),
        (lambda plain: json.dumps(plain | {"test": plain["test"] | {"n": "38"}}), r"test\.n: .* valid integer"),
        (lambda plain: json.dumps({k: v for k, v in plain.items() if k != "winner"}), "winner: Field required"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(damage: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(damage(codec.plain(Study().typed())))
    with pytest.raises(RequestError, match=rf"^{re.escape(str(path))}: is damaged \({said}.*\); delete it$") as caught:
        codec.read_file(Summary, path, "delete it")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert codec.read_file(Summary, path, "") is None
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RequestError, match=r"is damaged \(.*can't decode.*\); delete it"):
        codec.read_file(Summary, path, "delete it")


def test_a_loss_that_is_no_number_is_read_again() -> None:
    measured = Study().typed().test
    tested = replace(measured, all=measured.all | {"loss": float("inf")})
    assert codec.read(OnTest, codec.write(tested), "", "") == tested


def test_numbers_keep_their_kind() -> None:
    params: dict[str, Any] = {"a": 2, "b": 2.0, "c": True, "d": "2", "e": None}
    summary = Study().typed()
    found = codec.read(Summary, codec.write(replace(summary, best=replace(summary.best, params=params))), "", "")
    assert [type(value) for value in found.best.params.values()] == [int, float, bool, str, type(None)]


def test_the_page_reads_no_result_by_a_string() -> None:
    template = (Path(page.__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    expressions = re.findall(r"\{[{%](.*?)[}%]\}", template)
    assert len(expressions) > 50
    assert not [one for one in expressions if re.search(r"\w\[[\"']|\.get\(", one)]
