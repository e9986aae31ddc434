import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import intake
from data.contract.settings import UserError
from data.exchange import write_table
from data.intake import Tally, find_duplicates, refuse_too_many

BLOCKS = st.lists(st.lists(st.integers(-5, 12), max_size=12), min_size=1, max_size=4)


@given(BLOCKS, st.lists(st.integers(-5, 12), unique=True, max_size=5), st.integers(1, 40))
def test_only_the_first_event_with_an_id_is_kept(
    tmp_path_factory: pytest.TempPathFactory, blocks, known: list[int], slice_size: int
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    names = [f"{n}" for n in range(len(blocks))]
    for name, ids in zip(names, blocks, strict=True):
        write_table(
            pa.table({"event_id": pa.array(ids, pa.int64())}), folder / f"events-{name}.arrow"
        )
    files = [folder / f"known-{n}.parquet" for n in range(2)]
    for n, file in enumerate(files):
        pq.write_table(pa.table({"event_id": pa.array(known[n::2], pa.int64())}), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "DUPLICATE_IDS", slice_size)
        patch.setattr(intake, "KNOWN_ROWS", 2)
        size = sum(map(len, blocks))
        dropped = find_duplicates(folder, names, size, files)
    seen, expected = set(known), []
    for ids in blocks:
        expected.append([n for n, i in enumerate(ids) if i in seen or i in ids[:n]])
        seen |= set(ids)
    drops = [folder / f"drop-{name}.npy" for name in names]
    found = [np.load(file).tolist() if file.is_file() else [] for file in drops]
    assert found == expected
    assert dropped == sum(map(len, expected))


def test_known_ids_are_not_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "KNOWN_ROWS", 1 << 14)
    rows = 1 << 18
    pq.write_table(pa.table({"event_id": np.arange(rows)}), tmp_path / "known.parquet")
    write_table(pa.table({"event_id": np.array([7, -1])}), tmp_path / "events-0.arrow")
    tracemalloc.start()
    try:
        assert find_duplicates(tmp_path, ["0"], 2, [tmp_path / "known.parquet"]) == 1
        assert tracemalloc.get_traced_memory()[1] < 8 * rows
    finally:
        tracemalloc.stop()


def test_tallies_of_parts_add_up() -> None:
    whole = Tally()
    whole.add(Tally(["a"], 10, Counter({"x null": 1}), Counter({3: 9}), {"action": {"save"}}))
    whole.add(Tally(["b"], 5, Counter({"x null": 2}), Counter({3: 1, 4: 2}), {"action": {"hide"}}))
    assert whole.blocks == ["a", "b"]
    assert (whole.rows, whole.num_events, whole.num_rejected) == (15, 12, 3)
    assert whole.names == {"action": {"save", "hide"}}


def test_rejects_up_to_the_share_are_borne_and_more_stop_the_job(tmp_path: Path) -> None:
    reasons = Counter({"item_id null": 4, "timestamp null": 1})
    refuse_too_many(reasons, 100, 0.05, tmp_path)
    with pytest.raises(UserError, match=r"5 of 100 rows .* \(item_id null: 4; timestamp null: 1\)"):
        refuse_too_many(reasons, 100, 0.04, tmp_path)
