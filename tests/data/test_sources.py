import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.settings import UserError, build
from data.raw_tables import FileSet, RawTables, column_names
from data.sources import SourceSettings, locate, world_tables


def write(path: Path, **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"user_id": [1], "item_id": [2]}), path)
    return path


def settings(**values: object) -> SourceSettings:
    return build(SourceSettings, {"kind": "table", **values})


def test_a_file_a_folder_and_a_glob_name_the_same_files(tmp_path: Path) -> None:
    files = tuple(write(tmp_path / "log" / f"date={d}" / "part-0.parquet") for d in "312")
    expected = tuple(sorted(files))
    for pattern in (tmp_path / "log", tmp_path / "log" / "*" / "*.parquet"):
        assert locate(settings(events=str(pattern))).events[0].files == expected
    assert locate(settings(events=str(files[0]))).events[0].files == (files[0],)


def test_a_glob_of_folders_names_the_files_in_them(tmp_path: Path) -> None:
    files = tuple(write(tmp_path / "log" / f"date={d}" / "part-0.parquet") for d in "12")
    write(tmp_path / "log" / "old" / "part-0.parquet")
    assert locate(settings(events=str(tmp_path / "log" / "date=*"))).events[0].files == files


def test_an_ending_is_known_in_any_case(tmp_path: Path) -> None:
    file = write(tmp_path / "log" / "A.PARQUET")
    for place in (file, file.parent):
        located = locate(settings(events=str(place))).events[0]
        assert located.files == (file,)
        assert column_names(located) == ["user_id", "item_id"]


def test_compressed_files_are_refused_and_not_left_out(tmp_path: Path) -> None:
    write(tmp_path / "log" / "a.parquet")
    packed = tmp_path / "log" / "b.csv.gz"
    packed.touch()
    for place in (packed.parent, packed, packed.parent / "*"):
        with pytest.raises(UserError, match=r"b.csv.gz is compressed; unpack it"):
            locate(settings(events=str(place)))
    assert len(locate(settings(events=str(tmp_path / "log" / "*.parquet"))).events[0].files) == 1


def test_a_first_file_without_a_line_is_named(tmp_path: Path) -> None:
    write(tmp_path / "log" / "b.parquet")
    (tmp_path / "log" / "a.csv").touch()
    with pytest.raises(UserError, match=r"a.csv is empty"):
        locate(settings(events=str(tmp_path / "log")))


def test_hidden_files_and_other_kinds_are_left_alone(tmp_path: Path) -> None:
    kept = write(tmp_path / "log" / "a.parquet")
    for hidden in (".ipynb_checkpoints", "_temporary/0", "date=1/_delta_log"):
        write(tmp_path / "log" / hidden / "a.parquet")
    write(tmp_path / "log" / ".a.parquet.crc.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / "notes.txt").write_text("x")
    assert locate(settings(events=str(tmp_path / "log"))).events[0].files == (kept,)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.parquet", "does not exist"), ("empty", "holds no"), ("a.json", "is no")],
)
def test_a_path_without_data_is_named_with_its_setting(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.json").touch()
    with pytest.raises(UserError, match=f"source.events=.*{name} {message}"):
        locate(settings(events=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("columns", "mapping", "order"),
    [
        (["timestamp"], {}, "clock"),
        (["ts"], {"timestamp": "ts"}, "clock"),
        (["timestamp", "seq"], {"position": "seq"}, "position"),
        (["timestamp", "seq"], {"position": "seq", "timestamp": "timestamp"}, "clock"),
        (["seq"], {}, "none"),
    ],
)
def test_the_order_of_a_log_follows_from_its_columns_and_their_mapping(
    tmp_path: Path, columns: list[str], mapping: dict[str, str], order: str
) -> None:
    path = write(tmp_path / "e.parquet", user_id=[1], **{c: [1] for c in columns})
    assert locate(settings(events=str(path), columns=mapping)).order == order


def test_a_condition_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet")
    with pytest.raises(UserError, match="rating"):
        locate(settings(events=str(path), actions={"like": "rating >"}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": "movie"}, r"item_id=movie: no table has the column movie; .* has user_id, it"),
        ({"action": "rateing"}, r"no table has the column rateing \(did you mean rating\?\)"),
        ({"itemid": "item_id"}, r"itemid .*did you mean source\.columns\.item_id\?"),
        ({"kind": "rating"}, "kind is no column of ours"),
    ],
)
def test_a_mapping_without_effect_is_refused(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "e.parquet", user_id=[1], item_id=[2], rating=[3])
    items = write(tmp_path / "i.parquet", item_id=[2], colour=["red"])
    with pytest.raises(UserError, match=message):
        locate(settings(events=str(path), items=str(items), columns=columns))


def test_a_column_of_the_item_table_may_be_renamed(tmp_path: Path) -> None:
    path, items = write(tmp_path / "e.parquet"), write(tmp_path / "i.parquet", colour=["red"])
    columns = {"tint": "colour"}
    assert locate(settings(events=str(path), items=str(items), columns=columns)).items


def test_a_source_without_its_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.events"):
        build(SourceSettings, {"kind": "table"})
    with pytest.raises(UserError, match=r"source\.path"):
        build(SourceSettings, {"kind": "movielens"})


def test_the_fingerprint_changes_with_a_file_and_with_how_it_is_read(tmp_path: Path) -> None:
    path, root = write(tmp_path / "e.parquet"), tmp_path / "root"
    before = locate(settings(events=str(path))).fingerprint(root)
    assert locate(settings(events=str(path))).fingerprint(root) == before
    assert locate(settings(events=str(path), timestamp_unit="s")).fingerprint(root) != before
    write(path, user_id=[1, 2, 3], item_id=[4, 5, 6])
    assert locate(settings(events=str(path))).fingerprint(root) != before


def test_what_lies_in_a_root_keeps_its_fingerprint_where_the_root_is_moved_to(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "one" / "world" / "e.parquet")
    before = locate(settings(events=str(path))).fingerprint(tmp_path / "one")
    moved = (tmp_path / "one").rename(tmp_path / "two")
    after = locate(settings(events=str(moved / "world" / "e.parquet"))).fingerprint(moved)
    assert after == before


def test_a_relative_path_keeps_its_fingerprint_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one" / "e.parquet")
    monkeypatch.chdir(tmp_path / "one")
    before = locate(settings(events="e.parquet")).fingerprint(tmp_path / "root")
    monkeypatch.chdir((tmp_path / "one").rename(tmp_path / "two"))
    assert locate(settings(events="e.parquet")).fingerprint(tmp_path / "root") == before


def test_a_copy_keeps_its_fingerprint_whenever_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, beside = write(tmp_path / "root" / "e.parquet"), write(tmp_path / "e.parquet")
    monkeypatch.chdir(tmp_path)
    for path, given in ((inside, str(inside)), (beside, "e.parquet")):
        before = locate(settings(events=given)).fingerprint(tmp_path / "root")
        os.utime(path, ns=(1, 1))
        assert locate(settings(events=given)).fingerprint(tmp_path / "root") == before
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes([content[4] ^ 1]) + content[5:])
        os.utime(path, ns=(1, 1))
        assert locate(settings(events=given)).fingerprint(tmp_path / "root") != before
        path.write_bytes(content)


def test_a_days_log_and_posted_events_are_joined_with_their_own_layouts(tmp_path: Path) -> None:
    day = RawTables(
        order="clock", events=(FileSet(files=(tmp_path / "a.csv",), columns={"a": "b"}),)
    )
    posted = RawTables(order="clock", events=(FileSet(files=(tmp_path / "b.parquet",)),))
    joined = day.joined(posted)
    assert joined.events == day.events + posted.events
    assert joined.order == "clock"


def test_columns_of_csv_are_its_header(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text('\ufeff"user_id",item\n1,2\n')
    assert column_names(FileSet(files=(path,))) == ["user_id", "item"]


def test_tables_of_a_world_are_found_by_name(tmp_path: Path) -> None:
    day = write(tmp_path / "events" / "date=2025-01-01" / "part-0.parquet")
    items = write(tmp_path / "items.parquet")
    raw = world_tables(tmp_path)
    assert raw.events[0].files == (day,)
    assert raw.items[0].files == (items,)
    assert raw.impressions == ()
    with pytest.raises(UserError, match="no events"):
        world_tables(tmp_path / "elsewhere")
