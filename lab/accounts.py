"""System accounts that the lab's services run as, and file ownership."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LOGIN_USER: Final = "sebenza"
# Owns the clusters, and makes their backups.
DATABASE_USER: Final = "postgres"

# Run the name server and the resolver of the secondary site.
DNS_USER: Final = "knot"
RESOLVER_USER: Final = "unbound"

# Each comes with its Debian package; sebenza is made by scripts/setup.sh.
SERVICE_USERS: Final = (LOGIN_USER, "postgres", "redis", "haproxy", "www-data", "prometheus")


def missing_users(more: Iterable[str] = ()) -> list[str]:
    """Accounts that services (and `more`) need and this machine does not have."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return [user for user in (*SERVICE_USERS, *more) if user not in known]


def ids(user: str) -> tuple[int, int]:
    """User id and primary group id of an account."""
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def primary_group(user: str) -> str:
    """Name of an account's primary group."""
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def own(path: Path, user: str, mode: int | None = None) -> None:
    """Give a file or directory to a user, and set its mode."""
    os.chown(path, *ids(user))
    if mode is not None:
        path.chmod(mode)


def make_directory(path: Path, user: str = "root", mode: int = 0o755) -> Path:
    """Make a directory (and its parents, as root's) that belongs to a user."""
    path.mkdir(parents=True, exist_ok=True)
    own(path, user, mode)
    return path


def write_as(path: Path, content: str, user: str = "root", mode: int = 0o644) -> bool:
    """Write a file atomically for a user; whether its content is new."""
    encoded = content.encode()
    if path.exists() and path.read_bytes() == encoded:
        own(path, user, mode)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encoded)
    own(temporary, user, mode)
    temporary.replace(path)
    return True
