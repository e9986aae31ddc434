"""Where the parts of a ranker run: placements that take requests on the host and answer there."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.features import FeatureEncoder
from models.reading import Items
from tests.benchmarks.ranker_store import CANDIDATES, HISTORY, Inputs, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.ranker import Ranker

ALIGNED = 16
SIDES = ("item", "user", "trend", "tally")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class EncodedRecord(nn.Module):
    """Stands for the encoder of how candidates had done."""

    def forward(self, inputs: Inputs) -> Tensor:
        """`record.encoded` float32[N, ...], as it is."""
        return inputs["record.encoded"]


class Encoded(nn.Module):
    """Stands for an encoder of columns whose work is done."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.side, self.widths, self.width = encoder.side, [*encoder.widths], encoder.width

    def forward(self, inputs: Inputs, prefix: str = "") -> list[Tensor]:
        """`<side>.encoded` float32[N, D] -> its parts."""
        return [*inputs[f"{prefix}{self.side}.encoded"].split(self.widths, 1)]


def encoders(model: nn.Module) -> dict[str, FeatureEncoder]:
    """The encoders of columns by their place in a model."""
    return {n: m for n, m in model.named_modules() if isinstance(m, FeatureEncoder)}


def after_encoding(model: Ranker) -> Ranker:
    """A copy that reads encoded columns."""
    rest = copy.deepcopy(model)
    for name, encoder in encoders(model).items():
        parent, _, own = name.rpartition(".")
        setattr(rest.get_submodule(parent), own, Encoded(encoder))
    rest.record = EncodedRecord()
    return rest


def encode(model: Ranker, inputs: Inputs) -> Inputs:
    """Named arrays with one vector a row in place of its columns."""
    found = {one.side: torch.cat(one(inputs), 1) for one in encoders(model).values()}
    found["record"] = model.record(inputs)
    kept = {name: array for name, array in inputs.items() if name.split(".")[0] not in SIDES}
    codes = {"codes": model.item.features.codes(inputs, found["item"])}
    return kept | codes | {f"{side}.encoded": encoded for side, encoded in found.items()}


def rank(model: Ranker, inputs: Inputs) -> Tensor:
    """Probabilities of all candidates of a batch, float32[R, C, A]."""
    count = len(inputs["history.lengths"])
    vectors = model.item(inputs)
    codes = inputs["codes"] if "codes" in inputs else model.item.features.codes(inputs, vectors)
    items, events = Items(vectors, codes), count * HISTORY
    past = Items(*(part[:events] for part in items))
    none = Items(*(torch.zeros_like(part[:count]) for part in items))
    read = model.user(inputs, past, none, HISTORY)
    shape = (count, CANDIDATES)
    candidates = Items(*(part[events:].unflatten(0, shape) for part in items))
    position = inputs["candidate.position"]
    record = model.record(inputs).unflatten(0, shape)
    return torch.sigmoid(model.over(read, candidates, position.view(shape), record))


class OneCopy:
    """Arrays of a fixed size that travel to the GPU as one."""

    def __init__(self, example: Inputs) -> None:
        self.places: dict[str, tuple[int, int, Tensor]] = {}
        end = 0
        for name, array in example.items():
            size = array.numel() * array.element_size()
            self.places[name] = (end, size, array)
            end += -(-size // ALIGNED) * ALIGNED
        self.host = torch.empty(end, dtype=torch.uint8, pin_memory=DEVICE == "cuda")
        self.device = torch.empty(end, dtype=torch.uint8, device=DEVICE)
        self.arrays = self._views(self.device)
        self._staged = self._views(self.host)

    def _views(self, buffer: Tensor) -> Inputs:
        return {
            name: buffer[start : start + size].view(like.dtype).view(like.shape)
            for name, (start, size, like) in self.places.items()
        }

    def __call__(self, inputs: Inputs) -> Inputs:
        """The arrays on the GPU; they hold until the next call."""
        for name, array in inputs.items():
            self._staged[name].copy_(array)
        self.device.copy_(self.host, non_blocking=True)
        return self.arrays


class ManyCopies:
    """Arrays of a fixed size, each of which travels alone."""

    def __init__(self, example: Inputs) -> None:
        self.arrays = {name: array.to(DEVICE) for name, array in example.items()}

    def __call__(self, inputs: Inputs) -> Inputs:
        """The arrays on the GPU; they hold until the next call."""
        for name, array in inputs.items():
            self.arrays[name].copy_(array)
        return self.arrays


class Captured:
    """A function of arrays that stay in place, as one CUDA graph."""

    def __init__(self, function: Callable[[Inputs], Tensor], arrays: Inputs) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(arrays)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = function(arrays)

    def __call__(self, arrays: Inputs) -> Tensor:
        """The function of the arrays, which are those that it was captured with."""
        self.graph.replay()
        return self.out


class Placement:
    """One arm: requests on the host -> probabilities on the host."""

    def __init__(self, arm: str, model: Ranker, store: Store, example: Inputs) -> None:
        where, _, how = arm.partition("_")
        self.prepare: Callable[[Inputs], Inputs] = lambda request: request
        self.travel: Callable[[Inputs], Inputs] = lambda inputs: inputs
        if where == "mixed":
            self.prepare = lambda request: encode(model, store.look_up(request))
            moved = after_encoding(model).to(DEVICE)
            self.run = lambda inputs: rank(moved, inputs)
            self.travel = OneCopy(self.prepare(example))
        elif where == "gpu":
            moved, there = copy.deepcopy(model).to(DEVICE), store.to(DEVICE)
            self.run = lambda inputs: rank(moved, there.look_up(inputs))
            self.travel = ManyCopies(example)
        else:
            self.run = lambda request: rank(model, store.look_up(request))
        if how == "graph":
            self.run = Captured(self.run, self.travel(self.prepare(example)))
        elif how == "compiled":
            self.run = torch.compile(self.run, dynamic=False)

    def __call__(self, request: Inputs) -> Any:
        """Probabilities, [R, C, A]; they have arrived."""
        return self.run(self.travel(self.prepare(request))).cpu().numpy()
