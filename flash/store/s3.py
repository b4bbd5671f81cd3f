"""A store in a bucket of any S3 server: the only file that imports minio."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from flash.store import AlreadyThere, NoSuchObject, Stat, StoreError
from flash.store.whole import CHUNK_BYTES, check, checked_key, digest_of, digest_of_file, whole_file

T = TypeVar("T")

PART_BYTES = 16 << 20
"""Above this, an object is put in parts."""

_DIGEST = "x-amz-meta-sha256"
_TELLER = "x-amz-meta-teller"

_PASSING = {
    "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "SlowDownRead", "SlowDownWrite", "XMinioServerNotInitialized",
}  # fmt: skip
"""What a server says that will do as it is asked a little later."""


class S3Store:
    """Objects in one bucket. What fails because the server is away is tried again for `retry_s`."""

    def __init__(self, client: Minio, bucket: str, *, retry_s: float = 30.0) -> None:
        self._client = client
        self._bucket = bucket
        self._retry_s = retry_s

    @classmethod
    async def connect(cls, url: str, *, retry_s: float = 30.0) -> Self:
        """Find the bucket of `s3://ACCESS:SECRET@host:port/bucket`, or make it (`?tls=1`, `?region=...`).

        Raises StoreError when the url cannot be used, or the bucket can be neither found nor made.
        """
        parts, options = urlsplit(url), parse_qs(urlsplit(url).query)
        bucket = parts.path.strip("/")
        if not (parts.hostname and parts.username and parts.password and bucket) or options.keys() - {"tls", "region"}:
            raise StoreError(
                f"the store is s3://...@{parts.netloc.rpartition('@')[2]}{parts.path}, but we need "
                "s3://ACCESS:SECRET@host:port/bucket, with nothing but ?tls=1 and ?region=NAME after it"
            )
        client = Minio(
            parts.netloc.rpartition("@")[2],
            access_key=unquote(parts.username),
            secret_key=unquote(parts.password),
            secure=options.get("tls") == ["1"],
            region=options.get("region", ["us-east-1"])[0],
            http_client=_pool(),
        )
        store = cls(client, bucket, retry_s=retry_s)
        await store._do(store._make_bucket)
        return store

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Stat:
        stat = Stat(checked_key(key), len(data), await asyncio.to_thread(digest_of, data))
        if if_absent:
            await self._create(stat, data)
        else:
            await self._do(lambda: self._put(stat, BytesIO(data)))
        return stat

    async def put_file(self, key: str, path: Path) -> Stat:
        def put() -> Stat:
            stat = Stat(checked_key(key), path.stat().st_size, digest_of_file(path))
            with path.open("rb") as file:
                self._put(stat, file)
            return stat

        return await self._do(put)

    async def get(self, key: str) -> bytes:
        return await self._do(lambda: self._get(checked_key(key)))

    async def get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        return await self._do(lambda: self._get_range(checked_key(key), start, num_bytes))

    async def get_file(self, key: str, path: Path) -> Stat:
        return await self._do(lambda: self._get_file(checked_key(key), path))

    async def stat(self, key: str) -> Stat | None:
        return (await self._do(lambda: self._stat(checked_key(key))))[0]

    async def list(self, prefix: str) -> AsyncIterator[Stat]:
        for stat in await self._do(lambda: self._found(prefix)):
            yield stat

    async def delete(self, key: str) -> None:
        await self._do(lambda: self._client.remove_object(self._bucket, checked_key(key)))

    async def _do(self, work: Callable[[], T]) -> T:
        """`work` in a thread, again with growing pauses while the server is away."""
        until, pause_s = time.monotonic() + self._retry_s, 0.1
        while True:
            try:
                return await asyncio.to_thread(work)
            except (urllib3.exceptions.HTTPError, S3Error, ServerError, InvalidResponseError) as error:
                if not _is_passing(error) or time.monotonic() + pause_s > until:
                    raise StoreError(f"the bucket {self._bucket} cannot be used: {_what(error)}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    def _make_bucket(self) -> None:
        if self._client.bucket_exists(self._bucket):
            return
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:  # somebody else was faster
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _put(self, stat: Stat, file: BinaryIO) -> None:
        self._client.put_object(
            self._bucket,
            stat.key,
            file,
            stat.num_bytes,
            part_size=PART_BYTES,
            metadata={_DIGEST: stat.digest},
        )

    async def _create(self, stat: Stat, data: bytes) -> None:
        # A first try whose answer was lost may have made the object that refuses the second: then we are its teller.
        teller = uuid.uuid4().hex
        headers = {"If-None-Match": "*", _DIGEST: stat.digest, _TELLER: teller}

        def create() -> bool:
            try:
                # minio has no public way to say a condition.
                self._client._execute("PUT", self._bucket, stat.key, body=data, headers=dict(headers))
            except S3Error as error:
                if error.code == "PreconditionFailed":
                    return False
                raise
            return True

        if not await self._do(create) and (await self._do(lambda: self._stat(stat.key)))[1] != teller:
            raise AlreadyThere(f"{stat.key} is there already")

    def _get(self, key: str) -> bytes:
        with self._opened(key) as response:
            data: bytes = response.read()
        check(key, found=digest_of(data), wanted=response.headers.get(_DIGEST, ""))
        return data

    def _get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        try:
            with self._opened(key, offset=start, length=num_bytes) as response:
                data: bytes = response.read()
        except S3Error as error:
            if error.code == "InvalidRange":  # there is nothing from there on
                return b""
            raise
        return data

    def _get_file(self, key: str, path: Path) -> Stat:
        with self._opened(key) as response, whole_file(path) as part:
            for chunk in response.stream(CHUNK_BYTES):
                part.write(chunk)
            check(key, found=part.digest, wanted=response.headers.get(_DIGEST, ""))
        return Stat(key, part.num_bytes, part.digest)

    @contextmanager
    def _opened(self, key: str, offset: int = 0, length: int = 0) -> Iterator[Any]:
        try:
            response = self._client.get_object(self._bucket, key, offset=offset, length=length)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise NoSuchObject(f"nothing lies under {key}") from error
            raise
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _stat(self, key: str) -> tuple[Stat | None, str]:
        """And who made it, where that was said."""
        try:
            found = self._client.stat_object(self._bucket, key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None, ""
            raise
        told = found.metadata or {}
        return Stat(key, found.size or 0, told.get(_DIGEST, "")), told.get(_TELLER, "")

    def _found(self, prefix: str) -> Sequence[Stat]:
        found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True)
        # Some servers list folder by folder, which is not the order of keys.
        return sorted((Stat(one.object_name or "", one.size or 0, "") for one in found), key=lambda stat: stat.key)


def _pool() -> urllib3.PoolManager:
    # We try again ourselves: minio's way would blindly repeat a conditional put and block its thread meanwhile.
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=60),
        maxsize=32,
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )


def _is_passing(error: Exception) -> bool:
    match error:
        case S3Error():
            return error.code in _PASSING or error.response.status >= 500
        case ServerError():
            return error.status_code >= 500
        case InvalidResponseError():
            return error._code >= 500
        case _:
            return True


def _what(error: Exception) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, S3Error) else f"{type(error).__name__}: {error}"
