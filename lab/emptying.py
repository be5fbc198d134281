"""A host that was replaced: everything that it had is gone, but what lets people and procedures in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab import configuration, paths, supervision, tls
from lab.hosts import SERVICES, check_service
from lab.waiting import LabError

# What a newly installed machine has: sshd with the host's key, its service manager, programs, and the places for logs.
_KEPT: Final = ("etc/ssh", "etc/supervisor", "usr", "run")
_KEPT_DIRECTORIES: Final = ("etc", "var", "var/log", "tmp")
_KEPT_LOGS: Final = ("sshd.log", "supervisord")


def empty(host: str) -> None:
    """Kill every service but sshd, and remove the host's files, all of them. `LabError` for a host that holds data."""
    check_service(host, "pm2")
    if {"postgresql", "redis"} & set(SERVICES[host]):
        raise LabError(f"{host} holds data that nothing of the lab brings back: empty an application host")
    for service in SERVICES[host]:
        if service != "sshd" and supervision.state(host, service).pid:
            supervision.kill_service(host, service)
    for path in _removed(paths.host_files(host)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_emptied(host: str) -> bool:
    """Whether an application host's files are gone."""
    return "pm2" in SERVICES[host] and not (paths.host_files(host) / "srv/sebenza/releases").is_dir()


def furnish(host: str) -> None:
    """Give an emptied host its configuration and its services back; what was installed there is not."""
    if is_emptied(host):
        configuration.write_host(host, tls.ensure_ssh_key(paths.OPERATOR_KEY, "operator"))
    for service in SERVICES[host]:
        if not supervision.state(host, service).pid:
            supervision.start(host, service)


def _removed(root: Path) -> Iterator[Path]:
    kept = {root / name for name in (*_KEPT, *_KEPT_DIRECTORIES)}
    for directory in (root, *(root / name for name in _KEPT_DIRECTORIES)):
        for path in sorted(directory.iterdir()):
            if path in kept or (directory == root / "var/log" and path.name.startswith(_KEPT_LOGS)):
                continue
            yield path
