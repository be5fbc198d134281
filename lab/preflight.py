"""What must hold before the lab comes up; each failure is one line that says what to do."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

from lab import paths, start_check
from lab.accounts import DATABASE_USER, DNS_USER, LOGIN_USER, RESOLVER_USER, missing_users
from lab.addresses import NETWORK, address
from lab.hosts import has_secondary_site
from lab.waiting import LabError

_PROGRAMS = (
    "haproxy", "nginx", "redis-server", "sshd", "node", "npm", "git", "iptables", "socat", "curl", "rclone",
    "pgbackrest", "check_pgbackrest", "rsync", "age", "zstd", "prometheus", "prometheus-alertmanager",
    "prometheus-node-exporter",
)  # fmt: skip
# What lies beside Python is copied for them (lab.tools).
_RUN_BY_ACCOUNTS = ("node", "npm")
_PROGRAMS_OF_SECONDARY_SITE = ("knotd", "unbound")


def check() -> None:
    """Everything that can be known before anything is started."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (its sshd, PostgreSQL and Redis run under their own accounts): use sudo -E")
    _check_programs()
    _check_place()
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


def _check_place() -> None:
    paths.LAB_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    closed = paths.closed_directory(paths.LAB_DIR)
    found = [start_check.closed_problem(closed)] if closed is not None else []
    short, other = start_check.disk_problem(), start_check.other_lab()
    found += [short] if short is not None else []
    found += [start_check.other_lab_problem(other)] if other is not None else []
    _refuse_all(found)


def _check_programs() -> None:
    setup = "run scripts/setup.sh (make demo and make test do)"
    for name in (*_PROGRAMS, *(_PROGRAMS_OF_SECONDARY_SITE if has_secondary_site() else ())):
        try:
            paths.program(name)
        except FileNotFoundError as error:
            raise LabError(str(error)) from None
    if not (paths.POSTGRES_BIN / "postgres").exists():
        raise LabError(f"PostgreSQL 15 is not installed in {paths.POSTGRES_BIN}: {setup}")
    if not (paths.NODE_MODULES / "pm2").exists():
        raise LabError(f"PM2 is not installed in lab/node: {setup}")
    for name in _RUN_BY_ACCOUNTS:
        if (closed := paths.closed_directory(paths.program(name).resolve().parent)) is not None:
            raise LabError(
                f"{paths.program(name)} leads into {closed}, where the lab's accounts can't go: install Debian's "
                "(apt-get install nodejs npm), which is then used"
            )
    if missing := missing_users([DNS_USER, RESOLVER_USER] if has_secondary_site() else []):
        raise LabError(f"the accounts {', '.join(missing)} do not exist: {setup}")


def check_ports() -> None:
    """Every address and port of the hosts that are down is free."""
    _refuse_all(start_check.lab_port_problems())


def other_lab() -> Path | None:
    """The directory of another lab that runs on this machine now, if one does."""
    return start_check.other_lab()


def _refuse_all(problems: list[str]) -> None:
    if problems:
        raise LabError("; ".join(problems))


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
