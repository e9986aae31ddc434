"""The import rules: data.contract ← {models, data} ← ray_jobs, data.contract ← serve ← ray_jobs.

Serving walks the graph too: it reads the graph and the walk, and nothing else of `data`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "models", "ray_jobs", "serve")

CONTRACT = frozenset({"data.contract", "numpy", "pyarrow", "pydantic", "yaml"})
DATA = CONTRACT | {"data", "numba", "scipy"}
MODELS = frozenset({"data.contract", "models", "torch", "numpy", "onnx", "safetensors"})
SERVING_LIBRARIES = frozenset({"ray", "torch", "faiss", "onnxruntime", "numpy", "pyarrow"}) | {
    *("fastapi", "starlette", "uvicorn", "httpx", "pydantic", "yaml", "orjson", "jinja2"),
    *("fsspec", "safetensors", "lmdb", "redis", "psutil", "prometheus_client"),
}
WALKED = frozenset({"data.graph.pixie", "data.graph.store"})

# The longest matching place decides. What is not listed (ray_jobs) may import everything but
# what RESERVED keeps for others.
ALLOWED = {
    "data/contract/": CONTRACT,
    "data/contract/filesystems.py": CONTRACT | {"fsspec"},
    "data/": DATA,
    "data/batching.py": DATA | {"torch", "models.batch"},
    "models/": MODELS,
    "models/embeddings.py": MODELS | {"torchrec", "fbgemm_gpu"},
    "models/step_pipeline.py": MODELS | {"torchrec"},
    "serve/": SERVING_LIBRARIES | {"data.contract", "serve"} | WALKED,
}
RESERVED = {
    "torchrec": ("models/embeddings.py", "models/step_pipeline.py"),
    "ray": ("ray_jobs/", "serve/"),
    "tests": (),
}
LATENTS = re.compile(r"(?<![a-z])latents(?![a-z])")
# The world writes and plays them (simulate), the evaluation alone reads them.
LATENT_READERS = re.compile(r"data/world/\w+\.py|ray_jobs/(simulate|evaluate)\.py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, `from a import b` as `a.b`, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def within(name: str, prefixes: frozenset[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def allowed(path: str, name: str) -> bool:
    top = name.split(".")[0]
    if top in RESERVED and not path.startswith(RESERVED[top]):
        return False
    places = [place for place in ALLOWED if path.startswith(place)]
    if top in sys.stdlib_module_names or not places:
        return True
    return within(name, ALLOWED[max(places, key=len)])


def mentions_latents(tree: ast.AST) -> bool:
    """Whether code names the folder of the world's latents, docstrings left aside."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    )
    return any(LATENTS.search(text) for text in (*texts, *imported_names(tree)))


def violations(path: str, source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"{path} imports {name}" for name in imported_names(tree) if not allowed(path, name)]
    if mentions_latents(tree) and not LATENT_READERS.fullmatch(path):
        found.append(f"{path} reaches for the world's latents")
    return found


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_file_keeps_to_its_layer(path: Path) -> None:
    relative = PurePosixPath(path.relative_to(REPOSITORY))
    assert violations(str(relative), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/contract/encode.py", "import torch"),
        ("data/contract/encode.py", "from data.windows import window"),
        ("data/world/pools.py", "def generate():\n    import ray"),
        ("data/windows.py", "from models.batch import Batch"),
        ("models/two_tower.py", "from torchrec import EmbeddingBagCollection"),
        ("models/two_tower.py", "import data.world"),
        ("models/ranker.py", "from ..data import world"),
        ("serve/funnel.py", "from models.ranker import Ranker"),
        ("serve/funnel.py", "from data.world import respond"),
        ("serve/pixie.py", "from data.graph.walks import sample"),
        ("serve/pixie.py", "import numba"),
        ("serve/app.py", "import ray_jobs.engine.report"),
        ("ray_jobs/train.py", "import torchrec.distributed"),
        ("ray_jobs/train.py", "from tests.conftest import LOOPBACK"),
        ("ray_jobs/prepare.py", "path = root / 'latents'"),
        ("models/ranker.py", "path = 'world/latents/users.parquet'"),
        ("ray_jobs/train.py", "from ray_jobs.simulate import latents_folder"),
    ],
)
def test_a_breach_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/contract/encode.py", "import json\nimport numpy as np\nfrom pyarrow import fs"),
        ("data/batching.py", "import torch\nfrom models.batch import Batch"),
        ("models/embeddings.py", "from torchrec.modules import embedding_configs"),
        ("serve/pixie.py", "from ray import serve\nfrom data.graph.pixie import PixieWalk"),
        ("ray_jobs/simulate.py", "latents = root / 'latents'"),
        ("ray_jobs/evaluate.py", "import ray.data\nlatents = root / 'latents'"),
        ("models/ranker.py", "'''Never sees the latents.'''"),
    ],
)
def test_what_a_layer_may_do_passes(path: str, source: str) -> None:
    assert violations(path, source) == []


def reached(name: str, known: set[str]) -> set[str]:
    """Adds the module of `data` that an import names, and those that it imports in turn."""
    parts = name.split(".")
    paths = [REPOSITORY.joinpath(*parts[:end]).with_suffix(".py") for end in (len(parts), -1)]
    for path in paths:
        if parts[0] == "data" and path.is_file():
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            if module not in known:
                known.add(module)
                for inner in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
                    reached(inner, known)
    return known


def test_what_serving_walks_with_brings_little_along() -> None:
    brought = {module for name in WALKED for module in reached(name, set())}
    own = {module for module in brought if not module.startswith("data.contract.")}
    assert own == WALKED | {f"data.graph.{name}" for name in ("visits", "lockstep", "alias")}


def test_tests_hold_no_packages() -> None:
    """With tests/models/__init__.py the name `models` would mean the tests."""
    assert list((REPOSITORY / "tests").rglob("__init__.py")) == []
