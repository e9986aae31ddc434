"""YAML as settings are written: its 1.2 core schema, where a word is text unless it says otherwise.

PyYAML reads YAML 1.1, in which `no` and `on` are truth values (Norway's code, a column's value),
`010` is 8, `1:30` is 90, `2026-11-30` is a date and `1e-3` is text; and of a key that stands twice
in a mapping it drops the first without a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
SCALARS = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (INT, list("-+0123456789")),
    "float": (FLOAT, list("-+.0123456789")),
    "merge": (re.compile(r"<<"), ["<"]),
}
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuses a key that stands twice: one of the values would be lost."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{TAG}merge":
                if key.value in seen:
                    said = f"found {key.value} twice"
                    raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
                seen.add(key.value)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """Decimal whatever it begins with, but for 0o and 0x."""
        text = self.construct_scalar(node)
        return int(text, 0 if text.startswith(("0o", "0x")) else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1's
for _name, (_pattern, _first) in SCALARS.items():
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _name, _whole, _first)
_Loader.add_constructor(f"{TAG}int", _Loader.construct_yaml_int)


def loaded(text: str | bytes) -> Any:
    """The one document of a text. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except ValueError as error:  # of a number too long, or a tag that its value does not fit
        raise yaml.YAMLError(str(error)) from error


def dumped(tree: Any) -> str:
    """What `loaded` gives back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
