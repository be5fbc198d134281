"""Faults in backups: an object of a repository, or of a dump, that is gone, cut or damaged in object storage."""

from __future__ import annotations

import re
from typing import Any, Final

from lab import paths
from lab.inventory import storage_client
from lab.storage import BUCKET
from lab.waiting import LabError

# By kind: what the object's key ends with, below the environment's repository or its dumps. The newest is taken.
KINDS: Final[dict[str, str]] = {
    "bundle": r"/backup/main/[^/]+/bundle/\d+$",
    "file": r"/backup/main/[^/]+/pg_data/.*\.zst$",
    "manifest": r"/backup/main/[^/]+/backup\.manifest$",
    "manifest-copy": r"/backup/main/[^/]+/backup\.manifest\.copy$",
    "info": r"/backup/main/backup\.info$",
    "archive-info": r"/archive/main/archive\.info$",
    "wal": r"/archive/main/.*/[0-9A-F]{24}-[0-9a-f]{40}\.zst$",
    "label": r"/archive/main/.*\.backup$",
    "history": r"/backup/main/backup\.history/.*\.gz$",
    "dump": r"/dump/.*$",
    "dump-manifest": r"/manifest\.json$",
}
HOWS: Final = ("gone", "cut", "damaged")
_DUMPS: Final = frozenset({"dump", "dump-manifest"})


def place_of(environment: str, kind: str) -> str:
    """Below which key an environment's objects of a kind are. Raises KeyError for an unknown kind."""
    if kind not in KINDS:
        raise KeyError(f"no kind of object {kind!r}; expected one of {', '.join(KINDS)}")
    if kind not in _DUMPS:
        return f"pgbackrest/{environment}/"
    return f"{'' if environment == 'production' else f'{environment}/'}backups/database/{environment}/"


def newest(environment: str, kind: str) -> str:
    """The key of the newest object of a kind. Raises LabError when there is none."""
    place, pages = place_of(environment, kind), storage_client().get_paginator("list_objects_v2")
    found = [
        item
        for page in pages.paginate(Bucket=BUCKET, Prefix=place)
        for item in page.get("Contents", ())
        if re.search(KINDS[kind], f"/{item['Key'].removeprefix(place)}")
    ]
    if not found:
        raise LabError(f"{environment} has no {kind} in object storage: run backup_database.{environment} first")
    return str(max(found, key=lambda item: (item["LastModified"], item["Key"]))["Key"])


def spoiled(content: bytes, how: str) -> bytes | None:
    """What becomes of an object. Raises KeyError for an unknown way."""
    middle = len(content) // 2
    ways: dict[str, bytes | None] = {
        "gone": None,
        "cut": content[:middle],
        "damaged": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
    }
    if how not in ways:
        raise KeyError(f"can't damage by {how!r}; expected one of {', '.join(HOWS)}")
    return ways[how]


def spoil(key: str, how: str, fault_id: str) -> None:
    """Keep the object beside, then spoil it: through the server, which keeps listings of its own."""
    client = storage_client()
    content: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    paths.FAULTS_DIR.mkdir(exist_ok=True)
    (paths.FAULTS_DIR / fault_id).write_bytes(content)
    other = spoiled(content, how)
    if other is None:
        client.delete_object(Bucket=BUCKET, Key=key)
    else:
        client.put_object(Bucket=BUCKET, Key=key, Body=other)


def put_back(key: str, fault_id: str) -> None:
    """The object as it was, even where it was removed meanwhile: a set that has expired leaves it to the next one."""
    kept = paths.FAULTS_DIR / fault_id
    if kept.exists():
        client: Any = storage_client()
        client.put_object(Bucket=BUCKET, Key=key, Body=kept.read_bytes())
        kept.unlink()
