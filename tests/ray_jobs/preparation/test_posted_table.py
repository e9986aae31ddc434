"""Posted documents as a table, read a part at a time."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.contract.encode import FeatureTable, encode_columns
from data.contract.schema import Feature
from data.statistics import converted
from ray_jobs.preparation import posted_table
from ray_jobs.preparation.posted_table import TYPES, PostedTable
from serve.posted_items import encode_items, fits

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.schema import ValueType

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
    st.lists(NUMBERS, max_size=2) | st.lists(TEXTS, max_size=2),
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
        if name not in TYPES and all(v is None or isinstance(v, list) for v in values):
            listed = [None if value is None else [text(one) for one in value] for value in values]
            return pa.array(listed, pa.list_(pa.string()))
        made = pa.array([text(value) for value in values], pa.string())
    return made.cast(pa.int64()) if pa.types.is_null(made.type) else made


def text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
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


@given(
    st.sampled_from(["int64", "string"]),
    st.lists(
        st.fixed_dictionaries(
            {"size": st.integers(0, 9) | st.floats(0, 9, width=32)},
            optional={
                "maker": st.none() | st.integers(-9, 9) | st.sampled_from(["4", "x", "-7"]),
                "flag": st.booleans() | st.sampled_from(["true", "b"]),
                "tags": st.lists(st.integers(0, 3)) | st.lists(st.sampled_from(["1", "a"])),
                "content": st.lists(st.integers(0, 3) | st.floats(0, 3), min_size=2, max_size=2),
            },
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_a_days_items_are_learnt_from_as_each_is_served(
    values: ValueType, items: list[dict[str, Any]]
) -> None:
    features = (
        Feature(name="content", kind="vector", dim=2),
        Feature(name="flag", kind="categorical", values="string"),
        Feature(name="maker", kind="categorical", values=values),
        Feature(name="size", kind="numeric"),
        Feature(name="tags", kind="multi", values=values),
    )
    served = [item for item in items if fits(features, item)]
    found = converted(PostedTable(lambda: iter(items), ()).read(), features)
    learnt = FeatureTable("item", features, encode_columns(found, features))
    for item in served:
        place = np.array([items.index(item)])
        alone = FeatureTable("item", features, encode_items(features, [item]))
        expected = alone.gather(np.array([0]))
        for name, array in learnt.gather(place).items():
            if item.get(name.split(".")[1]) is not None:
                np.testing.assert_array_equal(array, expected[name])


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
