from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.settings import UserError
from data.impressions import label_names, schema
from data.raw_tables import FileSet


def files_of(path: Path, table: pa.Table, **columns: str) -> FileSet:
    pq.write_table(table, path)
    return FileSet(files=(path,), columns=columns)


def test_labels_are_the_fields_of_a_struct_or_flat_columns(tmp_path: Path) -> None:
    struct = pa.table({"labels": [{"save": True, "hide": None}]})
    flat = pa.table({"label.click": [True], "position": [1]})
    other = pa.table({"outcome": [{"save": True}], "labels": ["text"]})
    assert label_names(files_of(tmp_path / "a.parquet", struct)) == ["hide", "save"]
    assert label_names(files_of(tmp_path / "b.parquet", flat)) == ["click"]
    assert label_names(files_of(tmp_path / "d.parquet", other, labels="outcome")) == ["save"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position": [1], "clicked": [True]}, "c.parquet has no labels: add a column label.<act"),
        ({"labels": [["save"]]}, "labels of .*c.parquet is list.*; labels are a struct"),
        ({"labels": ["save"], "label.hide": [True]}, "labels of .*c.parquet is string"),
    ],
)
def test_impressions_whose_labels_are_not_found_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        label_names(files_of(tmp_path / "c.parquet", pa.table(columns)))


def test_a_label_that_only_some_files_have_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.parquet" for name in "ab"]
    pq.write_table(pa.table({"label.save": [True], "label.hide": [True]}), files[0])
    pq.write_table(pa.table({"label.save": [True]}), files[1])
    with pytest.raises(UserError, match=r"b.parquet has no column label.hide"):
        label_names(FileSet(files=tuple(files)))


def test_labels_of_a_text_file_are_flat(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("request_id,label.save\n1,true\n")
    assert label_names(FileSet(files=(path,))) == ["save"]


def test_the_encoded_schema_has_a_label_for_each_action_in_their_order() -> None:
    names = schema(("hide", "save")).names
    assert names[-2:] == ["label.hide", "label.save"]
    assert schema(()).field("item").type == pa.int32()
