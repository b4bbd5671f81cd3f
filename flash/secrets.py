"""Sealing and opening: what somebody gives to one pool of services, and to nobody on the way there.

A pool has one pair of keys, in a file that its replicas share. Whoever submits seals to the public one. What is sealed
says what it is for, so that it opens for that run or that archive, and whoever gets hold of it has no use for it.
"""

import base64
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from flash.errors import CannotOpen, ConfigError
from flash.redaction import guard


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    purpose: str
    values: dict[str, str]


def of_run(org: str, run_id: str) -> str:
    """The purpose of what a run is given."""
    return f"run {org}/{run_id}"


def of_archive(digest: str) -> str:
    """The purpose of what an environment is given to be checked."""
    return f"archive {digest}"


def seal(values: Mapping[str, str], public: bytes, purpose: str) -> bytes:
    """What only the holder of the private key can open: values by name."""
    content = msgspec.msgpack.encode(_Content(purpose, dict(values)))
    sealed: bytes = SealedBox(PublicKey(public)).encrypt(content)
    return sealed


class KeyPair:
    """A pool's keys: X25519."""

    def __init__(self, private: bytes) -> None:
        self._private = PrivateKey(private)

    @classmethod
    def kept(cls, file: Path) -> Self:
        """The pair in this file; the first replica makes it, for its owner alone to read.

        Raises ConfigError for a file that is no key, or that cannot be read or made.
        """
        try:
            if not file.exists():
                _make(file)
            return cls(base64.b64decode(file.read_bytes(), validate=False))
        except OSError as error:
            raise ConfigError(f"the private key {file} cannot be used: {error.strerror}") from error
        except (CryptoError, ValueError) as error:
            raise ConfigError(
                f"{file} is no private key, 32 bytes in base64: bring back the one that was there, or remove the file "
                "to have a new one made; what was sealed to the old one cannot be opened then"
            ) from error

    @property
    def public(self) -> bytes:
        return bytes(self._private.public_key)

    def open(self, sealed: bytes, purpose: str) -> dict[str, str]:
        """The values by name, masked from now on in this process's log. Raises CannotOpen."""
        try:
            content = msgspec.msgpack.decode(SealedBox(self._private).decrypt(sealed), type=_Content)
        except (CryptoError, ValueError, TypeError, msgspec.DecodeError) as error:
            raise CannotOpen(
                f"the secrets of {purpose} are sealed to another key than this one's: all replicas of a pool share one "
                "key file, and when that is new, what was sealed before must be submitted again"
            ) from error
        if content.purpose != purpose:
            raise CannotOpen(f"the secrets given for {purpose} were sealed for something else")
        guard(content.values.values())
        return content.values


def _make(file: Path) -> None:
    """Several replicas may do so at once: one of them makes the pair."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
        written.write(base64.b64encode(bytes(PrivateKey.generate())) + b"\n")
        written.flush()
        os.fsync(written.fileno())
    try:
        with suppress(FileExistsError):
            os.link(beside, file)
    finally:
        beside.unlink()
