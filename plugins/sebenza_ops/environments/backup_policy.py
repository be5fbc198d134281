"""The policy of backups: how often, where they are made, and what a host must have left for them."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.fields import AbsolutePath, ConnectionId, Model, Name, Seconds, UtcTime

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class LogicalDumpPolicy(Model):
    """The dump beside the physical backup, for restores of single tables. It knows no point in time but its own."""

    format: Annotated[
        Literal["directory", "custom"],
        Field(description="directory: several tables at once; custom: one file. Ours: directory."),
    ] = "directory"
    processes: Annotated[
        int, Field(ge=1, le=32, description="Tables that are dumped at once, with directory. Ours: 2.")
    ] = 2
    compression_level: Annotated[
        int, Field(ge=0, le=9, description="gzip. Ours: 1, three times faster than 6 for a tenth more.")
    ] = 1


class RestoreTestPolicy(Model):
    """How backups are proven by restoring them, and what a restore is projected to."""

    weekly_on: Annotated[
        Weekday,
        Field(description="Day of the test that also reads the whole repository back, beside one after each backup."),
    ] = "wednesday"
    start: Annotated[UtcTime, Field(description='When the weekly one begins, UTC, for example "03:30". Ours.')] = (
        datetime.time(3, 30)
    )
    production_bytes: Annotated[
        int,
        Field(gt=0, description="The size that the recovery time is projected to. Manual, Database Cluster: 500 GB."),
    ] = 500 * 10**9
    wal_bytes_per_day: Annotated[
        int | None,
        Field(ge=0, description="WAL that a day holds; none: as much as was written since the oldest set."),
    ] = None
    maximum_compression_ratio: Annotated[
        float,
        Field(gt=1, description="Nothing is projected from data that compresses better. Ours: 5, as real data does."),
    ] = 5.0


class BackupPolicy(Model):
    """Automated backups with pgBackRest. An environment without this policy has none."""

    frequency: Annotated[
        Literal["daily", "weekly"],
        Field(description="Manual, Environment Overview: production daily, staging weekly, development none."),
    ]
    start: Annotated[UtcTime, Field(description='When it begins, UTC, for example "00:30". Ours.')] = datetime.time(
        0, 30
    )
    full_on: Annotated[
        Weekday, Field(description="Day of the full backup; with weekly, the day of the backup. Ours: Sunday.")
    ] = "sunday"
    between: Annotated[
        Literal["diff", "incr"],
        Field(description="On other days: diff holds what changed since the full backup, incr since the last. Ours."),
    ] = "diff"
    run_on: Annotated[
        Literal["primary", "replica"],
        Field(description="Who reads its files for it. Without a replica that streams, the primary does. Ours."),
    ] = "primary"
    logical_dump: Annotated[
        LogicalDumpPolicy | None,
        Field(description="A dump beside it; none: rows are counted all the same."),
    ] = None
    restore_test: Annotated[RestoreTestPolicy, Field(description="How backups are proven.")] = RestoreTestPolicy()
    processes: Annotated[int, Field(ge=1, le=64, description="pgBackRest's process-max. Ours: 2.")] = 2
    minimum_free_bytes: Annotated[
        int,
        Field(ge=0, description="No backup begins with less on the host beside what the dump needs. Ours: 5 GiB."),
    ] = 5 * 1024**3
    timeout_seconds: Annotated[
        Seconds, Field(description="Each part (backup, dump, verification) is ended after so long. Ours: 6 hours.")
    ] = 6 * 3600
    stanza: Annotated[Name, Field(description="pgBackRest's name of the cluster.")] = "main"
    config_file: Annotated[
        AbsolutePath, Field(description="pgBackRest's configuration on database hosts. Default: Debian's.")
    ] = "/etc/pgbackrest.conf"
    work_dir: Annotated[
        AbsolutePath,
        Field(description="Where a database host keeps dumps and its fence, below root_dir; the login's own. Ours."),
    ] = "/var/lib/sebenza-backup"
    repository_conn_id: Annotated[
        ConnectionId, Field(description="Airflow connection: key and secret of the repository's storage.")
    ]
    cipher_conn_id: Annotated[
        ConnectionId,
        Field(description="Airflow connection whose password encrypts the repository. Without it no backup opens."),
    ]
