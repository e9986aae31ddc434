import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.engine.predictions import draws, judge, judge_ranking, read_impressions, sampled


@pytest.fixture
def files(tmp_path):
    """Two files of 500 requests, ten impressions each."""
    paths = [tmp_path / f"part-{n}.parquet" for n in range(2)]
    for n, path in enumerate(paths):
        request = np.repeat(np.arange(500) * 7919 + n * 10_000_000, 10)
        pq.write_table(pa.table({"request_id": request, "item": np.arange(5000)}), path)
    return paths


def test_all_impressions_are_read_when_there_are_few(files):
    assert read_impressions(files, 10_000, seed=0).num_rows == 10_000


def test_drawn_requests_are_whole_and_about_as_many_as_asked_for(files):
    table = read_impressions(files, 3000, seed=0)
    _, counts = np.unique(table["request_id"].to_numpy(), return_counts=True)
    assert set(counts.tolist()) == {10}
    assert 2400 < table.num_rows < 3600
    other = read_impressions(files, 3000, seed=1)
    assert not table["request_id"].equals(other["request_id"])


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=9), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(0, 3),
)
def test_a_sample_is_that_of_all_rows_at_once_however_they_are_grouped(
    tmp_path_factory, lengths, group, most, seed
):
    folder, tables = tmp_path_factory.mktemp("impressions"), []
    for n, of_requests in enumerate(lengths):
        request = np.repeat(100 * n + np.arange(len(of_requests)), of_requests)
        tables.append(pa.table({"request_id": request, "item": np.arange(len(request))}))
        pq.write_table(tables[-1], folder / f"part-{n}.parquet", row_group_size=group)
    whole = pa.concat_tables(tables)
    share = min(1.0, most / max(whole.num_rows, 1))
    drawn = draws(whole, seed) / 2.0**64 < share
    found = sampled(sorted(folder.iterdir()), most, seed)
    assert found.equals(whole.filter(pa.array(drawn | (share == 1))))


def test_no_impressions_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match=r"windows\.test"):
        read_impressions([], 10, seed=0)


def test_each_action_is_judged_by_its_own_column():
    rng = np.random.default_rng(0)
    save = rng.random(4000)
    click = np.full(4000, 0.25)
    labels = {"save": rng.random(4000) < save, "click": rng.random(4000) < click}
    table = pa.table({"item": np.arange(4000) % 5} | {f"label.{a}": v for a, v in labels.items()})
    predicted = np.stack([save, 2 * click], axis=1).astype(np.float32)
    found = judge_ranking(table, ("save", "click"), predicted, bins=5)
    assert found["save"]["auc"] > 0.8
    assert found["save"]["calibration"] == pytest.approx(1, abs=0.05)
    assert found["click"]["auc"] == 0.5
    assert found["click"]["calibration"] == pytest.approx(2, abs=0.15)
    assert sum(found["click"]["reliability"]["count"]) == 4000
    assert found["click"]["ece"] == pytest.approx(0.25, abs=0.03)


def test_among_touched_impressions_what_nobody_touched_does_not_count():
    touched = np.arange(200) < 40
    save, hide = touched & (np.arange(200) % 2 == 0), touched & (np.arange(200) % 2 == 1)
    table = pa.table({"label.save": save, "label.hide": hide})
    was_touched = np.stack([touched, touched], axis=1).astype(np.float32)
    found = judge(table, ("save", "hide"), was_touched)
    assert found["save"]["auc"] > 0.9, "saved items are touched items"
    assert found["save"]["auc_of_touched"] == 0.5, "which says nothing of saving"
    knows = np.stack([save, ~save], axis=1).astype(np.float32)
    assert judge(table, ("save", "hide"), knows)["hide"]["auc_of_touched"] == 1.0
