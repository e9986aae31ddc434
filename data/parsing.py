"""Raw columns -> contract types, with a mask of the rows that each rule refuses.

Every function takes a whole column; nothing here loops over rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract.encode import hash_values, whole_numbers
from data.contract.schema import DAY_MS
from data.contract.settings import UserError

if TYPE_CHECKING:
    from data.raw_tables import TimestampUnit

Mask = npt.NDArray[np.bool_]

FIRST_MS, END_MS = 631_152_000_000, 4_102_444_800_000  # 1990-01-01 and 2100-01-01
OUT_OF_RANGE = "not between 1990 and 2100"
UNITS: tuple[TimestampUnit, ...] = ("ms", "s", "us", "iso")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
ISO = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})(?:[T ](?P<time>\d{2}:\d{2})(?::(?P<second>\d{2}))?"
    r"(?:\.(?P<fraction>\d{1,9}))?)?(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)


@dataclass(slots=True)
class Parsed:
    """A column in its contract type and what was wrong with it.

    Attributes:
        values: [N]; anything where a fault is.
        faults: (mask [N], reason) pairs; the first that applies is reported.
    """

    values: pa.Array
    faults: list[tuple[Mask, str]] = field(default_factory=list)

    def refuse(self, mask: Mask, reason: str) -> Parsed:
        """Adds a fault."""
        self.faults.append((mask, reason))
        return self


def whole(column: Any) -> pa.Array:
    """One plain array of a column: a single chunk, dictionaries decoded."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is some kind of string."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def nulls(column: pa.Array) -> Mask:
    """Where a column is null."""
    mask: Mask = np.asarray(column.is_null())
    return mask


def required(parsed: Parsed, column: pa.Array) -> Parsed:
    """Refuses nulls of a column that may have none."""
    parsed.faults.insert(0, (nulls(column), "null"))
    return parsed


def ids(column: pa.Array, kind: pa.DataType, name: str) -> Parsed:
    """External ids as int64 or string. Raises UserError when the column cannot hold ids."""
    if not (pa.types.is_integer(column.type) or is_text(column.type)):
        raise UserError(f"column {name} is {column.type}; ids are whole numbers or strings")
    if pa.types.is_integer(kind):
        return required(integers(column, name), column)
    texts = column.cast(pa.string())
    return required(Parsed(texts).refuse(_true(pc.equal(texts, "")), "empty"), column)


def optional_ids(column: pa.Array, kind: pa.DataType, name: str) -> Parsed:
    """The same of rows that need not have one: null where it is null or empty text."""
    if is_text(column.type) or pa.types.is_null(column.type):
        texts = column.cast(pa.string())
        column = pc.if_else(pc.equal(texts, ""), None, texts)
    parsed = ids(column, kind, name)
    parsed.faults = [(mask & ~nulls(column), reason) for mask, reason in parsed.faults]
    return parsed


def event_ids(column: pa.Array, name: str) -> Parsed:
    """Event ids as int64: numbers also where they are written as text, other text hashed."""
    if pa.types.is_integer(column.type):
        return required(Parsed(column.cast(pa.int64(), safe=False)), column)
    numbered = integers(column, name)
    if not is_text(column.type):
        return required(numbered, column)
    parsed = Parsed(pc.coalesce(numbered.values, hash_values(column)))
    return required(parsed.refuse(_true(pc.equal(column, "")), "empty"), column)


def integers(column: pa.Array, name: str) -> Parsed:
    """Whole numbers as int64. Raises UserError for a column of another type."""
    if pa.types.is_integer(column.type):
        parsed = Parsed(column.cast(pa.int64(), safe=False))
        return parsed.refuse(beyond_int64(column), "beyond 63 bits")
    if pa.types.is_null(column.type):
        return Parsed(column.cast(pa.int64()))
    if not is_text(column.type):
        raise UserError(f"column {name} is {column.type}, not whole numbers; cast it")
    values = whole_numbers(column)
    return Parsed(values).refuse(nulls(values) & ~nulls(column), "not a whole number")


def beyond_int64(column: pa.Array) -> Mask:
    """Which whole numbers, of an unsigned type, are larger than any int64."""
    if not pa.types.is_uint64(column.type):
        return np.zeros(len(column), bool)
    return _true(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())))


def numbers(column: pa.Array, name: str) -> Parsed:
    """Finite numbers as float64; null stays null. Raises UserError for a column of another type."""
    if is_text(column.type):
        texts = pc.utf8_trim_whitespace(column)
        good = pc.match_substring_regex(texts, NUMBER)
        parsed = Parsed(pc.if_else(good, texts, None).cast(pa.float64()))
        parsed.refuse(_true(pc.invert(good)), "not a number")
    elif _is_number(column.type) or pa.types.is_null(column.type):
        parsed = Parsed(column.cast(pa.float64(), safe=False))
    else:
        raise UserError(f"column {name} is {column.type}, not numbers; cast it")
    return parsed.refuse(_true(pc.invert(pc.is_finite(parsed.values))), "not finite")


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def texts(column: pa.Array, name: str) -> Parsed:
    """Strings; whole numbers and booleans are written out. Raises UserError for other types."""
    kind = column.type
    plain = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not is_text(kind) and not any(test(kind) for test in plain):
        raise UserError(f"column {name} is {kind}, not strings; cast it")
    return Parsed(column.cast(pa.string()))


def times(column: pa.Array, unit: TimestampUnit, name: str) -> Parsed:
    """Times as ms since 1970, int64, between 1990 and 2100; null stays null.

    Raises:
        UserError: the column's type does not fit the unit.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        parsed = Parsed(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()))
    elif unit == "iso":
        parsed = _iso_times(column, name)
    else:
        parsed = _unit_times(column, unit, name)
    values = parsed.values
    outside = pc.or_(pc.less(values, FIRST_MS), pc.greater_equal(values, END_MS))
    return parsed.refuse(_true(outside), OUT_OF_RANGE)


def _unit_times(column: pa.Array, unit: TimestampUnit, name: str) -> Parsed:
    parsed = numbers(column, name)
    scaled = _scaled(pc.fill_null(parsed.values, 0.0), unit)
    sane = pc.max_element_wise(pc.min_element_wise(scaled, 1e15), -1e15)
    times_ms = pc.if_else(parsed.values.is_null(), None, sane.cast(pa.int64(), safe=False))
    return Parsed(times_ms, parsed.faults)


def _scaled(values: pa.Array, unit: TimestampUnit) -> pa.Array:
    if unit == "s":
        return pc.round(pc.multiply(values, 1000.0))
    return pc.floor(pc.divide(values, 1000.0 if unit == "us" else 1.0))


def _iso_times(column: pa.Array, name: str) -> Parsed:
    """ISO 8601 with or without time, fraction and zone; no zone means UTC."""
    if not is_text(column.type):
        raise UserError(
            f"column {name} is {column.type}, not ISO text; set source.timestamp_unit=ms, s or us"
        )
    fields = pc.extract_regex(pc.utf8_trim_whitespace(column).cast(pa.string()), ISO)
    date, time, second, fraction, zone = (pc.struct_field(fields, i) for i in range(5))
    clock = pc.if_else(pc.equal(time, ""), "00:00", time)
    clock = pc.binary_join_element_wise(
        date, clock, pc.if_else(pc.equal(second, ""), "00", second), "|"
    )
    parsed = pc.strptime(clock, "%Y-%m-%d|%H:%M|%S", unit="ms", error_is_null=True)
    # strptime takes 30 February for 2 March.
    real = pc.equal(pc.strftime(parsed, "%Y-%m-%d"), date)
    moment = pc.if_else(real, parsed, None).cast(pa.int64())
    fraction_ms = pc.utf8_slice_codeunits(pc.utf8_rpad(fraction, 3, "0"), 0, 3).cast(pa.int64())
    values = pc.subtract(pc.add(moment, fraction_ms), _zone_ms(zone))
    malformed = nulls(values) & ~nulls(column)
    return Parsed(values).refuse(malformed, "not an ISO 8601 time")


def _zone_ms(zone: pa.Array) -> pa.Array:
    """Offset of zones such as Z, +02:00 or -0530; 0 for the empty zone, null for null."""
    named = pc.or_(pc.equal(zone, ""), pc.equal(zone, "Z"))
    plain = pc.replace_substring(pc.if_else(named, "+0000", zone), ":", "")
    hours = pc.utf8_slice_codeunits(plain, 1, 3).cast(pa.int64())
    minutes = pc.utf8_slice_codeunits(plain, 3, 5).cast(pa.int64())
    size = pc.add(pc.multiply(hours, DAY_MS // 24), pc.multiply(minutes, DAY_MS // 1440))
    return pc.if_else(pc.starts_with(plain, "-"), pc.negate(size), size)


def unit_that_fits(column: pa.Array, declared: TimestampUnit) -> TimestampUnit | None:
    """The unit, other than the declared one, in which most times lie between 1990 and 2100."""
    if pa.types.is_temporal(column.type):
        return None
    fitting = (unit for unit in UNITS if unit != declared and _fits(column, unit))
    return next(fitting, None)


def _fits(column: pa.Array, unit: TimestampUnit) -> bool:
    if (unit == "iso") and not is_text(column.type):
        return False
    refused = np.logical_or.reduce([mask for mask, _ in times(column, unit, "timestamp").faults])
    return bool(refused.mean() < 0.5)


def _true(mask: Any) -> Mask:
    """A mask with null as false."""
    found: Mask = np.asarray(pc.fill_null(mask, False))
    return found
