"""The host that builds releases, as the inventory describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.components import ObjectStore
from sebenza_ops.environments.fields import AbsolutePath, ConnectionId, Model, Name
from sebenza_ops.environments.hosts import Host


class Build(Model):
    """The host that turns a git ref into a release (kind: build)."""

    kind: Annotated[Literal["build"], Field(description="build")]
    name: Annotated[Name, Field(description="Name; the file is called <name>.yaml.")] = "build"
    host: Annotated[Host, Field(description="The build host.")]
    ssh_conn_id: Annotated[ConnectionId, Field(description="Airflow connection: login and private key.")] = (
        "sebenza_build_ssh"
    )
    repository_path: Annotated[AbsolutePath, Field(description="Bare git repository, below the host's root_dir.")]
    work_dir: Annotated[AbsolutePath, Field(description="Where builds happen, below the host's root_dir.")]
    node_bin_dir: Annotated[AbsolutePath, Field(description="Directory of node and npm, absolute on the machine.")] = (
        "/usr/bin"
    )
    object_store: Annotated[ObjectStore, Field(description="Where artifacts go.")]
    application: Annotated[Name, Field(description="Name of the application that is built.")] = "sebenza"
