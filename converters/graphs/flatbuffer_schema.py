"""Flatbuffers read by their schema, for formats whose Python classes are not shipped (XNNPACK's graph in a ``.pte``).

``flatc``, which the executorch wheel brings, could write such a buffer as JSON, but with six decimals of every float: a
quantization scale of 0.00392157 becomes 0.003922. So the schema (``.fbs``) is parsed here and the buffer read by it.
Layout of the format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_sr.errors import ArtifactError

_SCALARS: dict[str, str] = {
    "bool": "?",
    "byte": "b",
    "int8": "b",
    "ubyte": "B",
    "uint8": "B",
    "short": "h",
    "int16": "h",
    "ushort": "H",
    "uint16": "H",
    "int": "i",
    "int32": "i",
    "uint": "I",
    "uint32": "I",
    "float": "f",
    "float32": "f",
    "long": "q",
    "int64": "q",
    "ulong": "Q",
    "uint64": "Q",
    "double": "d",
    "float64": "d",
}
_COMMENT = re.compile(r"//[^\n]*")
_BLOCK = re.compile(r"\b(table|union|enum)\s+(\w+)\s*(?::\s*(\w+))?[^{]*\{([^}]*)\}")
_FIELD = re.compile(r"(\w+)\s*:\s*(\[?)\s*([\w.]+)\s*\]?\s*(?:=\s*([^\s;(]+))?\s*(\([^)]*\))?\s*$")
# A damaged buffer may point a table at itself.
_DEEPEST = 32


@dataclass(frozen=True, kw_only=True)
class _Field:
    name: str
    kind: str
    is_vector: bool
    default: str | None
    slot: int


class FlatbufferSchema:
    """The tables, unions and enums of a schema.

    Args:
        text: of the ``.fbs``, with the text of the files that it includes in front or behind.
    """

    def __init__(self, text: str) -> None:
        self._tables: dict[str, tuple[_Field, ...]] = {}
        self._unions: dict[str, list[tuple[str, str]]] = {}
        self._enums: dict[str, tuple[str, dict[int, str]]] = {}
        blocks = _BLOCK.findall(_COMMENT.sub("", text))
        for keyword, name, base, body in blocks:
            if keyword == "union":
                self._unions[name] = [_union_member(entry) for entry in body.split(",") if entry.strip()]
            elif keyword == "enum":
                self._enums[name] = (base or "int", _members(body))
        for keyword, name, _, body in blocks:
            if keyword == "table":
                self._tables[name] = self._fields(body)

    def read(self, data: bytes, table: str) -> dict[str, Any]:
        """The buffer as nested dicts: enums by name, unions as (member, content), vectors of numbers as arrays.

        Args:
            data: the buffer; the root table is of type ``table``.
        Raises:
            ArtifactError: the buffer is damaged, or not of this schema.
        """
        try:
            (root,) = struct.unpack_from("<I", data, 0)
            return self._table(data, root, table, 0)
        except (struct.error, ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise ArtifactError(f"expected a flatbuffer of type {table}, got a damaged one ({error})") from None

    def _fields(self, body: str) -> tuple[_Field, ...]:
        fields, slot = [], 0
        for line in filter(None, map(str.strip, body.split(";"))):
            match = _FIELD.match(" ".join(line.split()))
            if match is None:
                raise ArtifactError(f"expected a field of a flatbuffer schema, got {line!r}")
            name, bracket, kind, default, options = match.groups()
            kind = kind.rpartition(".")[2]
            slot += kind in self._unions  # its first slot says which member
            if "deprecated" not in (options or ""):
                fields.append(_Field(name=name, kind=kind, is_vector=bool(bracket), default=default, slot=slot))
            slot += 1
        return tuple(fields)

    def _table(self, data: bytes, position: int, name: str, depth: int) -> dict[str, Any]:
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} tables inside one another")
        (back,) = struct.unpack_from("<i", data, position)
        vtable = position - back
        if vtable < 0:
            raise ValueError(f"table {name} points outside")
        (size,) = struct.unpack_from("<H", data, vtable)
        result = {}
        for field in self._tables[name]:
            offset = _slot(data, vtable, size, field.slot)
            where = None if offset == 0 else position + offset
            if field.kind in self._unions:
                tag_offset = _slot(data, vtable, size, field.slot - 1)
                tag = 0 if tag_offset == 0 else data[position + tag_offset]
                result[field.name] = self._union(data, where, field.kind, tag, depth)
            else:
                result[field.name] = self._field(data, where, field, depth)
        return result

    def _union(self, data: bytes, where: int | None, kind: str, tag: int, depth: int) -> tuple[str, Any] | None:
        if tag == 0 or where is None:
            return None
        member, table = self._unions[kind][tag - 1]
        return member, self._table(data, _follow(data, where), table, depth + 1)

    def _field(self, data: bytes, where: int | None, field: _Field, depth: int) -> Any:
        if field.is_vector:
            return None if where is None else self._vector(data, _follow(data, where), field.kind, depth)
        if field.kind in self._enums:
            base, members = self._enums[field.kind]
            default = next((number for number, name in members.items() if name == field.default), 0)
            number = default if where is None else struct.unpack_from(f"<{_SCALARS[base]}", data, where)[0]
            return members.get(number, str(number))
        if field.kind in _SCALARS:
            return _default(field) if where is None else struct.unpack_from(f"<{_SCALARS[field.kind]}", data, where)[0]
        if where is None:
            return None
        if field.kind == "string":
            return _string(data, _follow(data, where))
        return self._table(data, _follow(data, where), field.kind, depth + 1)

    def _vector(self, data: bytes, position: int, kind: str, depth: int) -> Any:
        (count,) = struct.unpack_from("<I", data, position)
        kind = self._enums[kind][0] if kind in self._enums else kind
        if kind in _SCALARS:
            return np.frombuffer(data, np.dtype("<" + _SCALARS[kind]), count=count, offset=position + 4)
        if 4 * count > len(data):
            raise ValueError(f"a vector of {count} {kind}")
        places = [_follow(data, position + 4 + 4 * index) for index in range(count)]
        if kind == "string":
            return [_string(data, place) for place in places]
        return [self._table(data, place, kind, depth + 1) for place in places]


def _slot(data: bytes, vtable: int, size: int, slot: int) -> int:
    """Offset of a field inside its table, 0 where it is absent."""
    place = 4 + 2 * slot
    return int(struct.unpack_from("<H", data, vtable + place)[0]) if place + 2 <= size else 0


def _follow(data: bytes, where: int) -> int:
    return where + int(struct.unpack_from("<I", data, where)[0])


def _string(data: bytes, position: int) -> str:
    (count,) = struct.unpack_from("<I", data, position)
    if position + 4 + count > len(data):
        raise ValueError("a string that ends outside")
    return data[position + 4 : position + 4 + count].decode()


def _default(field: _Field) -> Any:
    code = _SCALARS[field.kind]
    if code == "?":
        return field.default == "true"
    return float(field.default or 0) if code in "fd" else int(field.default or 0)


def _union_member(entry: str) -> tuple[str, str]:
    """``Name`` or ``Name: Table`` as (name, table)."""
    name, _, table = (part.strip() for part in entry.partition(":"))
    return name, table or name


def _members(body: str) -> dict[int, str]:
    members, number = {}, -1
    for entry in filter(None, map(str.strip, body.split(","))):
        name, _, stated = (part.strip() for part in entry.partition("="))
        number = int(stated, 0) if stated else number + 1
        members[number] = name
    return members
