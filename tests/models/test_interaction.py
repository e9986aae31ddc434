import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.interaction import MIXERS, Cross, Crossing, CrossingSettings, FieldAttention, MaskBlocks

SMALL = CrossingSettings(width=8, hidden=16, blocks=3, bottleneck=0.25, dropout=0.0)
mixers = pytest.mark.parametrize("name", MIXERS)


def settings(*layers: str) -> CrossingSettings:
    return CrossingSettings(layers=layers, width=8, hidden=16, num_heads=2, dropout=0.0)


@given(
    st.lists(st.lists(st.sampled_from(list(MIXERS)), min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_any_stack_gives_one_vector_a_row_whatever_the_batch(stack, widths):
    torch.manual_seed(0)
    crossing = Crossing(widths, 5, settings(*map("+".join, stack))).eval()
    parts = [torch.randn(4, width) for width in widths]
    together = crossing(parts)
    assert together.shape == (4, 5)
    alone = crossing([part[2:3] for part in parts])
    torch.testing.assert_close(together[2:3], alone)
    together.sum().backward()
    assert all(p.grad is not None for p in crossing.parameters())


@mixers
def test_an_output_depends_on_every_field(name):
    torch.manual_seed(0)
    fields = torch.randn(2, 4, 8, requires_grad=True)
    MIXERS[name](4, SMALL)(fields)[0, 0].sum().backward()
    assert fields.grad[0].any(1).all()
    assert not fields.grad[1].any()


def test_masks_multiply_what_a_perceptron_makes_of_the_row():
    torch.manual_seed(0)
    masks, fields = MaskBlocks(2, SMALL), torch.randn(3, 2, 8)
    row = fields.flatten(1)
    narrow = torch.relu(masks.narrow(row)).chunk(3, 1)
    read = [
        torch.relu(masks.norm(((each @ mask) * row) @ reads))
        for each, mask, reads in zip(narrow, masks.masks, masks.reads, strict=True)
    ]
    torch.testing.assert_close(masks(fields).flatten(1), masks.out(torch.cat(read, 1)))


def test_a_cross_layer_is_of_the_second_degree():
    torch.manual_seed(0)
    cross, fields = Cross(2, SMALL), torch.randn(3, 2, 8)
    torch.nn.init.zeros_(cross.high.bias)
    torch.testing.assert_close(cross(3 * fields), 9 * cross(fields))


def test_attention_among_fields_knows_no_order_of_them():
    torch.manual_seed(0)
    attention, fields = FieldAttention(4, SMALL), torch.randn(3, 4, 8)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(attention(fields[:, order]), attention(fields)[:, order])


def test_a_product_of_two_fields_is_learnt_with_crossing_and_not_by_a_sum():
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (256, 2)) * 2.0 - 1
    wanted = (signs[:, 0] * signs[:, 1]).unsqueeze(1)
    errors = {}
    for layers in ((), ("mlp",), ("masks",), ("cross",), ("mlp+masks", "mlp+fields")):
        crossing = Crossing([1, 1], 1, settings(*layers))
        steps = torch.optim.Adam(crossing.parameters(), lr=0.01)
        for _ in range(150):
            steps.zero_grad()
            error = (crossing([signs[:, :1], signs[:, 1:]]) - wanted).square().mean()
            error.backward()
            steps.step()
        errors[layers] = error.item()
    assert errors.pop(()) > 0.9
    assert max(errors.values()) < 0.1


@pytest.mark.parametrize("layer", ["mlp+deep", "", "masks+"])
def test_a_layer_that_nothing_is_known_by_is_refused(layer):
    with pytest.raises(ValueError, match=re.escape("join some of mlp, masks, fields, cross by +")):
        CrossingSettings(layers=(layer,))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 must divide width=32"):
        CrossingSettings(num_heads=3)
