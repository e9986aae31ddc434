"""Sequences laid end to end are encoded as each would be alone, from left to right."""

import dataclasses
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.contract.settings import UserError
from models import attention
from models.attention import PointwiseBlock, SoftmaxBlock, grouped, layout, token_of
from models.sequence_encoder import SequenceEncoder, SequenceSettings

DIM = 8
SETTINGS = SequenceSettings(max_length=6, num_layers=2, num_heads=2)
LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


blocks = pytest.mark.parametrize("block", ["softmax", "pointwise"])


def encoder(
    ordered: bool = True, num_layers: int = 2, block: Literal["softmax", "pointwise"] = "softmax"
) -> SequenceEncoder:
    torch.manual_seed(0)
    settings = dataclasses.replace(SETTINGS, num_layers=num_layers, block=block)
    made = SequenceEncoder(DIM, settings, ordered).eval()
    for each in made.blocks:
        if isinstance(each, PointwiseBlock) and ordered:
            torch.nn.init.normal_(each.distance)
    return made


def sequences(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Events, lengths and starts."""
    draw = torch.Generator().manual_seed(1)
    events = torch.randn(sum(lengths), DIM, generator=draw)
    return events, torch.tensor(lengths), torch.randn(len(lengths), DIM, generator=draw)


def encode(model: SequenceEncoder, events: Tensor, lengths: Tensor, start: Tensor) -> Tensor:
    return model(events, start, model.layout(lengths, len(events)))


def attend_in_full(block: SoftmaxBlock, x: Tensor) -> Tensor:
    """Causal attention over one sequence [L, D], with the softmax written out."""
    q, k, v = block.qkv(x).view(len(x), 3, block.num_heads, -1).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    future = torch.ones(len(x), len(x)).triu(1).bool()
    mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
    return block.out(mixed.transpose(0, 1).flatten(1))


def mix_in_full(block: PointwiseBlock, x: Tensor) -> Tensor:
    """HSTU's block over one sequence [L, D], token by token."""
    mixed = F.silu(block.mix(block.norm(x)))
    gate, v, q, k = (part.view(len(x), block.num_heads, -1) for part in mixed.chunk(4, -1))
    read = torch.zeros_like(v)
    for i in range(len(x)):
        for j in range(i + 1):
            score = (q[i] * k[j]).sum(-1)
            score = score + block.distance[i - j]
            read[i] += F.silu(score)[:, None] * v[j] / block.most
    return x + block.out(block.mixed_norm(read.flatten(1)) * gate.flatten(1))


def encode_one(model: SequenceEncoder, events: Tensor, start: Tensor) -> Tensor:
    """Reference: one sequence, nothing padded."""
    x = torch.cat([start[None], events])
    if model.position is not None:
        x = x + model.position.weight[: len(x)]
    for block in model.blocks:
        if isinstance(block, PointwiseBlock):
            x = mix_in_full(block, x)
        else:
            x = x + attend_in_full(block, block.attention_norm(x))
            x = x + block.feed_forward(x)
    return model.norm(x)


@blocks
@given(lengths=LENGTHS, ordered=st.booleans())
def test_states_are_those_of_each_sequence_alone(
    block: Literal["softmax", "pointwise"], lengths: list[int], ordered: bool
) -> None:
    model = encoder(ordered, block=block)
    events, sizes, start = sequences(lengths)
    states = encode(model, events, sizes, start)
    parts = states[len(lengths) :].split(lengths)
    for b, own in enumerate(events.split(lengths)):
        expected = encode_one(model, own, start[b])
        assert torch.allclose(torch.cat([states[b : b + 1], parts[b]]), expected, atol=1e-5)


@blocks
def test_a_later_event_does_not_change_an_earlier_state(
    block: Literal["softmax", "pointwise"],
) -> None:
    model, (events, lengths, start) = encoder(block=block), sequences([5, 4])
    before = encode(model, events, lengths, start)
    changed = events.clone()
    changed[3] *= -1  # Adding a constant would do nothing: norms take the mean out.
    after = encode(model, changed, lengths, start)
    same = (before == after).all(1)
    first = 2  # Tokens of events follow the two starts.
    assert same[[0, 1, *range(first, first + 3), *range(first + 5, first + 9)]].all()
    assert not same[first + 3 : first + 5].any()


def test_without_order_a_layer_reads_what_was_before_and_not_where() -> None:
    model, (events, lengths, start) = encoder(False, num_layers=1), sequences([5])
    swapped = events[[2, 0, 1, 3, 4]]
    before, after = (encode(model, x, lengths, start) for x in (events, swapped))
    assert torch.allclose(before[4:], after[4:], atol=1e-5)
    ordered = encoder(True, num_layers=1)
    before, after = (encode(ordered, x, lengths, start) for x in (events, swapped))
    assert not torch.allclose(before[4:], after[4:], atol=1e-5)


@given(lengths=LENGTHS, spare=st.integers(0, 3))
def test_a_layout_points_there_and_back(lengths: list[int], spare: int) -> None:
    width = max(lengths) + spare
    places = layout(torch.tensor(lengths), sum(lengths), width)
    assert places.rectangle.shape == (len(lengths), width + 1)
    tokens = torch.arange(len(lengths) + sum(lengths))
    assert torch.equal(places.rectangle.flatten()[places.flat], tokens)
    assert places.column[len(lengths) :].tolist() == [p + 1 for n in lengths for p in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "ALIKE", 2)
        by_two = grouped(places, torch.tensor(lengths))
    assert [rows for rows, _ in by_two.shapes[:-1]] == [2] * (len(by_two.shapes) - 1)
    for laid in (places, by_two):
        assert torch.equal(laid.padded[laid.place], tokens)
        assert sum(rows * wide for rows, wide in laid.shapes) == len(laid.padded)


@given(lengths=LENGTHS)
def test_the_token_after_each_prefix_lies_in_its_own_column(lengths: list[int]) -> None:
    sizes = torch.tensor(lengths)
    places = layout(sizes, sum(lengths), max(lengths))
    for sequence, length in enumerate(lengths):
        for read in range(length + 1):
            token = token_of(torch.tensor([sequence]), torch.tensor([read]), sizes)
            assert int(places.rectangle[sequence, read]) == int(token)
            assert int(places.column[token]) == read


@blocks
def test_which_sequences_share_a_rectangle_does_not_matter(
    block: Literal["softmax", "pointwise"], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = encoder(block=block), sequences([2, 0, 6, 1, 3])
    together = encode(model, *inputs)
    monkeypatch.setattr(attention, "ALIKE", 2)
    assert torch.allclose(encode(model, *inputs), together, atol=1e-5)


@blocks
def test_width_of_the_padding_does_not_matter(
    block: Literal["softmax", "pointwise"], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = encoder(block=block), sequences([2, 0, 3])
    trimmed = encode(model, *inputs)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.allclose(encode(model, *inputs), trimmed, atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"num_heads=2 must divide the model's width 9"):
        SequenceEncoder(9, SETTINGS, ordered=True)


def test_all_of_nothing_is_the_start_alone() -> None:
    model, (events, lengths, start) = encoder(), sequences([0, 0])
    states = encode(model, events, lengths, start)
    assert states.shape == (2, DIM)
    assert F.cosine_similarity(states[0], states[1], dim=0) < 0.999
