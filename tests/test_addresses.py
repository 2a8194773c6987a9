"""Paths in addresses, and back."""

from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.errors import RequestError
from hpsearch.state import addresses
from hpsearch.tracking import stores


@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1))
def test_a_path_comes_out_of_its_address_as_it_went_in(name: str) -> None:
    file = Path("/home", name, "x.db")  # pathlib drops a folder that is named `.`
    assert addresses.read("storage.uri", addresses.of_file(file)).database == str(file)


@pytest.mark.parametrize("name", ["plain", "two words", "Jürgen", "100%", "%41", "a#b", "a?b", "it's"])
def test_the_store_is_opened_where_it_is_said_to_be_and_nowhere_else(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "x.db"
    opened = stores.open_database(addresses.of_file(file))
    for address in (addresses.of_file(file), opened):
        with sqlalchemy.create_engine(address).connect() as connection:
            connection.exec_driver_sql("create table if not exists t (x)")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    if opened.startswith("sqlite:///"):  # MLflow makes that folder
        assert opened == f"sqlite:///{file}"


def test_what_follows_a_question_mark_is_no_part_of_a_name() -> None:
    with pytest.raises(RequestError, match=r"storage\.uri=sqlite:////tmp/a\?b/x\.db: .*write %3F"):
        addresses.read("storage.uri", "sqlite:////tmp/a?b/x.db")
    assert addresses.read("storage.uri", "sqlite:////tmp/a%3Fb/x.db?timeout=3").database == "/tmp/a?b/x.db"


def test_a_database_in_no_folder_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"tracking\.uri=sqlite:.*/file is not a folder that can be written to"):
        stores.open_database(f"sqlite:///{tmp_path}/file/x.db")
