"""What must hold before the lab comes up; each failure is one line that says what to do."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import psutil

from lab import paths, supervision
from lab.accounts import DATABASE_USER, DNS_USER, LOGIN_USER, RESOLVER_USER, SERVICE_USERS, missing_users
from lab.addresses import ALL_HOST_NAMES, NETWORK, address
from lab.hosts import has_secondary_site, listening
from lab.waiting import LabError

_REQUIRED_DISK_MIB = 2048
_PROGRAMS = (
    "haproxy", "nginx", "redis-server", "sshd", "node", "npm", "git", "iptables", "socat", "curl", "rclone",
    "pgbackrest", "check_pgbackrest", "rsync", "age", "zstd", "prometheus", "prometheus-alertmanager",
    "prometheus-node-exporter",
)  # fmt: skip
_PROGRAMS_OF_SECONDARY_SITE = ("knotd", "unbound")


def check() -> None:
    """Everything that can be known before anything is started."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (its sshd, PostgreSQL and Redis run under their own accounts): use sudo -E")
    _check_programs()
    _check_traversable()
    _check_disk()
    _check_other_lab()
    _check_network()


def _check_network() -> None:
    """What an earlier network has left in the hosts' files leads to whichever lab has that network now."""
    try:
        before = json.loads(paths.LAB_FILE.read_text())["hosts"]["lb1"]
    except FileNotFoundError:
        return
    if before != address("lb1"):
        raise LabError(
            f"{paths.LAB_DIR} was made for the network {before.rpartition('.')[0]}, and SEBENZA_LAB_NET says {NETWORK}"
            f": use that one again, or another SEBENZA_LAB_DIR, or remove the directory while its lab is down"
        )


def _check_programs() -> None:
    setup = "run scripts/setup.sh (make demo and make test do)"
    for name in (*_PROGRAMS, *(_PROGRAMS_OF_SECONDARY_SITE if has_secondary_site() else ())):
        try:
            paths.program(name)
        except FileNotFoundError as error:
            raise LabError(str(error)) from None
    if not (paths.POSTGRES_BIN / "postgres").exists():
        raise LabError(f"PostgreSQL 15 is not installed in {paths.POSTGRES_BIN}: {setup}")
    if not paths.PM2.exists():
        raise LabError(f"PM2 is not installed in lab/node: {setup}")
    if missing := missing_users([DNS_USER, RESOLVER_USER] if has_secondary_site() else []):
        raise LabError(f"the accounts {', '.join(missing)} do not exist: {setup}")


def _check_traversable() -> None:
    paths.LAB_DIR.mkdir(parents=True, exist_ok=True)
    for place in (paths.LAB_DIR, paths.CHECKOUT / "lab/node"):
        for directory in (place, *place.parents):
            if not directory.stat().st_mode & stat.S_IXOTH:
                raise LabError(
                    f"the accounts {', '.join(SERVICE_USERS[:2])} can't enter {directory}, which the lab is in: "
                    f"move the checkout to a place such as /srv, or run: chmod o+x {directory}"
                )


def _check_disk() -> None:
    free_mib = shutil.disk_usage(paths.LAB_DIR).free // 2**20
    if free_mib < _REQUIRED_DISK_MIB:
        raise LabError(
            f"too little disk: {free_mib} MiB free in {paths.LAB_DIR}, {_REQUIRED_DISK_MIB} MiB needed: "
            "free some space, or move the lab with SEBENZA_LAB_DIR"
        )


def _check_other_lab() -> None:
    other = other_lab()
    if other is not None:
        raise LabError(f"another lab runs from {other}: stop it with SEBENZA_LAB_DIR={other} python -m lab down")


def other_lab() -> Path | None:
    """The directory of another lab that runs on this machine now, if one does."""
    for host in ALL_HOST_NAMES:
        link = paths.host_root(host)
        if not link.is_symlink():
            continue
        target = link.readlink()
        if target != paths.host_files(host) and _runs(target):
            return target.parent.parent
    return None


def _runs(tree: Path) -> bool:
    try:
        pid = int((tree / "run/supervisord.pid").read_text())
        return "supervisor" in " ".join(psutil.Process(pid).cmdline())
    except (OSError, ValueError, psutil.Error):
        return False


def check_ports() -> None:
    """Every address and port of the hosts that are down is free."""
    for host, service, port in listening():
        if supervision.is_up(host):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address(host), port))
            except OSError as error:
                raise LabError(
                    f"{address(host)}:{port}, which {service} on {host} needs, is taken{_holder(address(host), port)} "
                    f"({error.strerror}): stop that program, or move the lab with SEBENZA_LAB_NET (now {NETWORK})"
                ) from None


def _holder(host_address: str, port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
            continue
        if connection.laddr.port == port and connection.laddr.ip in {host_address, "0.0.0.0", "::"}:
            try:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def prepare_machine() -> None:
    """What a machine's own start does for its services: sshd's directory, and a home for the login user."""
    # Compiled into sshd; systemd makes it on a real host (RuntimeDirectory=sshd).
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    paths.RUN_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    _prepare_login(LOGIN_USER, paths.LOGIN_HOME)
    # Its home is its package's; who works on the cluster logs in as its owner.
    _prepare_login(DATABASE_USER)


def _prepare_login(user: str, home: Path | None = None) -> None:
    shadow = Path("/etc/shadow").read_text().splitlines()
    password = next(line.split(":")[1] for line in shadow if line.startswith(f"{user}:"))
    options = []
    # sshd complains on every session's standard error when the account's home does not exist.
    if home is not None and pwd.getpwnam(user).pw_dir != str(home):
        options += ["--home", str(home)]
    # "!" locks an account, keys included, when sshd runs without PAM; "*" is no password either (sshd(8)).
    if password.startswith("!"):
        options += ["--password", "*"]
    if not options:
        return
    done = subprocess.run(["usermod", *options, user], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the account {user} can't be prepared for logins by key: {done.stderr.strip()}")
