"""Folders in pieces: what arrives is what was sent, or nothing is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.workers import parcels
from hpsearch.workers.parcels import Arrival, Content, read


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def carry(source: Path, content: Content, arrival: Arrival) -> None:
    for name, offset, size in content.pieces():
        arrival.write(name, offset, read(source / name, offset, size))


@given(
    files=st.dictionaries(st.sampled_from(["a", "b.arrow", "in/c", "in/d/e"]), st.binary(max_size=40), min_size=1),
    piece=st.integers(1, 20),
)
def test_a_folder_arrives_whole(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], piece: int) -> None:
    root = tmp_path_factory.mktemp("parcels")
    source, target = write(root / "source", files), write(root / "target", {"former": b"x"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parcels, "PIECE", piece)
        content = Content.of(source)
        assert all(size <= piece for _, _, size in content.pieces())
        arrival = Arrival(root, "me")
        carry(source, content, arrival)
    arrival.check(content)
    arrival.place_at(target)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == files
    assert not list(root.glob("*.tmp"))
    assert Content.of(target).digest == content.digest


def test_what_is_being_written_is_no_part_of_a_folder(tmp_path: Path) -> None:
    whole = {"train.arrow": b"1", "tokens/x/data": b"2"}
    folder = write(tmp_path, whole | {"tokens/x.lock": b"", "tokens/y.tmp/data": b"3"})
    assert set(Content.of(folder).files) == set(whole)


def test_a_file_that_changes_on_its_way_is_noticed(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a": b"123", "b": b"456"})
    content, arrival = Content.of(source), Arrival(tmp_path, "me")
    (source / "b").write_bytes(b"45")
    with pytest.raises(OSError, match="has changed on its way"):
        carry(source, content, arrival)
    (source / "b").write_bytes(b"457")
    carry(source, content, arrival)
    with pytest.raises(OSError, match="what arrived is not what was sent"):
        arrival.check(content)
    arrival.drop()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_same_from_two_senders_is_kept_once(tmp_path: Path) -> None:
    source, target = write(tmp_path / "source", {"a": b"123"}), tmp_path / "kept"
    content = Content.of(source)
    for sender in ("first", "second"):
        arrival = Arrival(tmp_path, sender)
        carry(source, content, arrival)
        arrival.check(content)
        arrival.keep_at(target)
        arrival.drop()
    assert Content.of(target) == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "source"]
