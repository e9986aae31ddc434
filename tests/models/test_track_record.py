import math

import pytest
import torch

from models.track_record import PRIOR_STRENGTH, RecordEncoder, read_tallies, tally_width
from tests.models import cases


def tallies(everything: list[float], *groups: list[float]) -> torch.Tensor:
    return read_tallies(torch.tensor([everything, *groups]))


def test_a_group_that_does_as_all_do_has_no_lift() -> None:
    found = tallies([20, 10, 100], [2, 1, 10])
    sizes = torch.log(torch.tensor([3 / 21, 2 / 11, 11 / 101]))
    assert torch.allclose(found[:3], sizes, atol=1e-6)
    assert torch.allclose(found[3:], torch.zeros(2), atol=1e-6)


def test_a_log_twice_as_long_reads_nearly_the_same() -> None:
    once, twice = (tallies([s * 40, s * 90, s * 400], [s * 30, s * 200, s * 900]) for s in (1, 2))
    assert torch.allclose(once, twice, atol=0.05)


def test_rates_of_few_are_drawn_to_those_of_all() -> None:
    few, many = tallies([10, 0, 100], [1, 0, 1], [1000, 0, 1000]).view(2, 5)[:, 3]
    assert 0 < few < many
    rate = (1 + PRIOR_STRENGTH / 10) / (1 + PRIOR_STRENGTH)
    assert float(few) == pytest.approx(math.log(rate / 0.1), rel=1e-5)


def test_without_impressions_rates_are_shares_of_all_touches() -> None:
    lift = tallies([50, 50, 0], [1000, 0, 0])[3:]
    assert float(lift[0]) == pytest.approx(math.log(2), abs=0.02)
    assert lift[1] < -3


def test_nothing_known_is_finite() -> None:
    assert torch.isfinite(tallies([0, 0, 0], [0, 0, 0])).all()
    assert not tallies([0, 0, 0], [0, 0, 0]).any()


@pytest.mark.parametrize(("trends", "counts"), [(True, True), (True, False), (False, True)])
def test_the_width_is_what_it_gives(trends: bool, counts: bool) -> None:
    encoder = RecordEncoder(cases.vocabulary(), trends, counts)
    example = encoder.example()
    assert encoder(example).shape == (len(next(iter(example.values()))), encoder.width)


def test_nothing_read_has_no_width() -> None:
    encoder = RecordEncoder(cases.vocabulary(), False, False)
    assert (encoder.width, encoder.example()) == (0, {})


def test_all_is_no_group_of_its_own() -> None:
    assert tally_width(3, 3) == 2 * 5
