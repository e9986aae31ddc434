"""Opening a trained graph encoder, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from safetensors.torch import load_file

from data.contract.settings import build
from data.graph.neighborhoods import NoNeighbors, open_graph
from models.graph_encoder import GraphEncoder, resolved
from ray_jobs.engine.graph_inference import GraphEmbedder
from ray_jobs.engine.light_gcn_inference import WholeGraphEmbedder
from ray_jobs.graph_settings import GraphSettings

if TYPE_CHECKING:
    from data.contract.artifact import Artifact
    from data.contract.encode import Ints
    from data.dataset import Dataset
    from data.graph.neighborhoods import SamplerSource
    from data.queries import Queries
    from ray_jobs.engine.inference import Floats


class Embedder(Protocol):
    """Item and user vectors in one space."""

    dataset: Dataset

    @property
    def item_vectors(self) -> Floats:
        """Unit vectors of all item rows, float32[rows, D]; zeros for those that have none."""

    def items(self, rows: Ints) -> Floats:
        """Unit vectors of item rows, float32[N, D]."""

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue scores of a chunk of queries, float32[b, rows]."""


def open_embedder(
    artifact: Artifact, dataset: Dataset, source: SamplerSource, device: str = "cpu"
) -> Embedder:
    """A graph artefact over the graph, and the neighbourhoods, of a source.

    LightGCN stays on the CPU: its propagation is one product of sparse matrices.
    """
    settings = trained_settings(artifact)
    snapshot = load_file(artifact.path / "model.safetensors")
    if settings.encoder == "light_gcn":
        whole = resolved(settings, dataset.vocabulary)
        return WholeGraphEmbedder.of(dataset, whole, snapshot, open_graph(source.adjacency))
    users = artifact.manifest.settings["users"]
    return GraphEmbedder.of(dataset, settings, snapshot, source.open(), users, device)


def open_lone(artifact: Artifact, dataset: Dataset) -> GraphEncoder | None:
    """The encoder for items without neighbours; None where they cannot be embedded."""
    settings = trained_settings(artifact)
    if settings.encoder == "light_gcn":
        return None
    snapshot = load_file(artifact.path / "model.safetensors")
    return GraphEmbedder.of(dataset, settings, snapshot, NoNeighbors(), "untrained").core


def graph_tree(artifact: Artifact) -> dict[str, Any]:
    """The settings of a graph artefact, with the encoder that was chosen for its log.

    Artefacts of earlier releases do not name it: theirs follows from the columns.
    """
    tree = artifact.manifest.settings
    graph: dict[str, Any] = tree["graph"]
    return graph | {"encoder": tree.get("encoder", graph["encoder"])}


def trained_settings(artifact: Artifact) -> GraphSettings:
    """The same, typed."""
    return build(GraphSettings, graph_tree(artifact))
