"""Lets the models be imported where torch and numpy are all there is: import this before them.

Their settings' types come from pydantic, and the settings' loader reads YAML; without both,
settings are built by hand.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def stand_in(name: str, **names: Any) -> None:
    """Puts names in place of a library that the settings' types come from, where it is absent."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module


stand_in("pydantic", Field=dict, TypeAdapter=object, ValidationError=ValueError)
stand_in("yaml")
