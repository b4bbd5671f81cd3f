"""Token ids as packed little-endian int32, logprobs as packed float32: what `group.*` carries."""

import sys
from array import array
from collections.abc import Iterable

_SWAP = sys.byteorder == "big"


def pack_ids(ids: Iterable[int]) -> bytes:
    return _bytes(array("i", ids))


def unpack_ids(packed: bytes) -> list[int]:
    return _array("i", packed).tolist()


def pack_floats(values: Iterable[float]) -> bytes:
    return _bytes(array("f", values))


def unpack_floats(packed: bytes) -> list[float]:
    return _array("f", packed).tolist()


def _bytes(values: array) -> bytes:  # type: ignore[type-arg]
    if _SWAP:
        values.byteswap()
    return values.tobytes()


def _array(kind: str, packed: bytes) -> array:  # type: ignore[type-arg]
    values = array(kind)
    values.frombytes(packed)
    if _SWAP:
        values.byteswap()
    return values
