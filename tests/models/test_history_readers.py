"""What candidates find in a history depends on what is there, not on padding or company."""

import pytest
import torch

from models.history_readers import NEWEST, READERS, newest

DIM, REQUESTS, COUNT, LENGTH = 8, 3, 4, 14
readers = pytest.mark.parametrize("name", READERS)


def made(name):
    torch.manual_seed(0)
    return READERS[name](DIM, 2, 2)


def histories(lengths=(2, 7, LENGTH)):
    torch.manual_seed(1)
    there = torch.arange(LENGTH) < torch.tensor(lengths).unsqueeze(1)
    states = torch.randn(REQUESTS, LENGTH, DIM)
    return torch.randn(REQUESTS, COUNT, DIM), states, (~there).float() * -1e9


@readers
def test_what_lies_past_a_history_is_not_read(name):
    reader, (items, states, mask) = made(name), histories()
    noisy = torch.where(mask.unsqueeze(-1) < 0, torch.randn_like(states), states)
    assert torch.allclose(reader(items, states, mask), reader(items, noisy, mask), atol=1e-6)


@readers
def test_a_longer_rectangle_changes_nothing(name):
    reader, (items, states, mask) = made(name), histories((2, 7, 9))
    short = reader(items, states[:, :9], mask[:, :9])
    assert torch.allclose(reader(items, states, mask), short, atol=1e-5)


@readers
def test_candidates_do_not_see_each_other(name):
    reader, (items, states, mask) = made(name), histories()
    alone = [reader(items[:, at : at + 1], states, mask) for at in range(COUNT)]
    assert torch.allclose(reader(items, states, mask), torch.cat(alone, 1), atol=1e-5)


@readers
def test_each_candidate_finds_something_of_its_own(name):
    reader, (items, states, mask) = made(name), histories()
    found = reader(items, states, mask)
    assert (found[:, 0] - found[:, 1]).abs().amax(-1).min() > 1e-4


def test_the_newest_come_first_and_the_oldest_again_where_there_are_fewer():
    _, _, mask = histories((2, 7, LENGTH))
    at = torch.arange(LENGTH, dtype=torch.float32).expand(REQUESTS, 1, LENGTH).unsqueeze(-1)
    found = newest(at, mask)[:, 0, :, 0].int().tolist()
    assert found[0] == [1, 0] + [0] * (NEWEST - 2)
    assert found[1] == [6, 5, 4, 3, 2, 1, 0] + [0] * (NEWEST - 7)
    assert found[2] == list(range(LENGTH - 1, LENGTH - 1 - NEWEST, -1))
