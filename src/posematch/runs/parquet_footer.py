"""How the columns of a parquet are compressed, by its footer alone.

pyarrow can tell it, too, but ends the process where a column's own record is damaged: its accessor
lets no exception of the library through. A footer is Thrift's compact protocol: structs of numbered
fields, each with a type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
_TRUE, _FALSE, _I32, _LIST, _STRUCT = 1, 2, 5, 9, 12  # Thrift's types
_MOST_NESTED = 16
# By number and type: of another type, the library passes a field over.
_ROW_GROUPS = (4, _LIST)
_COLUMNS = (1, _LIST)
_RECORD = (3, _STRUCT)
_PATH, _CODEC = (3, _LIST), (4, _I32)


def compressions(footer: bytes) -> Iterator[tuple[str, str]]:
    """Path and codec of every column of every row group.

    Parameters
    ----------
    footer
        Between the data and the last eight bytes.

    Raises
    ------
    ValueError, LookupError
        It is damaged.
    """
    for group in _Reader(footer).struct(0).get(_ROW_GROUPS, []):
        for column in _field(group, _COLUMNS):
            record = _field(column, _RECORD)
            codec = _field(record, _CODEC)
            known = 0 <= codec < len(_CODECS)
            path = b".".join(_field(record, _PATH)).decode(errors="replace")
            yield path, _CODECS[codec] if known else str(codec)


def _field(struct: Any, which: tuple[int, int]) -> Any:
    if not isinstance(struct, dict):
        raise ValueError("a list of another type")
    return struct[which]


class _Reader:
    """Compact protocol; every value takes a byte at least, so claimed lengths cost nothing."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def struct(self, depth: int) -> dict[tuple[int, int], Any]:
        fields: dict[tuple[int, int], Any] = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            if kind in (_TRUE, _FALSE):  # the type is the value
                continue
            fields[number, kind] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_NESTED:
            raise ValueError("nested too deeply")
        match kind:
            case 1 | 2 | 3:  # truth values of a list, and bytes
                return self._byte()
            case 4 | 5 | 6:
                return self._signed()
            case 7:  # a float
                return self._bytes(8)
            case 8:  # a text
                return self._bytes(self._unsigned())
            case 9 | 10:  # a list or set
                head = self._byte()
                size = head >> 4 if head >> 4 < 15 else self._unsigned()
                return [self._value(head & 15, depth + 1) for _ in range(size)]
            case 11:  # a map
                size = self._unsigned()
                kinds = self._byte() if size else 0
                return [
                    (self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1))
                    for _ in range(size)
                ]
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a value of type {kind}")

    def _byte(self) -> int:
        value = self.content[self.place]
        self.place += 1
        return value

    def _bytes(self, size: int) -> bytes:
        value = self.content[self.place : self.place + size]
        if len(value) < size:
            raise ValueError("cut short")
        self.place += size
        return value

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of too many bytes")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
