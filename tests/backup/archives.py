"""Sets of archives, as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sebenza_ops.systems.host_archives import ArchiveSet

NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)


def archive_set(host: str = "app1", days: float = 0, **changes: object) -> ArchiveSet:
    """A host's set that was made so many days before NOW."""
    made_at = NOW - timedelta(days=days)
    directory = f"archives/production/{host}/{made_at:%Y%m%dT%H%M}/"
    values: dict[str, object] = {
        "environment": "production",
        "host": host,
        "key": f"{directory}a.tar.zst.age",
        "manifest_key": f"{directory}a.manifest.age",
        "size_bytes": 10,
        "sha256": "a" * 64,
        "recipient": "age1x",
        "files": 3,
        "content_bytes": 30,
        "color": "blue",
        "release_id": "v1.0.0-aaaaaaaaaaaa",
        "made_at": made_at,
        "verified_at": made_at,
        "seconds": 1.0,
        "run": "a run",
    }
    return ArchiveSet.model_validate(values | changes)
