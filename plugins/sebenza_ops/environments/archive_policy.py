"""The policy of application backups: what of a host is archived, when, and who may read it."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sebenza_ops.environments.fields import AbsolutePath, ConnectionId, Model, Seconds, UtcTime
from sebenza_ops.environments.hosts import Role

# The host's own shell expands * and ?; nothing else in a path means anything to it.
_GLOB = r"^/[A-Za-z0-9._@*?+-]+(/[A-Za-z0-9._@*?+-]+)*$"
_NAME_GLOB = r"^[A-Za-z0-9._@*?+-]+$"


class ArchivedPath(Model):
    """A place on a host that belongs into its archive."""

    path: Annotated[
        str, Field(pattern=_GLOB, description="Below the host's root_dir; * and ? stand for any characters.")
    ]
    kind: Annotated[Literal["application", "configuration"], Field(description="What it is, for reports.")] = (
        "configuration"
    )
    content: Annotated[
        bool,
        Field(description="false: the directory itself, with owner and mode, without what is in it (logs, caches)."),
    ] = True
    optional: Annotated[bool, Field(description="true: that it is missing is no reason for a warning.")] = False

    @field_validator("path")
    @classmethod
    def _stay_below(cls, value: str) -> str:
        if ".." in value.split("/"):
            raise ValueError("expected a path without '..'")
        return value


class ApplicationBackupPolicy(Model):
    """Archives of the application and the configuration of every host. Needs policies.backup, whose days it follows."""

    start: Annotated[UtcTime, Field(description='When it begins, UTC, for example "01:30". Ours.')] = datetime.time(
        1, 30
    )
    ssh_conn_id: Annotated[
        ConnectionId,
        Field(description="Airflow connection: login as root to all hosts. Keys and certificates are root's alone."),
    ]
    cipher_conn_id: Annotated[
        ConnectionId,
        Field(description="Airflow connection whose password is an age identity. Without it no archive opens."),
    ]
    paths: Annotated[
        dict[Role, tuple[ArchivedPath, ...]],
        Field(description="By role, what is archived beside what the procedures know themselves."),
    ] = Field(default_factory=dict)
    exclude_names: Annotated[
        tuple[Annotated[str, Field(pattern=_NAME_GLOB)], ...],
        Field(
            description="Files and directories of these names are left out everywhere: what a build makes again. Ours."
        ),
    ] = ("node_modules", ".next", "dist", "*.log", ".install-*", ".replaced-*")
    work_dir: Annotated[
        AbsolutePath, Field(description="Where a host makes and unpacks archives, below root_dir; root's own. Ours.")
    ] = "/var/lib/sebenza-archive"
    minimum_free_bytes: Annotated[
        int, Field(ge=0, description="No archive is made with less left beside it on the host. Ours: 512 MiB.")
    ] = 512 * 1024**2
    timeout_seconds: Annotated[
        Seconds, Field(description="Archiving, sending or unpacking one host is ended after so long. Ours: 10 minutes.")
    ] = 600
