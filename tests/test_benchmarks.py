"""Benchmarks run by hand alone: what they import of the project is there still."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
PEERS = {"rectools_peer"}  # runs in an environment of its own


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in PEERS | {"__init__"})
)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")
