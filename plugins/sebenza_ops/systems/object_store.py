"""Object storage through the amazon provider's S3Hook: any S3-compatible server that the connection names."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sebenza_ops.environments.models import ObjectStore
from sebenza_ops.systems.errors import OutsideSystemError

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

URL_LIFETIME_SECONDS = 900
# Unless the connection's `config_kwargs` say otherwise. The library's own would wait five minutes for a storage that is
# cut off: 5 attempts of 60 s each. https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html
CONNECT_TIMEOUT_SECONDS = 5
ATTEMPTS = 3
CHUNK_BYTES = 1024 * 1024
# S3 takes no larger object in one request (AWS, "Uploading objects").
LARGEST_UPLOAD_BYTES = 5 * 1024**3


class Sink(Protocol):
    """What takes an object as it comes: a file, a hash."""

    def write(self, part: bytes, /) -> int:
        """Take the next part."""


class ObjectStorage:
    """A bucket of the object store; keys are below the inventory's prefix.

    Args:
        store: The inventory's object store.
    """

    def __init__(self, store: ObjectStore) -> None:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        self._store = store
        self._hook: S3Hook = S3Hook(aws_conn_id=store.conn_id)

    @property
    def hook(self) -> S3Hook:
        """The provider's hook."""
        return self._hook

    def full_key(self, key: str) -> str:
        """The key with the inventory's prefix."""
        return f"{self._store.prefix.strip('/')}/{key}".lstrip("/")

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store an object, replacing one of that key."""
        with self._errors(f"storing {key}"):
            self._client.put_object(
                Bucket=self._store.bucket, Key=self.full_key(key), Body=data, ContentType=content_type
            )

    def get_bytes(self, key: str) -> bytes | None:
        """An object's content, or None when there is no such object."""
        from botocore.exceptions import ClientError

        with self._errors(f"reading {key}"):
            try:
                answer = self._client.get_object(Bucket=self._store.bucket, Key=self.full_key(key))
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
                    return None
                raise
            content: bytes = answer["Body"].read()
            return content

    def fetch(self, key: str, target: Sink) -> bool:
        """Write an object's content to a file as it comes; whether there is such an object."""
        from botocore.exceptions import ClientError

        with self._errors(f"reading {key}"):
            try:
                answer = self._client.get_object(Bucket=self._store.bucket, Key=self.full_key(key))
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
                    return False
                raise
            for part in answer["Body"].iter_chunks(CHUNK_BYTES):
                target.write(part)
            return True

    def get_json(self, key: str) -> Any:
        """An object's JSON content, or None when there is no such object."""
        content = self.get_bytes(key)
        try:
            return None if content is None else json.loads(content)
        except ValueError as error:
            raise OutsideSystemError(f"{key} is no JSON ({error})", host="object storage") from error

    def size_bytes(self, key: str) -> int | None:
        """An object's size, or None when there is no such object."""
        from botocore.exceptions import ClientError

        with self._errors(f"looking for {key}"):
            try:
                return int(self._client.head_object(Bucket=self._store.bucket, Key=self.full_key(key))["ContentLength"])
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
                    return None
                raise

    def keys(self, prefix: str) -> dict[str, datetime]:
        """The keys that begin with a prefix, each with the moment of its last change."""
        with self._errors(f"listing {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._store.bucket, Prefix=self.full_key(prefix)
            )
            own = len(self.full_key(""))
            return {item["Key"][own:]: item["LastModified"] for page in pages for item in page.get("Contents", ())}

    def delete(self, key: str) -> None:
        """Delete an object; deleting it again does nothing."""
        with self._errors(f"deleting {key}"):
            self._client.delete_object(Bucket=self._store.bucket, Key=self.full_key(key))

    def transfer_source(self, key: str, method: str = "get_object") -> str:
        """What a host needs to read (or, with "put_object", write) one object without credentials of its own.

        Returns: a signed URL on the first line, valid for 15 minutes; after it, the certificates with which the server
        is checked when the connection names some.
        """
        with self._errors(f"signing a URL for {key}"):
            url: str = self._client.generate_presigned_url(
                method,
                Params={"Bucket": self._store.bucket, "Key": self.full_key(key)},
                ExpiresIn=URL_LIFETIME_SECONDS,
            )
        verify = self._hook.verify
        certificates = Path(verify).read_text() if isinstance(verify, str) else ""
        return f"{url}\n{certificates}"

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        bounded = Config(connect_timeout=CONNECT_TIMEOUT_SECONDS, retries={"total_max_attempts": ATTEMPTS})
        return self._hook.get_client_type(self._hook.region_name, bounded.merge(self._hook.config))

    def _errors(self, doing: str) -> _StorageErrors:
        return _StorageErrors(self._store, doing)


class _StorageErrors:
    """Turns the client library's errors into ours."""

    def __init__(self, store: ObjectStore, doing: str) -> None:
        self._store, self._doing = store, doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, (BotoCoreError, ClientError)):
            raise OutsideSystemError(
                f"{self._doing} in bucket {self._store.bucket} failed ({error}): "
                f"check the connection {self._store.conn_id}",
                host="object storage",
            ) from error
