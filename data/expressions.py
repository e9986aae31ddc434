"""A small language for "which rows are this action": `rating >= 4 and not (source == 'import')`.

Grammar: comparisons (== = != < <= > >=) of columns and literals (numbers, 'text', true, false),
joined by and, or, not and parentheses. Nothing else is understood, so nothing can be run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract.settings import UserError
from data.parsing import is_text, numbers, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<sign>==|!=|<=|>=|[<>=()])"
    r"|(?P<name>[A-Za-z_][\w.]*))"
)
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
KEYWORDS = {"and", "or", "not"}
CONSTANTS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Column:
    """A column by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """and, or, not or a comparison of what is below."""

    sign: str
    parts: tuple[Node, ...]


Node = Column | Operation | float | str | bool


def parse(text: str) -> Operation:
    """Parses an expression. Raises UserError with the place that is not understood."""
    parser = _Parser(text, list(_tokens(text)))
    node = parser.either()
    if parser.tokens or not isinstance(node, Operation):
        raise UserError(
            f"'{text}' is not a condition; write for example rating>=4 and source=='app'"
        )
    return node


def columns_of(node: Node) -> set[str]:
    """Names of the columns that an expression reads."""
    if isinstance(node, Column):
        return {node.name}
    if isinstance(node, Operation):
        return set().union(*map(columns_of, node.parts))
    return set()


def numeric_columns(node: Node) -> set[str]:
    """Names of the columns that an expression compares with a number."""
    if not isinstance(node, Operation):
        return set()
    numbers = node.sign in COMPARE and any(type(part) is float for part in node.parts)
    here = {part.name for part in node.parts if isinstance(part, Column)} if numbers else set()
    return here.union(*map(numeric_columns, node.parts))


def evaluate(node: Operation, table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of `table` fulfil the expression; a comparison with null does not. [N]."""
    found = pc.fill_null(_value(node, table), False)
    mask: npt.NDArray[np.bool_] = np.asarray(found)
    return mask


def _value(node: Node, table: pa.Table) -> Any:
    if isinstance(node, Column):
        return table[node.name]
    if not isinstance(node, Operation):
        return pa.scalar(node)
    parts = [_value(part, table) for part in node.parts]
    if node.sign == "not":
        return pc.invert(parts[0])
    if node.sign in KEYWORDS:
        return (pc.and_kleene if node.sign == "and" else pc.or_kleene)(*parts)
    return _compared(node.sign, parts)


def _compared(sign: str, sides: Sequence[Any]) -> Any:
    """Compares; texts beside a number are read as numbers (all of a CSV file is text)."""
    if any(pa.types.is_floating(side.type) for side in sides if isinstance(side, pa.Scalar)):
        sides = [_as_number(side) for side in sides]
    try:
        return COMPARE[sign](*sides)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        types = f"{sides[0].type} and {sides[1].type}"
        raise UserError(
            f"an action compares {types} by {sign}; give literals of the column's type"
        ) from None


def _as_number(side: Any) -> Any:
    if isinstance(side, pa.Scalar):
        return side
    plain = whole(side)
    return numbers(plain, "").values if is_text(plain.type) else plain


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise UserError(f"'{text}': '{text[at:].strip()}' is not understood")
        assert match.lastgroup is not None
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


@dataclass(slots=True)
class _Parser:
    """Recursive descent over the tokens that are left."""

    text: str
    tokens: list[tuple[str, str]]

    def either(self) -> Node:
        return self._joined("or", self._all)

    def _all(self) -> Node:
        return self._joined("and", self._negated)

    def _joined(self, word: str, below: Callable[[], Node]) -> Node:
        node = below()
        while self._take(word):
            node = Operation(word, (node, below()))
        return node

    def _negated(self) -> Node:
        if self._take("not"):
            return Operation("not", (self._negated(),))
        return self._comparison()

    def _comparison(self) -> Node:
        left = self._primary()
        if self.tokens and self.tokens[0][1] in COMPARE:
            sign = self.tokens.pop(0)[1]
            return Operation(sign, (left, self._primary()))
        return left

    def _primary(self) -> Node:
        if self._take("("):
            node = self.either()
            if not self._take(")"):
                raise UserError(f"'{self.text}': a parenthesis is not closed")
            return node
        if not self.tokens or self.tokens[0][1] in KEYWORDS or self.tokens[0][0] == "sign":
            raise UserError(f"'{self.text}': a column or a literal is missing")
        return _literal(*self.tokens.pop(0))

    def _take(self, word: str) -> bool:
        if self.tokens and self.tokens[0][1] == word:
            self.tokens.pop(0)
            return True
        return False


def _literal(kind: str, text: str) -> Node:
    if kind == "number":
        return float(text)
    if kind == "text":
        return text[1:-1]
    return CONSTANTS.get(text.lower(), Column(text))
