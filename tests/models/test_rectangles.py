import torch

from models.rectangles import rectangle, spread


def test_lists_spread_into_a_rectangle() -> None:
    place, shape = rectangle(torch.tensor([2, 0, 3]), 5)
    assert shape == (3, 3)
    wide = spread(torch.arange(1, 6), place, shape)
    assert wide.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert wide.flatten()[place].tolist() == [1, 2, 3, 4, 5]
