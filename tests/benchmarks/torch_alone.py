"""Lets the models be imported where torch and numpy are all there is: import this before them.

Their settings' types come from pydantic, the settings' loader reads YAML, and what is declared
beside the models' constants are Arrow's types; without these libraries settings are built by hand.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def stand_in(name: str, **names: Any) -> None:
    """Puts names in place of a library that the settings' types come from, where it is absent."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module


def arrow_type(name: str) -> Callable[..., None]:
    """What stands for a maker of Arrow's types."""
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_: None


stand_in("pydantic", Field=dict, TypeAdapter=object, ValidationError=ValueError)
stand_in("data.contract.plain_yaml", loaded=None)
stand_in("yaml")
stand_in("pyarrow", __getattr__=arrow_type)
