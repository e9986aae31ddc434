import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError, build
from data.world import World, WorldSettings, resolve


def test_a_preset_fills_only_what_was_not_given() -> None:
    world = resolve(WorldSettings(preset="tiny", days=180, num_users=10_000))
    assert (world.days, world.num_users, world.num_items) == (180, 10_000, 800)


def test_the_default_world_has_the_documented_size() -> None:
    world = resolve(WorldSettings())
    assert (world.days, world.num_users, world.num_items) == (180, 10_000, 20_000)


def test_drift_presets_are_ordered_around_the_default() -> None:
    presets = ("drift0", "default", "drift1", "drift2")
    rates = [resolve(WorldSettings(preset=preset)).drift_rate for preset in presets]
    assert rates[0] == 0
    assert rates == sorted(set(rates))


@given(st.sampled_from(["tiny", "default", "drift2"]), st.integers(0, 2**32), st.integers(5, 400))
def test_resolving_twice_changes_nothing(preset: str, seed: int, days: int) -> None:
    world = resolve(WorldSettings(preset=preset, seed=seed, days=days))
    assert resolve(world) == world
    assert type(world) is World


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"preset": "huge"}, "preset"),
        ({"search_share": 1.5}, "search_share"),
        ({"version": 2}, "version"),
        ({"num_user": 5}, "num_users"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(tree: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build(WorldSettings, tree)
