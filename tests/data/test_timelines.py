from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import timelines
from data.contract.schema import TIMELINE
from data.timelines import (
    ROW_GROUP_USERS,
    events_from,
    extended,
    flat,
    group,
    in_stretches,
    offsets_of,
    ungroup,
)

SCHEMA = TIMELINE.with_metadata({b"parts": b"train,test"})
LOGS = st.lists(st.tuples(st.integers(17, 25), st.integers(0, 6), st.integers(0, 3)), max_size=60)


def log(rows: list[tuple[int, int, int]]) -> pa.Table:
    """Events (user, timestamp, sequence); the item is the place of arrival."""
    columns = np.array(rows, np.int64).reshape(-1, 3)
    size = len(columns)
    return pa.table(
        {
            "user": columns[:, 0],
            "item": np.arange(size, dtype=np.int32),
            "action": np.ones(size, np.int16),
            "surface": np.full(size, 2, np.int16),
            "timestamp": columns[:, 1],
            "duration_s": np.zeros(size, np.float32),
            "part": np.zeros(size, np.int8),
            "sequence": columns[:, 2],
        }
    )


@given(LOGS)
def test_a_timeline_holds_a_users_events_by_time_sequence_and_arrival(rows) -> None:
    table = group(log(rows))
    assert table.schema.equals(TIMELINE)
    expected = {
        user: [n for _, _, n in sorted((t, s, n) for n, (u, t, s) in enumerate(rows) if u == user)]
        for user in sorted({u for u, _, _ in rows})
    }
    assert dict(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True)) == expected
    assert table["user"].to_pylist() == list(expected)


@given(LOGS)
def test_timelines_come_apart_into_the_events_they_were_made_of(rows) -> None:
    table = ungroup(group(log(rows)))
    found = sorted(zip(*(table[n].to_pylist() for n in ("item", "user", "timestamp")), strict=True))
    assert found == [(n, user, time) for n, (user, time, _) in enumerate(rows)]


@given(LOGS, st.integers(0, 5), st.integers(0, 5))
def test_events_of_a_slice_are_those_of_its_users(rows, start: int, size: int) -> None:
    table = group(log(rows))
    part = table.slice(min(start, len(table)), size)
    events = events_from(part)
    assert events.offsets.tolist() == offsets_of(part).tolist()
    assert events.item.tolist() == [item for items in part["item"].to_pylist() for item in items]
    assert events.lengths.tolist() == [len(items) for items in part["item"].to_pylist()]


def test_events_of_one_chunk_are_not_copied() -> None:
    table = group(log([(17, 1, 0), (18, 2, 0)]))
    assert not flat(table, "timestamp").flags.owndata
    assert np.shares_memory(flat(table, "timestamp"), flat(table, "timestamp"))


def test_files_have_row_groups_of_at_most_512_users(tmp_path: Path) -> None:
    users = ROW_GROUP_USERS + 10
    table = group(log([(17 + n, 0, 0) for n in range(users)]))
    path = tmp_path / "t" / "part-00000.parquet"
    timelines.write([table], path, SCHEMA)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(2)] == [ROW_GROUP_USERS, 10]
    found = pq.read_table(path)
    assert found.equals(table)
    assert found.schema.metadata == SCHEMA.metadata


@given(LOGS, LOGS, st.integers(1, 4), st.sampled_from([1, 400, 1 << 24]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_extended_in_stretches_is_that_of_all_events_at_once(
    tmp_path_factory: pytest.TempPathFactory, earlier, later, users: int, most: int
) -> None:
    folder = tmp_path_factory.mktemp("timelines")
    before, after, whole = (folder / f"{name}.parquet" for name in ("before", "after", "whole"))
    # Those that come later have higher sequences, and only then may all be sorted at once.
    more = log([(user, time, 9 + sequence) for user, time, sequence in later])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timelines, "ROW_GROUP_USERS", users)
        patch.setattr(timelines, "STRETCH_BYTES", most)
        timelines.write(extended([], log(earlier)), before, SCHEMA)
        timelines.write(extended(in_stretches(before), more), after, SCHEMA)
        timelines.write([group(pa.concat_tables([log(earlier), more]))], whole, SCHEMA)
        parts = [*in_stretches(after)]
    assert after.read_bytes() == whole.read_bytes()
    assert pa.concat_tables([TIMELINE.empty_table(), *parts]).equals(pq.read_table(whole))
    assert all(part.schema.metadata == SCHEMA.metadata for part in parts)
    assert most > 1 or all(len(part) <= users for part in parts)
