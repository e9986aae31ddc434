"""Typed settings: frozen dataclasses filled from YAML files and `key=value` words.

Notable here:
- one loader for files, command lines and a sweep's sample alike (pydantic checks types, bounds);
- a misspelt key is refused with the nearest right one;
- the help text of a field is its line in the class docstring's "Attributes:" section, so that
  `--help` is complete by construction.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from data.contract.plain_yaml import loaded

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]

PLAIN = {  # what pydantic says of Python's types, in terms of the command line
    "dict_type": "Input should be a map; set <key>.<name>=<value>",
    "tuple_type": "Input should be a list such as [1, 2]",
    "list_type": "Input should be a list such as [1, 2]",
    "string_type": "Input should be text; in two kinds of quotes anything is, <key>='\"...\"'",
}

S = TypeVar("S")
Tree = dict[str, Any]


class UserError(Exception):
    """Something that the person who started the job can mend; the text says how."""


def load(cls: type[S], words: Sequence[str], base: Mapping[str, Any] | None = None) -> S:
    """Builds `cls` from YAML files and `key=value` words, later words winning.

    Args:
        cls: a frozen dataclass, nested dataclasses being its groups.
        words: paths or URIs ending in .yaml/.yml, or `dotted.key=value` with a YAML value.
        base: values to start from (what a root remembers).

    Raises:
        UserError: unknown key (with a suggestion), wrong type or out of bounds.
    """
    return build(cls, merge(base or {}, read_words(words)))


def build(cls: type[S], tree: Mapping[str, Any]) -> S:
    """Checks a nested mapping against `cls` and builds it. Raises UserError."""
    check_keys(cls, tree)
    try:
        return cast("S", _adapter(cast("Any", cls)).validate_python(dict(tree)))
    except ValidationError as error:
        raise UserError("\n".join(_lines(error))) from None


def read_words(words: Sequence[str]) -> Tree:
    """Turns command-line words into a nested mapping. Raises UserError."""
    tree: Tree = {}
    for word in words:
        tree = merge(tree, _read_word(word))
    return tree


def _read_word(word: str) -> Tree:
    key, equals, text = word.partition("=")
    is_uri = "://" in key  # which may have options behind it
    if equals and not is_uri:
        return nest(key, read_value(text))
    if (word.partition("?")[0] if is_uri else word).endswith((".yaml", ".yml")):
        return read_yaml(_brought(word) if is_uri else Path(word), word)
    raise UserError(f"'{word}' is neither key=value nor a .yaml file; see --help")


def _brought(uri: str) -> Path:
    from data.contract.storage import brought  # which imports this module, and is not always needed

    return brought(uri)


def read_value(text: str) -> Any:
    """Reads the right side of `key=value` as YAML. Raises UserError."""
    try:
        return loaded(text) if text else ""
    except yaml.YAMLError:
        # An Arrow expression such as a: b is text, not a mapping.
        return text


def read_yaml(path: Path, name: str = "") -> Tree:
    """Reads a settings file. Raises UserError when it is missing or no mapping.

    Args:
        path: the file.
        name: what messages call it, where that is not its path.
    """
    name = name or str(path)
    if not path.is_file():
        raise UserError(f"settings file {name} does not exist")
    try:
        tree = loaded(path.read_bytes()) or {}
    except OSError as error:
        raise UserError(f"settings file {name} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{name} must hold a mapping of settings, found {type(tree).__name__}")
    return tree


def nest(key: str, value: Any) -> Tree:
    """`nest("a.b", 1)` is `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast("Tree", value)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Deep merge of nested mappings; `over` wins."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def check_keys(cls: type[Any], tree: Mapping[str, Any], prefix: str = "") -> None:
    """Refuses keys that `cls` does not have. Raises UserError with the nearest right name."""
    groups, entries = _groups(cls), _entries(cls)
    for key, value in tree.items():
        if key not in groups:
            raise UserError(unknown(prefix + str(key), [prefix + name for name in groups]))
        if (group := groups[key]) is not None:
            _check_group(group, value, prefix + key)
        elif key in entries and isinstance(value, Mapping):
            for name, entry in value.items():
                _check_group(entries[key], entry, f"{prefix}{key}.{name}")


def _check_group(group: type[Any], value: Any, key: str) -> None:
    if not isinstance(value, Mapping):
        raise UserError(f"{key} is a group of settings; set {key}.<name>=...")
    check_keys(group, value, f"{key}.")


def unknown(key: str, known: list[str]) -> str:
    """What is said of a setting that does not exist, with the nearest of those that do."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(known))}"
    return f"unknown setting {key}{hint}"


def _groups(cls: type[Any]) -> dict[str, type[Any] | None]:
    """Field name -> its dataclass when the field is a group, else None."""
    hints = typing.get_type_hints(cls)
    return {f.name: _group(hints[f.name]) for f in dataclasses.fields(cls)}


def _group(hint: Any) -> type[Any] | None:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [g for g in map(_group, typing.get_args(hint)) if g is not None]
        return found[0] if len(found) == 1 else None
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _entries(cls: type[Any]) -> dict[str, type[Any]]:
    """Field name -> the dataclass of its entries, where the field is a map of groups."""
    hints = typing.get_type_hints(cls)
    maps = {n: typing.get_args(h)[1] for n, h in hints.items() if typing.get_origin(h) is dict}
    return {name: kind for name, kind in maps.items() if _group(kind) is not None}


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part != "function-after")
        if item["type"] == "value_error":  # ours, of several settings: it names them
            yield str(item["msg"]).removeprefix("Value error, ")
        else:
            message = PLAIN.get(item["type"], item["msg"]).replace("<key>", key)
            yield f"{key or 'settings'}: {message} (got {item['input']!r})"


def load_class(path: str, setting: str) -> type[Any]:
    """The class that a setting names by its dotted path, `package.module:Class`.

    Raises:
        UserError: no such module or class, or the path has another form.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{setting}={path} is not a class that can be imported: {error}") from None
    if not isinstance(found, type):
        raise UserError(f"{setting}={path} names no class; write package.module:Class")
    return found


def to_tree(settings: Any) -> Tree:
    """The settings as a plain nested mapping, fit for JSON and YAML."""
    return cast("Tree", _adapter(cast("Any", type(settings))).dump_python(settings, mode="json"))


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Of all settings it takes a tenth of a second to make one, and sweeps build many."""
    return TypeAdapter(cls)


def help_lines(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yields (key, type with bounds, default, help) for every setting below `cls`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = attribute_help(cls)
    groups, entries = _groups(cls), _entries(cls)
    for field in dataclasses.fields(cls):
        key, group = prefix + field.name, groups[field.name]
        if group is not None:
            yield from help_lines(group, f"{key}.")
        elif field.name in entries:
            yield from help_lines(entries[field.name], f"{key}.<name>.")
        else:
            kind = type_text(hints[field.name])
            yield key, kind, _default_text(field), texts.get(field.name, "")


def help_table(*classes: type[Any]) -> list[str]:
    """A line for every setting of some classes, their keys in one column."""
    rows = [row for cls in classes for row in help_lines(cls)]
    width = max(len(key) for key, *_ in rows)
    return [f"  {k:<{width}}  {text} [{kind}; default {d}]" for k, kind, d, text in rows]


def attribute_help(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those it extends say of its fields."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= _attributes(base.__doc__ or "")
    return texts


def _attributes(docstring: str) -> dict[str, str]:
    """Parses the "Attributes:" section of a Google-style docstring."""
    _, _, section = docstring.partition("Attributes:")
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r"\s{8}(\w+): (.*)", line) or re.match(r"\s{4}(\w+): (.*)", line)
        if match:
            name = match[1]
            texts[name] = match[2].strip()
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts


def type_text(hint: Any) -> str:
    """A hint as people read it: `int >= 1`, `time|column`, `list of int`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([type_text(arguments[0]), *_bounds(arguments[1:])])
    if origin is typing.Literal:
        return "|".join(str(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(a) for a in arguments if a is not type(None))
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"map to {type_text(arguments[1])}"
    return getattr(hint, "__name__", str(hint))


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for info in metadata:
        for bound in getattr(info, "metadata", []):
            for name, sign in signs.items():
                if hasattr(bound, name):
                    yield f"{sign} {getattr(bound, name)}"


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "required"
