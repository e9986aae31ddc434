"""Events of a history as vectors: the item, and what else is known.

Shapes: H events, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from models.time_encoding import ClockEncoding, DurationEncoding, GapEncoding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from data.contract.schema import Vocabulary

EventInput = Literal["action", "surface", "time", "clock", "duration"]
EVENT_ARRAYS: dict[str, str] = {
    "action": "history.action",
    "surface": "history.surface",
    "clock": "history.time_ms",
    "duration": "history.duration_s",
}


class EventEncoder(nn.Module):
    """One vector an event: the sum of its item and of what else is known of it.

    A linear map of the concatenation of all parts would be the same.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: Vocabulary,
        known: Sequence[EventInput] = ("action", "surface", "time"),
        time: str = "history.gap_ms",
    ) -> None:
        """Builds the parts.

        Args:
            dim: D, width of item vectors and of events.
            vocabulary: actions and surfaces; without a clock there are no times.
            known: what is known of an event beside its item.
            time: the array of elapsed times, milliseconds.
        """
        super().__init__()
        self.item = nn.Linear(dim, dim)
        # Close to the items themselves at first: "more of the same" is then the simplest answer.
        nn.init.eye_(self.item.weight)
        makers: dict[str, Callable[[], nn.Module]] = {
            "action": lambda: _codes(len(vocabulary.actions), dim),
            "surface": lambda: _codes(len(vocabulary.surfaces), dim),
            "time": lambda: GapEncoding(dim).shrink(0.1),
            "clock": lambda: ClockEncoding(dim),
            "duration": lambda: DurationEncoding(dim),
        }
        timeless = vocabulary.order != "clock"
        self.known = [name for name in known if not (timeless and name in ("time", "clock"))]
        self.arrays = EVENT_ARRAYS | {"time": time}
        for name in self.known:
            self.add_module(name, makers[name]())

    def forward(self, items: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Sums the parts.

        Args:
            items: float32[H, D] vectors of the events' items.
            inputs: the arrays of the parts, [H] each (`data.contract.encode`).

        Returns:
            float32[H, D].
        """
        events: Tensor = self.item(items)
        for name in self.known:
            events = events + self.get_submodule(name)(inputs[self.arrays[name]])
        return events

    def example(self, events: int) -> dict[str, Tensor]:
        """What `forward` reads beside items, for an export."""
        kinds = {"duration": torch.float32}
        return {
            self.arrays[name]: torch.zeros(events, dtype=kinds.get(name, torch.int64))
            for name in self.known
        }


def _codes(count: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(count + 1, dim)
    nn.init.normal_(table.weight, std=0.02)
    return table
