"""Posted documents as a table, read a part at a time."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.contract.encode import encode_columns
from data.contract.schema import Feature
from data.statistics import converted
from ray_jobs.preparation import posted_table
from ray_jobs.preparation.posted_table import TYPES, PostedTable, alike
from serve.posted_items import encode_items

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("item_id", "created_at", "action")
NUMBERS = st.integers(-9, 9) | st.floats(-9, 9)
TEXTS = st.text("ab1", max_size=2)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
KINDS = (
    st.integers(-9, 9),
    st.integers(-9, 9) | TEXTS,
    NUMBERS,
    st.lists(NUMBERS, max_size=2),
    st.dictionaries(st.sampled_from("xy"), NUMBERS, min_size=1, max_size=2),
    SCALARS | st.lists(SCALARS, max_size=2),
)


@st.composite
def documents(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Documents whose values of a key are of one type or of several."""
    keys = {name: draw(st.sampled_from(KINDS)) for name in (*NAMES, "size")}
    return draw(st.lists(st.fixed_dictionaries({}, optional=keys), max_size=12))


def at_once(found: list[dict[str, Any]]) -> pa.Table:
    """What the table is where all documents are in memory."""
    names = dict.fromkeys([*NAMES, *(key for document in found for key in document)])
    return pa.table({n: column(n, [document.get(n) for document in found]) for n in names})


def column(name: str, values: list[Any]) -> pa.Array:
    try:
        made = pa.array(values, TYPES.get(name))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        lists = all(value is None or isinstance(value, list) for value in values)
        if lists and name not in TYPES:
            texts = [value and [written(one) for one in value] for value in values]
            return pa.array(texts, pa.list_(pa.string()))
        made = pa.array([written(value) for value in values], pa.string())
    return made.cast(pa.int64()) if pa.types.is_null(made.type) else made


def written(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


@given(found=documents(), size=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_together_what_all_documents_are_at_once(
    tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, Any]], size: int
) -> None:
    path = tmp_path_factory.mktemp("posted") / "table.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posted_table, "PART_DOCUMENTS", size)
        table = PostedTable(lambda: iter(found), NAMES)
        assert table.read().equals(at_once(found))
        assert table.read(["action"]).equals(at_once(found).select(["action"]))
        assert table.write(path) == bool(found) == path.is_file()
        if found:
            assert pq.read_table(path).equals(at_once(found))


def test_numbers_beyond_64_bits_are_text() -> None:
    table = PostedTable(lambda: iter([{"size": 2**63}, {"size": 1}]), ())
    assert table.read()["size"].to_pylist() == [str(2**63), "1"]


@pytest.mark.parametrize("size", [1, 2, 10])
def test_one_value_of_another_type_changes_no_value_of_the_others(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What serving hashes of a posted item's text is what the next bundle hashes."""
    monkeypatch.setattr(posted_table, "PART_DOCUMENTS", size)
    posted = [
        {"interests": ["food", "art"], "paid": True},
        {"interests": [7, 8], "paid": "on request"},
        {"interests": [], "paid": None},
        {},
    ]
    table = PostedTable(lambda: iter(posted), ()).read()
    assert table["interests"].to_pylist() == [["food", "art"], ["7", "8"], [], None]
    features = (Feature(name="interests", kind="multi"), Feature(name="paid", kind="categorical"))
    later = encode_columns(converted(table, features), features)
    served = encode_items(features, posted)
    assert later["interests"].to_pylist()[0] == served["interests"].to_pylist()[0]
    assert later["paid"].to_pylist() == served["paid"].to_pylist()


def test_tables_that_differ_in_a_type_meet_as_text() -> None:
    one, other = pa.schema([("a", pa.int64()), ("b", pa.int64())]), pa.schema([("a", pa.string())])
    assert alike([one, other]) == pa.schema([("a", pa.string()), ("b", pa.int64())])


def test_a_day_of_events_is_never_in_memory_as_documents(tmp_path: Path) -> None:
    rows = 6 * posted_table.PART_DOCUMENTS
    table = PostedTable(lambda: ({"event_id": str(n), "user_id": n} for n in range(rows)), ())
    tracemalloc.start()
    try:
        assert table.write(tmp_path / "events.parquet")
        assert tracemalloc.get_traced_memory()[1] < 200 * rows  # documents take 300 bytes and more
    finally:
        tracemalloc.stop()
    assert pq.read_metadata(tmp_path / "events.parquet").num_rows == rows
