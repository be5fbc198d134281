"""Hosts: what each machine does, and how it is reached."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sebenza_ops.environments.fields import AbsolutePath, Address, HostKey, Model, Name, Port


class Role(StrEnum):
    """What a host does. One host may have several roles."""

    LOAD_BALANCER = "load_balancer"
    APPLICATION = "application"
    DATABASE = "database"
    DATABASE_ENDPOINT = "database_endpoint"
    CACHE = "cache"
    MONITORING = "monitoring"
    BUILD = "build"
    LOG = "log"
    OBJECT_STORE = "object_store"


class Color(StrEnum):
    """One of the two places on every application host in which a release can run."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Color:
        """The color that this one is not."""
        return Color.GREEN if self is Color.BLUE else Color.BLUE


class SshAccess(Model):
    """How a host is reached. Login and private key live in the environment's SSH connection."""

    port: Annotated[Port, Field(description="TCP port of sshd.")] = 22
    host_key: Annotated[
        HostKey,
        Field(
            description="The host's public key, as `ssh-keyscan -t ed25519 HOST` prints it after the name. "
            "Compare it with the console of the host before you trust it: every login is checked against it."
        ),
    ]


class Host(Model):
    """One machine."""

    name: Annotated[Name, Field(description="Unique name; used in messages, evidence and HAProxy's server names.")]
    site: Annotated[Name, Field(description="Name of the site where it stands.")] = "primary"
    address: Annotated[Address, Field(description="Host name or IPv4 address.")]
    roles: Annotated[tuple[Role, ...], Field(min_length=1, description="What the host does.")]
    spare: Annotated[
        bool,
        Field(description="true: prepared but without traffic until scaling or a recovery adds it."),
    ] = False
    ssh: Annotated[SshAccess, Field(description="How it is reached.")]
    root_dir: Annotated[
        AbsolutePath,
        Field(description="Prefix of every path on this host. / on a real host; the lab's hosts share one machine."),
    ] = "/"

    def path(self, path: str) -> str:
        """Return where the inventory's absolute `path` is on this host."""
        if not path.startswith("/"):
            raise ValueError(f"host {self.name}: {path!r} is not an absolute path")
        return path if self.root_dir == "/" else self.root_dir + path
