"""Elapsed times are encoded exactly, over eight orders of magnitude."""

import torch

from models.time_encoding import FOUR_WEEKS_MS, SECOND_MS, GapEncoding


def encoding() -> GapEncoding:
    torch.manual_seed(0)
    return GapEncoding(16)


def test_less_than_a_second_counts_as_a_second() -> None:
    encode = encoding()
    rows = encode(torch.tensor([0, 1, SECOND_MS]))
    assert torch.allclose(rows, rows[[2, 2, 2]], atol=1e-6)


def test_periods_run_from_a_second_to_four_weeks() -> None:
    periods = encoding().periods_ms
    assert periods[0] == SECOND_MS
    assert periods[-1] == FOUR_WEEKS_MS
    assert (periods.diff() > 0).all()


def test_seconds_are_told_apart_after_ten_years() -> None:
    """float32 milliseconds could not: their step is 32 s there."""
    years = 10 * 365 * 86_400_000
    encode = encoding()
    rows = encode(torch.tensor([years, years + 300]))
    assert float((rows[0] - rows[1]).abs().max().detach()) > 1e-2


def test_a_longer_gap_is_another_vector() -> None:
    gaps = torch.tensor([10**k for k in range(3, 12)])
    rows = encoding()(gaps)
    distances = torch.cdist(rows, rows) + 9 * torch.eye(len(gaps))
    assert float(distances.min().detach()) > 0.05
