from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.blocklist import Blocklist
from data.contract.idspace import IdSpace, hash_ids
from data.contract.mirrors import PLACE
from data.contract.settings import UserError

INT64 = pa.int64()
NO_TIMES = np.zeros(3, np.int64)


def read(path: Path, kind: pa.DataType = INT64) -> list[int | str]:
    return Blocklist.read(str(path), kind).ids.to_pylist()


@pytest.mark.parametrize(
    "text", ["7\n9\n", "item_id\n7\n9\n", "\ufeffitem_id\r\n 7 \r\n\r\n9\r\n7\r\n", "7\n9"]
)
def test_text_has_an_id_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "blocked.csv"
    path.write_bytes(text.encode())
    assert read(path) == [7, 9]
    assert read(path, pa.string()) == ["7", "9"]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_parquet_has_one_column_or_one_of_that_name(tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.array([7, 9, None, 7]).cast(kind)
    for number, names in enumerate((["theirs"], ["item_id", "reason"])):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table([ids, ids][: len(names)], names=names), path)
        assert read(path) == [7, 9]
    pq.write_table(pa.table([ids, ids], names=["a", "b"]), path)
    with pytest.raises(UserError, match=r"has columns \['a', 'b'\]; name one of them item_id"):
        read(path)


def test_what_is_no_id_is_refused_with_the_value(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text("7\nseven\n")
    with pytest.raises(UserError, match=r"item ids are int64 here, but .*blocked\.txt: .*'seven'"):
        read(path)
    path.write_bytes(b"\xff\xfe7")
    with pytest.raises(UserError, match=r"is no UTF-8 text"):
        read(path)
    with pytest.raises(UserError, match=r"nowhere\.csv is not there"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR")
    with pytest.raises(UserError, match=r"broken\.parquet"):
        read(tmp_path / "broken.parquet")


def test_without_a_file_and_with_an_empty_one_nothing_is_blocked(tmp_path: Path) -> None:
    (tmp_path / "none.txt").touch()
    assert Blocklist.read(None, pa.int64()).ids.to_pylist() == []
    assert read(tmp_path / "none.txt") == []


def test_it_may_lie_in_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    uri = f"file://{tmp_path}/blocked"
    for suffix in (".txt", ".parquet"):
        with pytest.raises(UserError, match=f"{uri}{suffix} is not there"):
            Blocklist.read(uri + suffix, INT64)
    (tmp_path / "blocked.txt").write_text("7")
    pq.write_table(pa.table({"item_id": [9]}), tmp_path / "blocked.parquet")
    found = [Blocklist.read(uri + suffix, INT64) for suffix in (".txt", ".parquet")]
    assert [blocked.ids.to_pylist() for blocked in found] == [[7], [9]]
    (tmp_path / "blocked.txt").write_text("70")
    changed = Blocklist.read(uri + ".txt", INT64)
    assert changed.ids.to_pylist() == [70]
    assert changed.checksum != found[0].checksum
    (tmp_path / "blocked.txt").write_bytes(b"\xff\xfe7")
    with pytest.raises(UserError, match=f"{uri}.txt is no UTF-8 text"):
        Blocklist.read(uri + ".txt", INT64)


def test_unknown_ids_have_no_rows_but_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text("9\n12345\n")
    space = IdSpace.empty("item", pa.int64(), 4).extend(pa.array([7, 8, 9]), NO_TIMES, NO_TIMES)
    blocked = Blocklist.read(str(path), pa.int64())
    assert space.external(blocked.rows(space)).to_pylist() == [9]
    assert set(blocked.hashes.tolist()) == set(hash_ids(pa.array([9, 12345])).tolist())
    assert (np.diff(blocked.hashes) > 0).all()
