"""Trained models applied to rows and histories, by the training code itself.

Serving runs the exported programs instead; tests hold both to the same scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data.batching import tensors
from data.contract.encode import Events, Ints, encode_history
from data.contract.schema import USER_COLUMN
from data.contract.settings import build
from data.dataset import Dataset
from data.trends import Trends, days_of
from models.attention import token_of
from models.dual_encoder import DualEncoder
from models.id_embeddings import IdEmbeddingSettings, IdEncoder
from models.towers import Answers, UserTower
from models.two_tower import TwoTowerSettings, build_two_tower
from models.user_encoder import UserEncoder, UserSettings
from ray_jobs.engine.snapshots import take_over
from ray_jobs.engine.turns import scores_in_turns
from serve.candidates import shares_of_list

if TYPE_CHECKING:
    from data.contract.artifact import Artifact
    from data.contract.schema import Vocabulary
    from data.queries import Queries
    from data.sequence_windows import Windows
    from ray_jobs.engine.loop import Snapshot

Floats = npt.NDArray[np.float32]

HEADROOM = 1.25
CHUNK_ITEMS = 8192
CHUNK_USERS = 512
CHUNK_WINDOWS = 128
DualSettings = TwoTowerSettings | UserSettings | IdEmbeddingSettings
DUAL_SETTINGS: dict[str, type[DualSettings]] = {
    "id": IdEmbeddingSettings,
    "two_tower": TwoTowerSettings,
    "user": UserSettings,
}


def table_rows(rows: int) -> int:
    """Rows of an ID table: those in use and 25% for ids to come."""
    return int(rows * HEADROOM) + 1


def filled(core: nn.Module, snapshot: Snapshot) -> dict[str, Tensor]:
    """Takes a snapshot's weights over into a dense part that only infers; gives the tables."""
    tables = take_over(core, snapshot)
    core.eval()
    return tables


def look_up(table: Tensor, rows: Ints) -> Tensor:
    """Rows of a table, float32[N, dim]; a row that it does not hold is row 0, zeros."""
    known = np.where(rows < len(table), rows, 0)
    return table[torch.from_numpy(known)]


@dataclass
class Retriever:
    """The towers of the retriever, or of a model it builds on, and what was popular when.

    Towers compute on their device; tables, and all that comes back, are on the CPU.
    """

    core: DualEncoder
    tables: Mapping[str, Tensor]
    dataset: Dataset
    max_length: int
    trends: Trends | None
    known_items: Floats | None = None
    device: str = "cpu"
    name: ClassVar[str] = "two_tower"
    _of_day: tuple[int, Floats] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        settings: DualSettings,
        snapshot: Snapshot,
        trends: Trends | None,
        device: str = "cpu",
    ) -> Retriever:
        """Builds the towers on a device and fills them; `trends` holds what queries may know."""
        core = _dual_encoder(settings, dataset.vocabulary)
        length = 0 if isinstance(settings, IdEmbeddingSettings) else settings.sequence.max_length
        tables = filled(core, snapshot)
        return cls(core.to(device), tables, dataset, length, trends, device=device)

    @classmethod
    def open(
        cls, artifact: Artifact, dataset: Dataset, trends: Trends | None, device: str = "cpu"
    ) -> Retriever:
        """Loads a two_tower, user or id artefact; `trends` holds what queries may know."""
        kind = artifact.kind
        settings = build(DUAL_SETTINGS[kind], artifact.manifest.settings[kind])
        snapshot = load_file(artifact.path / "model.safetensors")
        return cls.of(dataset, settings, snapshot, trends, device)

    def _there(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    @cached_property
    def item_vectors(self) -> Floats:
        """Unit vectors of all item rows; zeros for the rows that are no items. [rows, D].

        Those of `known_items`, if they were made before.
        """
        if self.known_items is not None:
            return self.known_items
        rows = np.arange(self.dataset.item_ids.rows)
        found = [self._encode_items(chunk) for chunk in chunks_of(rows, CHUNK_ITEMS)]
        vectors = np.concatenate(found)
        vectors[: self.dataset.item_ids.first_row] = 0
        return vectors

    @torch.inference_mode()
    def _encode_items(self, rows: Ints) -> Floats:
        inputs = tensors(self.dataset.items.gather(rows))
        inputs["item_id.rows"] = look_up(self.tables["item_id"], rows)
        return as_numpy(self.core.item_tower(self._there(inputs)))

    def user_vectors(
        self, histories: Events, users: Ints, moments_ms: Ints | None = None
    ) -> Floats:
        """Unit vectors of users as of the end of their histories.

        Args:
            histories: all that each user did, [Q].
            users: their rows, [Q].
            moments_ms: moments of the requests, [Q], where the model reads what was known of users
                at the midnight before.

        Returns:
            float32[Q, D].
        """
        chunks = chunks_of(np.arange(len(users)), CHUNK_USERS)
        found = [
            self._encode_users(
                _cut(histories, at), users[at], None if moments_ms is None else moments_ms[at]
            )
            for at in chunks
        ]
        return np.concatenate([np.zeros((0, self.item_vectors.shape[1]), np.float32), *found])

    @torch.inference_mode()
    def _encode_users(self, histories: Events, users: Ints, moments_ms: Ints | None) -> Floats:
        inputs = self._asked(histories, users, moments_ms)
        return as_numpy(self.core.user_tower(self._there(inputs)))

    def _asked(self, histories: Events, users: Ints, moments_ms: Ints | None) -> dict[str, Tensor]:
        inputs = self._inputs(histories.newest(self.max_length), users)
        days = self.dataset.user_days
        if days is not None:
            assert moments_ms is not None
            inputs[f"user.{USER_COLUMN}"] = torch.from_numpy(days.before(users, moments_ms))
        return inputs

    @property
    def has_interests(self) -> bool:
        """Whether users have several vectors."""
        tower = self.core.user_tower
        return isinstance(tower, UserTower) and tower.has_interests

    @torch.inference_mode()
    def interest_vectors(
        self, histories: Events, users: Ints, moments_ms: Ints | None = None
    ) -> tuple[Floats, Floats]:
        """All vectors of users, as `user_vectors` asks for them.

        Returns:
            float32[Q, S, D], that of all they did first, and their shares of a list [Q, S].
        """
        inputs = self._asked(histories, users, moments_ms)
        nothing = torch.zeros(0, dtype=torch.int64)
        whole, interests, shares = self._answers(inputs, nothing, nothing)[:3]
        vectors = torch.cat([whole[:, None], interests], 1)
        return as_numpy(vectors), shares_of_list(as_numpy(shares))

    @torch.inference_mode()
    def conditioned_vectors(
        self, histories: Events, users: Ints, moments_ms: Ints | None, conditions: Ints
    ) -> Floats:
        """Vectors of users as `user_vectors`, each under the condition of a hash, [Q].

        Of a model that knows no conditions, those without.
        """
        tower = self.core.user_tower
        if not isinstance(tower, UserTower) or not tower.has_conditions:
            return self.user_vectors(histories, users, moments_ms)
        inputs = self._asked(histories, users, moments_ms)
        return as_numpy(
            self._answers(inputs, torch.from_numpy(conditions), torch.arange(len(users)))[-1]
        )

    def _answers(
        self, inputs: dict[str, Tensor], conditions: Tensor, users: Tensor
    ) -> tuple[Tensor, ...]:
        assert isinstance(self.core.user_tower, UserTower)
        asked = {"condition.interest": conditions, "condition.user": users}
        found: tuple[Tensor, ...] = Answers(self.core.user_tower)(self._there(inputs | asked))
        return found

    def _inputs(self, histories: Events, users: Ints) -> dict[str, Tensor]:
        """What the user tower reads of users and of their histories, cut to its length."""
        arrays = encode_history(histories)
        inputs = tensors(arrays | self.dataset.users.gather(users))
        if "user_id" in self.tables:
            inputs["user_id.rows"] = look_up(self.tables["user_id"], users)
        items = arrays["history.item"]
        inputs["history.embedding.rows"] = torch.from_numpy(self.item_vectors[items])
        return inputs

    def state_vectors(self, windows: Windows, users: Ints) -> Floats:
        """Unit vectors of users as of the states of windows.

        Args:
            windows: W of them with T states, of which the targets tell the lengths.
            users: rows of their users, [W].

        Returns:
            float32[T, D].
        """
        chunks = chunks_of(np.arange(len(windows)), CHUNK_WINDOWS)
        found = [self._encode_states(windows.take(at), users[at]) for at in chunks]
        return np.concatenate([np.zeros((0, self.item_vectors.shape[1]), np.float32), *found])

    @torch.inference_mode()
    def _encode_states(self, windows: Windows, users: Ints) -> Floats:
        inputs = self._there(self._inputs(windows.events, users))
        states = self.core.user_tower.states(inputs)
        targets = (windows.target_window, windows.target_length)
        window, length = (torch.from_numpy(target).to(self.device) for target in targets)
        tokens = token_of(window, length, inputs["history.lengths"])
        return as_numpy(self.core.user_tower.project(states[tokens]))

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue scores of a chunk of queries, float32[b, rows].

        Where users have several vectors, an item scores by when its turn comes.
        """
        asked = queries.history, queries.users, queries.now_ms
        if self.has_interests:
            lists = self.interest_vectors(*asked)
            return scores_in_turns(*lists, self.item_vectors, self.priors_of(queries), queries)
        users = self.user_vectors(*asked)
        scores: Floats = users @ self.item_vectors.T
        return scores + self.priors_of(queries)

    def priors_of(self, queries: Queries) -> Floats:
        """What items gain whoever asks, as of the moments of queries: float32[b, rows]."""
        found = np.zeros((len(queries), self.dataset.item_ids.rows), np.float32)
        if self.trends is None or queries.now_ms is None:
            return found
        days = days_of(self.trends.calendar, queries.now_ms)
        for day in np.unique(days).tolist():
            found[days == day] = self.priors(day)
        return found

    def priors(self, day: int) -> Floats:
        """What each item row gains on a day whoever asks, float32[rows]; 0 without a clock.

        The last day's are kept; they are not to be written to.
        """
        if self._of_day is None or self._of_day[0] != day:
            self._of_day = day, self._priors(day)
        return self._of_day[1]

    @torch.inference_mode()
    def _priors(self, day: int) -> Floats:
        rows = np.arange(self.dataset.item_ids.rows)
        if self.trends is None or self.core.prior is None:
            return np.zeros(len(rows), np.float32)
        known = tensors(self.trends.before(np.array(day), rows))
        return as_numpy(self.core.prior(self._there(known)))


def _dual_encoder(settings: DualSettings, vocabulary: Vocabulary) -> DualEncoder:
    if isinstance(settings, IdEmbeddingSettings):
        return IdEncoder(settings)
    if isinstance(settings, UserSettings):
        return UserEncoder(settings, vocabulary)
    return build_two_tower(settings, vocabulary)


def _cut(events: Events, at: Ints) -> Events:
    return events.cut(events.offsets[at], events.lengths[at])


def chunks_of(rows: Ints, size: int) -> Iterator[Ints]:
    """Runs of at most `size` of the rows, in order."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def as_numpy(value: Tensor) -> Floats:
    """A tensor, of the CPU without a copy."""
    array: Floats = value.cpu().numpy()
    return array
