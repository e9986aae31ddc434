from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import statistics
from data.attributes import Attributes, aligned, read_aligned, read_attributes, write_aligned
from data.contract.encode import FeatureTable, encode_columns
from data.contract.idspace import IdSpace
from data.contract.schema import Feature
from data.contract.settings import UserError
from data.raw_tables import FileSet
from data.rejects import NO_REJECTS

NOW = 1_700_000_000_000


def write(path: Path, **columns: object) -> FileSet:
    pq.write_table(pa.table(columns), path)
    return FileSet(files=(path,))


def items(*sets: FileSet, content: tuple[FileSet, ...] = ()) -> Attributes:
    return read_attributes(sets, "item_id", pa.int64(), content)


def test_rows_are_read_with_their_times_and_columns(tmp_path: Path) -> None:
    files = write(tmp_path / "i.parquet", item_id=[5, 3], created_at=[NOW, None], size=[1, 2])
    found = items(files)
    assert found.ids.to_pylist() == [5, 3]
    assert found.created_at.tolist() == [NOW, 0]
    assert found.columns.to_pydict() == {"size": [1, 2]}


def test_a_row_without_an_id_is_rejected(tmp_path: Path) -> None:
    found = items(write(tmp_path / "i.parquet", item_id=pa.array([5, None]), size=[1, 2]))
    assert found.ids.to_pylist() == [5]
    assert [(r["row"], r["column"], r["reason"]) for r in found.rejects.to_pylist()] == [
        (1, "item_id", "null")]  # fmt: skip


def test_a_line_of_another_shape_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_text("item_id,size\n5,1\n6,2,3\n7\n8,4\n")
    found = items(FileSet(files=(path,)))
    assert found.ids.to_pylist() == [5, 8]
    assert found.columns.to_pydict() == {"size": [1, 4]}
    assert [(r["row"], r["reason"], r["value"]) for r in found.rejects.to_pylist()] == [
        (1, "the line has not 2 columns", "6,2,3"), (2, "the line has not 2 columns", "7")
    ]  # fmt: skip


def test_ids_of_another_kind_than_the_logs_are_refused(tmp_path: Path) -> None:
    files = write(tmp_path / "i.parquet", item_id=["1", "b", "c"])
    with pytest.raises(UserError, match=r"i.parquet .* row 1 is 'b' .* the log's ids are int64"):
        items(files)


def test_files_that_disagree_and_damaged_files_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", item_id=[1], size=[1])
    second = write(tmp_path / "b.parquet", item_id=[2], size=["large"])
    with pytest.raises(UserError, match=r"size: it is int64 in .*a.parquet and string in .*b.parq"):
        items(FileSet(files=(*first.files, *second.files)))
    whole = first.files[0].read_bytes()
    first.files[0].write_bytes(whole[:4] + bytes(40) + whole[44:])
    with pytest.raises(UserError, match=r"a.parquet is damaged"):
        items(first)


def test_an_id_twice_is_an_error_with_file_id_and_rows(tmp_path: Path) -> None:
    files = write(tmp_path / "i.parquet", item_id=[5, 3, 7, 3])
    with pytest.raises(UserError) as error:
        items(files)
    assert "id 3 is there twice" in str(error.value)
    assert "i.parquet row 1 and" in str(error.value)
    assert "i.parquet row 3" in str(error.value)


def test_a_later_set_replaces_rows_of_an_earlier_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", item_id=[1, 2], size=[10, 20])
    later = write(tmp_path / "b.parquet", item_id=[2, 3], size=[21, 30], colour=["r", "g"])
    found = items(first, later)
    rows = dict(zip(found.ids.to_pylist(), found.columns.to_pylist(), strict=True))
    assert rows == {
        1: {"size": 10, "colour": None},
        2: {"size": 21, "colour": "r"},
        3: {"size": 30, "colour": "g"},
    }


def test_sets_of_different_types_meet_as_the_known_columns(tmp_path: Path) -> None:
    day = write(tmp_path / "d.parquet", item_id=[1, 2], maker_id=[4, 5], tags=[[1], [2]])
    posted = write(tmp_path / "p.parquet", item_id=[2, 3], maker_id=["6", "x"], tags=[["7"], []])
    found = items(day, posted)
    known = tuple(
        Feature(name=name, kind=kind, values="int64")
        for name, kind in (("maker_id", "categorical"), ("tags", "multi"))
    )
    encoded = encode_columns(statistics.converted(found.columns, known), known)
    whole = pa.table({"maker_id": [4, 6, None], "tags": [[1], [7], []]})
    assert found.ids.to_pylist() == [1, 2, 3]
    assert {n: c.to_pylist() for n, c in encoded.items()} == {
        n: c.to_pylist() for n, c in encode_columns(whole, known).items()
    }


def test_a_mapping_for_the_log_alone_leaves_the_item_table_its_own_name(tmp_path: Path) -> None:
    files = write(tmp_path / "i.parquet", item_id=[1], size=[1])
    mapped = FileSet(files=files.files, columns={"item_id": "movie"})
    assert items(mapped).ids.to_pylist() == [1]


def test_a_mapping_takes_no_column_of_the_table_away(tmp_path: Path) -> None:
    files = write(tmp_path / "i.parquet", item_id=[1], kind=["a"], action=["b"], ts=[3])
    mapped = FileSet(files=files.files, columns={"action": "kind", "timestamp": "ts"})
    assert items(mapped).columns.to_pydict() == {"kind": ["a"], "action": ["b"], "timestamp": [3]}


@pytest.mark.parametrize("names", [["007", "010"], ["2024-01-01", "2024-01-02"], ["1e5", "2e5"]])
def test_ids_of_a_text_file_are_read_as_they_are_written(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "i.csv"
    path.write_text("item_id,size\n" + "".join(f"{name},1\n" for name in names))
    found = read_attributes([FileSet(files=(path,))], "item_id", pa.string())
    assert found.ids.to_pylist() == names
    assert found.columns["size"].type == pa.int64()


def test_files_without_a_row_say_nothing_about_types(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for path, lines in zip(paths, ("", "5,1\n", ""), strict=True):
        path.write_text("item_id,size\n" + lines)
    assert items(FileSet(files=tuple(paths))).columns.to_pydict() == {"size": [1]}
    assert len(items(FileSet(files=(paths[0],))).ids) == 0


def test_vectors_join_by_id_and_add_items_that_only_they_have(tmp_path: Path) -> None:
    table = write(tmp_path / "i.parquet", item_id=[1, 2], size=[10, 20])
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float16(), 2))
    content = write(tmp_path / "v.parquet", item_id=[3, 1], embedding=vectors)
    found = items(table, content=(content,))
    assert found.ids.to_pylist() == [1, 2, 3]
    assert found.columns["size"].to_pylist() == [10, 20, None]
    assert found.columns["content"].to_pylist() == [[0.0, 1.0], None, [1.0, 0.0]]
    alone = items(content=(content,))
    assert alone.ids.to_pylist() == [3, 1]


def attributes(ids: list[int], **columns: object) -> Attributes:
    times = np.arange(len(ids), dtype=np.int64) + NOW
    return Attributes(pa.array(ids), times, pa.table(columns), NO_REJECTS)


def space_of(*batches: list[int]) -> IdSpace:
    space = IdSpace.empty("item", pa.int64(), 4)
    for ids in batches:
        zeros = np.zeros(len(ids), np.int64)
        space = space.extend(pa.array(ids), zeros, zeros)
    return space


def described(found: Attributes) -> tuple[Attributes, tuple[Feature, ...]]:
    known, columns = statistics.features(found.columns, {})
    return Attributes(found.ids, found.created_at, columns, found.rejects), known


def test_the_aligned_table_holds_each_item_at_its_row_and_blanks_elsewhere(tmp_path: Path) -> None:
    columns = {
        "size": [1.5, None],
        "format": ["a", None],
        "tags": [["x", "y"], None],
        "content": pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2)),
    }
    found, known = described(attributes([7, 9], **columns))
    space = space_of([7, 8, 9])
    write_aligned(aligned(space, found, known), tmp_path / "items.arrow")
    table = read_aligned(tmp_path / "items.arrow")
    assert table.num_rows == space.rows
    assert table["id"].to_pylist() == [None] * 5 + space.ids.to_pylist()
    row_7, row_8, row_9 = space.lookup(pa.array([7, 8, 9])).tolist()
    assert table["created_at"][row_9].as_py() == NOW + 1
    store = FeatureTable.open("item", known, tmp_path / "items.arrow")
    arrays = store.gather(np.array([row_7, row_8, row_9, 0]))
    assert arrays["item.content"].tolist() == [[1, 2], [0, 0], [0, 0], [0, 0]]
    assert arrays["item.tags.lengths"].tolist() == [2, 0, 0, 0]
    assert arrays["item.format"][1:].tolist() == [0, 0, 0]
    assert arrays["item.size"][0] == 1.5
    assert np.isnan(arrays["item.size"][1:]).all()


def test_an_extension_keeps_old_rows_and_replaces_posted_ones() -> None:
    first, known = described(attributes([1, 2], size=[10.0, 20.0], tags=[["a"], ["b"]]))
    before = space_of([1, 2])
    old = aligned(before, first, known)
    space = space_of([1, 2], [3, 4])
    new = attributes([2, 3], size=[21.0, 30.0])
    table = aligned(space, new, known, previous=old)
    rows = space.lookup(pa.array([1, 2, 3, 4]))
    assert table["size"].take(pa.array(rows)).to_pylist() == [10.0, 21.0, 30.0, None]
    assert [len(tags) for tags in table["tags"].take(pa.array(rows)).to_pylist()] == [1, 0, 0, 0]
    assert table["size"].slice(0, before.first_row).to_pylist() == [None] * before.first_row


def test_items_that_come_with_none_of_the_known_columns_are_blank() -> None:
    first, known = described(attributes([1, 2], size=[10.0, 20.0], tags=[["a"], ["b"]]))
    old = aligned(space_of([1, 2]), first, known)
    space = space_of([1, 2], [3])
    new = Attributes(pa.array([3]), np.full(1, NOW), pa.table({}), first.rejects)
    table = aligned(space, new, known, previous=old)
    rows = pa.array(space.lookup(pa.array([1, 2, 3])))
    assert table["size"].take(rows).to_pylist() == [10.0, 20.0, None]
    assert table["created_at"].take(rows).to_pylist()[2] == NOW


def test_a_side_without_a_table_has_ids_only() -> None:
    empty = read_attributes([], "user_id", pa.string())
    space = IdSpace.empty("user", pa.string(), 2).extend(
        pa.array(["a"]), np.zeros(1, np.int64), np.zeros(1, np.int64)
    )
    table = aligned(space, empty, ())
    assert table["id"].to_pylist() == [None, None, None, "a"]
    assert encode_columns(table, ()) == {}
