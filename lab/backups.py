"""The lab's backups: pgBackRest on the database hosts of the environments that have a policy for it."""

from __future__ import annotations

import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lab import paths, supervision, tls
from lab.accounts import DATABASE_USER, ids, make_directory, own, write_as
from lab.addresses import POSTGRES_PORT, SSH_PORT, STORAGE_PORT, address
from lab.hosts import LabEnvironment, places
from lab.programs import MARKER_VARIABLE, marker
from lab.secrets import lab_secrets
from lab.storage import BUCKET, REGION
from lab.waiting import POLL_SECONDS, LabError, Patience, scaled

STANZA = "main"
# pgBackRest's own: another of its commands holds the stanza (archiving has begun already).
_LOCKED = 50
_STANZA_DEADLINE_SECONDS = 30


@cache
def environment_of_database(host: str) -> LabEnvironment | None:
    """The environment (at its site) whose policy has this database host backed up; None when there is none."""
    for environment in places():
        shipped = paths.CHECKOUT / "include/environments" / f"{environment.name}.yaml"
        if host in environment.database_hosts and "backup" in yaml.safe_load(shipped.read_text())["policies"]:
            return environment
    return None


def stanza_of(host: str) -> str | None:
    """The stanza that a host's server archives to; None when it archives nothing."""
    return STANZA if environment_of_database(host) is not None else None


def configuration_values(host: str) -> dict[str, Any]:
    """The values of pgbackrest.conf on a host that has a stanza. Holds secrets."""
    environment = environment_of_database(host)
    assert environment is not None
    key_id, secret = lab_secrets().storage_backup_key(environment.storage_host)
    return {
        "host": host,
        "environment": environment.name,
        "root": paths.host_root(host),
        "stanza": STANZA,
        "bucket": BUCKET,
        "region": REGION,
        "storage_address": address(environment.storage_host),
        "storage_port": STORAGE_PORT,
        "key_id": key_id,
        "secret": secret,
        "cipher": lab_secrets().backup_cipher(environment.name),
        "port": POSTGRES_PORT,
        "ssh_port": SSH_PORT,
        "user": DATABASE_USER,
        "peers": [{"address": address(peer), "root": paths.host_root(peer)} for peer in _peers(host)],
    }


def _peers(host: str) -> list[str]:
    environment = environment_of_database(host)
    return [each for each in environment.database_hosts if each != host] if environment is not None else []


def write_keys(host: str, root: Path, operator_key: str) -> None:
    """Keys and directories of a host with a stanza: hosts reach one another, and Airflow reaches them, as postgres."""
    for directory, mode in (("run/pgbackrest", 0o770), ("var/log/pgbackrest", 0o750), ("var/spool/pgbackrest", 0o750)):
        make_directory(root / directory, DATABASE_USER, mode)
    # Where backups are made, and the fence that they pass.
    make_directory(root / "var/lib/sebenza-backup", DATABASE_USER, 0o750)
    write_as(root / "etc/pgbackrest/ca.pem", paths.CA_FILE.read_text())
    _key(host)
    known_hosts = []
    logins = [f"{operator_key} operator\n"]
    for peer in _peers(host):
        host_key = tls.ensure_ssh_key(paths.host_files(peer) / "etc/ssh/ssh_host_ed25519_key", peer)
        known_hosts.append(f"[{address(peer)}]:{SSH_PORT} {host_key}\n")
        logins.append(f"{_key(peer)} {peer}\n")
    write_as(root / "etc/pgbackrest/known_hosts", "".join(known_hosts))
    write_as(root / f"etc/ssh/authorized_keys/{DATABASE_USER}", "".join(logins))


def _key(host: str) -> str:
    file = paths.host_files(host) / "etc/pgbackrest/id_ed25519"
    public = tls.ensure_ssh_key(file, f"{DATABASE_USER}@{host}")
    own(file, DATABASE_USER, 0o600)
    return public


def ensure_stanza(host: str) -> None:
    """Create the stanza of a primary's repository unless it is there. Raises LabError with what pgBackRest says."""
    if stanza_of(host) is None:
        return
    supervision.await_listening("storage", "rclone")
    patience = Patience(f"{host}: pgBackRest makes a stanza", _STANZA_DEADLINE_SECONDS)
    while True:
        done = run(host, "stanza-create")
        if done.returncode == 0:
            return
        if done.returncode != _LOCKED or patience.is_over():
            raise LabError(f"{host}: pgBackRest makes no stanza: {(done.stderr or done.stdout).strip()[-600:]}")
        time.sleep(POLL_SECONDS)


def run(host: str, *arguments: str, timeout_seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run pgBackRest on a host as its cluster's owner."""
    user_id, group_id = ids(DATABASE_USER)
    root = paths.host_root(host)
    return subprocess.run(
        [str(paths.program("pgbackrest")), f"--config={root}/etc/pgbackrest.conf", f"--stanza={STANZA}", *arguments],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", MARKER_VARIABLE: marker(host)},
        user=user_id,
        group=group_id,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=scaled(timeout_seconds),
        check=False,
    )
