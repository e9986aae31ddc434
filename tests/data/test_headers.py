from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.settings import UserError
from data.headers import (
    alike,
    check_alike,
    check_columns,
    check_ids,
    check_named,
    check_types,
    headers,
)
from data.raw_tables import FileSet


def files(folder: Path, *tables: dict[str, object]) -> FileSet:
    """Parquet files a.parquet, b.parquet ... of the given columns."""
    paths = tuple(folder / f"{name}.parquet" for name, _ in zip("abc", tables, strict=False))
    for path, columns in zip(paths, tables, strict=True):
        pq.write_table(pa.table(columns), path)
    return FileSet(files=paths)


def text(folder: Path, content: str) -> FileSet:
    (folder / "a.csv").write_text(content)
    return FileSet(files=(folder / "a.csv",))


def test_the_file_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    table = files(tmp_path, {"user_id": [1], "item_id": [1]}, {"user_id": [1], "movie": [1]})
    with pytest.raises(UserError) as error:
        check_columns(table, ["user_id", "item_id"])
    message = str(error.value)
    assert "b.parquet has no column item_id (did you mean movie?)" in message
    assert "source.columns.item_id=movie" in message


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("user_id;item_id;timestamp\n1;2;3\n", "parted by commas"),
        ("1,2,1700000000000\n", "first line must name the columns"),
        ("", "is empty"),
    ],
)
def test_a_layout_that_is_not_ours_is_recognised(tmp_path: Path, content: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        check_columns(text(tmp_path, content), ["user_id"])


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.csv has 2 columns user_id"):
        headers(text(tmp_path, "user_id,item_id,user_id\n1,2,3\n"))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no text"):
        headers(text(tmp_path, "\x00\x01\x02,user_id\n"))


def test_a_column_that_a_setting_names_must_be_in_every_file(tmp_path: Path) -> None:
    found = headers(files(tmp_path, {"rating": [1]}, {"ratings": [1]}))
    with pytest.raises(UserError, match=r"like=rating>4 names .*b.parquet .*mean ratings"):
        check_named(found, {"rating": "source.actions.like=rating>4"})
    check_named(found[:1], {"rating": "source.actions.like=rating>4"})


def test_a_column_is_in_all_files_or_in_none(tmp_path: Path) -> None:
    found = headers(files(tmp_path, {"action": ["save"]}, {"x": [1]}))
    check_alike(found, ["event_id"])
    with pytest.raises(UserError, match=r"b.parquet has no column action, but .*a.parquet"):
        check_alike(found, ["action"])


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1.5], "double"),
        ([[1]], "list"),
        (pa.nulls(2), "nothing but nulls"),
        (pa.array([1.5]).dictionary_encode(), "double"),
    ],
)
def test_a_type_that_holds_no_ids_is_refused(tmp_path: Path, values: object, what: str) -> None:
    found = headers(files(tmp_path, {"item_id": [1]}, {"item_id": values}))
    check_ids(found[:1], ["item_id"])
    with pytest.raises(UserError, match=f"item_id of .*b.parquet is {what}"):
        check_ids(found, ["item_id"])


def test_types_that_do_not_go_together_are_named_with_both_files(tmp_path: Path) -> None:
    narrow = pa.array([1], pa.int32())
    found = headers(files(tmp_path, {"a": [1], "b": [1]}, {"a": narrow, "b": ["x"]}))
    check_types(found, ["a"])
    with pytest.raises(UserError, match=r"column b: .*int64 in .*a.parquet .*string in .*b.parq"):
        check_types(found)


def test_tables_that_differ_in_a_type_meet_as_text() -> None:
    one, other = pa.schema([("a", pa.int64()), ("b", pa.int64())]), pa.schema([("a", pa.string())])
    assert alike([one, other]) == pa.schema([("a", pa.string()), ("b", pa.int64())])
    lists = [pa.schema([("a", pa.list_(kind))]) for kind in (pa.int64(), pa.string())]
    assert alike(lists) == lists[1]
