"""A small reader for `.bson` files: concatenated documents, as `mongodump` writes them. Source: bsonspec.org, 1.1.

Values become what JSON has: an ObjectId its hex digits, a date ISO 8601 text, bytes base64 text.
"""

import base64
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_DEPTH = 100


def documents(data: bytes) -> Iterator[dict[str, Any]]:
    """Each document in order. Raises ValueError naming the document and the byte where it breaks off."""
    at, number = 0, 0
    while at < len(data):
        number += 1
        try:
            document, end = _document(data, at, 0)
        except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"document {number} (byte {at}) is not BSON: {error}") from error
        yield document
        at = end


def _document(data: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    (length,) = struct.unpack_from("<i", data, at)
    end = at + length
    if length < 5 or end > len(data) or data[end - 1] != 0:
        raise ValueError(f"says it is {length} bytes long, which does not fit")
    found, at = {}, at + 4
    while data[at] != 0:
        kind = data[at]
        name, at = _name(data, at + 1)
        found[name], at = _value(kind, name, data, at, depth)
        if at >= end:
            raise ValueError(f"field {name!r} runs over the end")
    return found, end


def _value(kind: int, name: str, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if kind in (0x03, 0x04):
        inner, at = _document(data, at, depth + 1)
        return (inner if kind == 0x03 else list(inner.values())), at
    if kind not in _READERS:
        raise ValueError(f"field {name!r} has type 0x{kind:02x}, wanted text, numbers, dates, lists and objects")
    return _READERS[kind](data, at)


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, at)
    end = at + 4 + length
    if length < 1 or end > len(data):
        raise ValueError("a text runs over the end")
    return data[at + 4 : end - 1].decode(), end


def _binary(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, at)
    end = at + 5 + length
    if length < 0 or end > len(data):
        raise ValueError("bytes run over the end")
    return base64.b64encode(data[at + 5 : end]).decode(), end


def _date(data: bytes, at: int) -> tuple[str, int]:
    (milliseconds,) = struct.unpack_from("<q", data, at)
    try:
        return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(), at + 8
    except OverflowError as error:
        raise ValueError(f"a date lies {milliseconds} ms from 1970") from error


def _number(form: str) -> Callable[[bytes, int], tuple[Any, int]]:
    size = struct.calcsize(form)
    return lambda data, at: (struct.unpack_from(form, data, at)[0], at + size)


_READERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    0x01: _number("<d"),
    0x02: _string,
    0x05: _binary,
    0x06: lambda data, at: (None, at),  # undefined
    0x07: lambda data, at: (data[at : at + 12].hex(), at + 12),
    0x08: lambda data, at: (bool(data[at]), at + 1),
    0x09: _date,
    0x0A: lambda data, at: (None, at),
    0x0E: _string,  # symbol
    0x10: _number("<i"),
    0x11: _number("<Q"),  # timestamp
    0x12: _number("<q"),
}
