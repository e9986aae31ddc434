from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.contract.schema import DAY_MS, EVENT_COLUMNS, IMPRESSION_COLUMNS
from data.contract.settings import UserError
from data.world import WorldSettings, generate
from data.world.population import day_start_ms
from data.world.settings import ACTIONS

SMALL = WorldSettings(preset="tiny", num_users=60, num_items=200, days=10, seed=4)
ITEM_COLUMNS = {
    *("item_id", "created_at", "creator_id", "image_signature", "format", "language"),
    *("interests", "content", "title", "campaign_id", "bid", "budget"),
}


def read(folder: Path, name: str) -> pa.Table:
    path = folder / name
    if path.is_dir():
        return pa.concat_tables(pq.read_table(part) for part in sorted(path.rglob("*.parquet")))
    return pq.read_table(folder / f"{name}.parquet")


def tables(folder: Path) -> dict[str, pa.Table]:
    return {
        name: read(folder, name) for name in ("events", "impressions", "items", "users", "boards")
    }


@pytest.fixture(scope="module")
def world(tiny_world: Path) -> dict[str, pa.Table]:
    return tables(tiny_world / "raw")


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


def test_tables_have_the_columns_and_types_of_the_contract(world: dict[str, pa.Table]) -> None:
    assert tuple(world["events"].column_names) == EVENT_COLUMNS
    assert tuple(world["impressions"].column_names) == IMPRESSION_COLUMNS
    assert set(world["items"].column_names) == ITEM_COLUMNS
    labels = world["impressions"].schema.field("labels").type
    assert [(f.name, f.type) for f in labels] == [(action, pa.bool_()) for action in ACTIONS]
    assert world["items"].schema.field("content").type == pa.list_(pa.float16(), 64)
    for name in ("event_id", "user_id", "item_id", "timestamp", "received_at", "board_id"):
        assert world["events"].schema.field(name).type == pa.int64()


def test_only_boards_requests_contexts_and_campaigns_are_ever_null(
    world: dict[str, pa.Table],
) -> None:
    nullable = {"board_id", "request_id", "context_item_id", "campaign_id", "bid", "budget"}
    for table in world.values():
        for name in set(table.column_names) - nullable:
            assert table[name].null_count == 0
    assert 0.9 < world["items"]["campaign_id"].null_count / world["items"].num_rows < 1


def test_ids_are_unique(world: dict[str, pa.Table]) -> None:
    for name, key in (("events", "event_id"), ("items", "item_id"), ("users", "user_id")):
        assert pc.count_distinct(world[name][key]).as_py() == world[name].num_rows


def test_events_are_of_users_and_items_created_before(world: dict[str, pa.Table]) -> None:
    events = world["events"]
    for name, key in (("items", "item_id"), ("users", "user_id")):
        created = world[name].select([key, "created_at"])
        joined = events.select([key, "timestamp"]).join(created, key, join_type="inner")
        assert joined.num_rows == events.num_rows
        assert pc.all(pc.less(joined["created_at"], joined["timestamp"])).as_py()


def test_each_partition_holds_its_day_in_the_order_of_time(tiny_world: Path) -> None:
    parts = sorted((tiny_world / "raw/events").iterdir())
    assert [parts[0].name, parts[-1].name] == ["date=2025-01-01", "date=2025-03-01"]
    for day, part in enumerate(parts, start=1):
        timestamp = column(pq.read_table(part / "part-0.parquet"), "timestamp")
        assert (np.diff(timestamp) >= 0).all()
        assert ((timestamp >= day_start_ms(day)) & (timestamp < day_start_ms(day + 1))).all()


def test_most_events_arrive_at_once_some_hours_and_a_few_days_late(
    world: dict[str, pa.Table],
) -> None:
    events = world["events"]
    delay = column(events, "received_at") - column(events, "timestamp")
    assert delay.min() >= 0
    assert np.quantile(delay, 0.95) < 60_000
    assert 0.003 < (delay > DAY_MS / 24).mean() < 0.03
    assert 0.0001 < (delay > DAY_MS).mean() < 0.005


def test_labels_of_an_impression_are_its_events(world: dict[str, pa.Table]) -> None:
    impressions = world["impressions"]
    logged = {
        (request, item, action)
        for request, item, labels in zip(
            *(impressions[c].to_pylist() for c in ("request_id", "item_id", "labels")), strict=True
        )
        for action in ACTIONS
        if labels[action]
    }
    events = world["events"].filter(pc.is_valid(world["events"]["request_id"]))
    columns = (events[c].to_pylist() for c in ("request_id", "item_id", "action"))
    assert set(zip(*columns, strict=True)) == logged
    assert len(logged) == events.num_rows > 1000


def test_slates_show_an_item_once(world: dict[str, pa.Table]) -> None:
    slots = world["impressions"].select(["request_id", "item_id"])
    assert slots.group_by(["request_id", "item_id"]).aggregate([]).num_rows == slots.num_rows


def test_nobody_is_shown_an_item_acted_on_the_day_before_or_earlier(
    world: dict[str, pa.Table],
) -> None:
    first = world["events"].group_by(["user_id", "item_id"]).aggregate([("timestamp", "min")])
    slots = world["impressions"].select(["user_id", "item_id", "timestamp"])
    shown = slots.join(first, ["user_id", "item_id"], join_type="inner")
    days = [
        (column(shown, name) - day_start_ms(1)) // DAY_MS for name in ("timestamp", "timestamp_min")
    ]
    assert (days[0] <= days[1]).all()


def test_saves_make_the_boards(world: dict[str, pa.Table]) -> None:
    saves = world["events"].filter(pc.equal(world["events"]["action"], "save"))
    edges = saves.select(["board_id", "item_id", "timestamp"])
    assert world["boards"].equals(edges)
    owners = saves.group_by("board_id").aggregate([("user_id", "count_distinct")])
    assert pc.max(owners["user_id_count_distinct"]).as_py() == 1
    others = world["events"].filter(pc.not_equal(world["events"]["action"], "save"))
    assert others["board_id"].null_count == others.num_rows


def test_actions_have_realistic_rates_and_durations(world: dict[str, pa.Table]) -> None:
    labels = pc.struct_field(world["impressions"]["labels"].combine_chunks(), [0])
    assert labels.type == pa.bool_()
    for a, (low, high) in enumerate([(0.01, 0.05), (0.01, 0.05), (0.01, 0.07), (0.005, 0.02)]):
        flags = pc.struct_field(world["impressions"]["labels"].combine_chunks(), [a])
        assert low < pc.mean(flags.cast(pa.float32())).as_py() < high
    for action, lasts in (("save", False), ("click", True), ("closeup", True), ("hide", False)):
        events = world["events"].filter(pc.equal(world["events"]["action"], action))
        assert (column(events, "duration_s") > 0).all() == lasts


def test_higher_slots_get_more_actions(world: dict[str, pa.Table]) -> None:
    position = column(world["impressions"], "position")
    labels = world["impressions"]["labels"].combine_chunks()
    acted = np.logical_or.reduce([f.to_numpy(zero_copy_only=False) for f in labels.flatten()])
    assert acted[position < 5].mean() > 1.2 * acted[position >= 15].mean()


def test_near_duplicates_share_a_signature_and_look_alike(world: dict[str, pa.Table]) -> None:
    signature = column(world["items"], "image_signature")
    content = np.stack(world["items"]["content"].to_pylist()).astype(np.float32)
    order = np.argsort(signature, kind="stable")
    twins = np.nonzero(np.diff(signature[order]) == 0)[0]
    assert 0.02 < len(twins) / len(signature) < 0.12
    alike = (content[order[twins]] * content[order[twins + 1]]).sum(axis=1)
    strangers = (content[order[:-1]] * content[order[1:]]).sum(axis=1)
    assert alike.mean() > 0.7
    assert strangers.mean() < 0.3


def test_the_same_seed_gives_the_same_tables_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        settings = replace(SMALL, seed=seed)
        generate(settings, tmp_path / name, tmp_path / f"{name}-hidden", range(1, 4))
    first, same, other = (tables(tmp_path / name) for name in "abc")
    assert all(first[name].equals(same[name]) for name in first)
    assert not any(first[name].equals(other[name]) for name in first)


def test_a_day_added_later_is_as_if_simulated_at_once(tmp_path: Path) -> None:
    generate(SMALL, tmp_path / "once", tmp_path / "once-hidden", range(1, 12))
    generate(SMALL, tmp_path / "twice", tmp_path / "hidden", range(1, 11))
    generate(SMALL, tmp_path / "alone", tmp_path / "hidden", range(11, 12))
    summary = generate(SMALL, tmp_path / "twice", tmp_path / "hidden", range(11, 12))
    once, twice, alone = (tables(tmp_path / name) for name in ("once", "twice", "alone"))
    assert all(once[name].equals(twice[name]) for name in once)
    assert set(column(alone["events"], "timestamp") // DAY_MS) == {day_start_ms(11) // DAY_MS}
    assert alone["items"].num_rows == summary.items > 0
    assert alone["events"].num_rows == summary.events > 0


def test_a_run_that_fails_leaves_the_growing_tables_as_they_were(tmp_path: Path) -> None:
    generate(SMALL, tmp_path / "raw", tmp_path / "hidden", range(1, 4))
    before = tables(tmp_path / "raw")

    def interrupt(day: int) -> None:
        if day == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SMALL, tmp_path / "raw", tmp_path / "hidden", range(4, 7), interrupt)
    after = {name: read(tmp_path / "raw", name) for name in ("items", "users", "boards")}
    assert all(before[name].equals(after[name]) for name in after)


def test_the_summary_counts_the_rows_of_the_tables(tmp_path: Path) -> None:
    done: list[int] = []
    summary = generate(SMALL, tmp_path / "raw", tmp_path / "hidden", range(1, 11), done.append)
    rows = {name: table.num_rows for name, table in tables(tmp_path / "raw").items()}
    assert {name: getattr(summary, name) for name in rows} == rows
    assert sum(summary.actions.values()) == summary.events
    assert summary.shown > summary.impressions
    assert done == list(range(1, 11))
    assert (summary.first_day, summary.last_day) == (1, 10)
    assert (summary.items, summary.users) == (SMALL.num_items, SMALL.num_users)


@pytest.mark.parametrize(
    ("settings", "days", "named"),
    [
        (SMALL, range(5, 6), "day 4 is not recorded"),
        (replace(SMALL, search_share=0.5), range(4, 5), "another search_share"),
        (SMALL, range(0, 4), "start at 1"),
        (SMALL, range(4, 4), "consecutive"),
    ],
)
def test_days_that_do_not_follow_are_refused(
    settings: WorldSettings, days: range, named: str, tmp_path: Path
) -> None:
    generate(SMALL, tmp_path / "raw", tmp_path / "hidden", range(1, 4))
    with pytest.raises(UserError, match=named):
        generate(settings, tmp_path / "raw", tmp_path / "hidden", days)


def test_without_a_journal_no_later_day_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="generate from day 1"):
        generate(SMALL, tmp_path / "raw", tmp_path / "hidden", range(2, 3))
