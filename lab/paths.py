"""Where the lab keeps its files. Needs the standard library only: what is checked before a set-up reads it too."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from lab.addresses import NETWORK

CHECKOUT: Final = Path(__file__).resolve().parent.parent


def closed_directory(place: Path) -> Path | None:
    """The first directory on the way to a place, itself included, that other accounts can't enter; None if all can."""
    for directory in (*reversed(place.parents), place):
        if directory.exists() and not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def lab_directory(checkout: Path, chosen: str | None, outside: Path = Path("/var/lib/sebenza-lab")) -> Path:
    """The lab's directory: the chosen one, else `.lab` of the checkout, else one that the lab's accounts can enter.

    A checkout that they can't enter (below `/root`, or made with a umask of 077) gets one below `outside`, and keeps
    it when it is opened later: the state must not be lost from sight.
    """
    if chosen:
        return Path(chosen).resolve()
    name = f"{checkout.name}-{hashlib.sha256(str(checkout).encode()).hexdigest()[:8]}"
    if closed_directory(checkout) is not None or (outside / name).exists():
        return outside / name
    return checkout / ".lab"


LAB_DIR: Final = lab_directory(CHECKOUT, os.environ.get("SEBENZA_LAB_DIR"))

LOGIN_HOME: Final = Path("/run/sebenza-lab")
# Host trees are reached through short links: a Unix socket's path has at most 107 bytes (unix(7)). A lab that was moved
# to another network has links of its own, and runs beside the first one.
RUN_DIR: Final = LOGIN_HOME / NETWORK

CACHE_DIR: Final = LAB_DIR / "cache"
CA_DIR: Final = LAB_DIR / "ca"
CA_FILE: Final = CA_DIR / "ca.pem"
KEYS_DIR: Final = LAB_DIR / "keys"
OPERATOR_KEY: Final = KEYS_DIR / "operator"
ARCHIVIST_KEY: Final = KEYS_DIR / "archivist"
KNOWN_HOSTS: Final = KEYS_DIR / "known_hosts"
ENVIRONMENTS_DIR: Final = LAB_DIR / "environments"
# While it exists, the environments have their gates and approvals (`python -m lab gates on`).
GATES_FILE: Final = LAB_DIR / "gates-on"
LEDGER_FILE: Final = LAB_DIR / "ledger" / "ledger.db"
# While it exists, the lab has its secondary site (`python -m lab up --secondary-site`).
SECONDARY_SITE_FILE: Final = LAB_DIR / "secondary-site"
# The connections that are left when nothing of the primary site is.
SECONDARY_CONNECTIONS_FILE: Final = LAB_DIR / "secondary" / "connections.yaml"
# What emergencies keep while the ledger is down, those of the lab's Airflow and those without Airflow alike.
JOURNAL_DIR: Final = LAB_DIR / "journal"
CONNECTIONS_FILE: Final = LAB_DIR / "connections.yaml"
LAB_FILE: Final = LAB_DIR / "lab.json"
# What production serves on this machine (`lab.load.capacity`).
CAPACITY_FILE: Final = LAB_DIR / "capacity.json"
SECRETS_FILE: Final = LAB_DIR / "secrets.json"
FAULTS_FILE: Final = LAB_DIR / "faults.json"
FAULTS_DIR: Final = LAB_DIR / "faults"

LAB_TEMPLATES: Final = CHECKOUT / "lab" / "templates"
HOST_TEMPLATES: Final = CHECKOUT / "include" / "hosts"

# Copies of what the set-up installs in the checkout and the lab's accounts run: they can enter this directory.
TOOLS_DIR: Final = LAB_DIR / "tools"
NODE_MODULES: Final = CHECKOUT / "lab" / "node" / "node_modules"
PM2: Final = TOOLS_DIR / "node_modules" / "pm2" / "bin" / "pm2"
PM2_DAEMON: Final = TOOLS_DIR / "node_modules" / "pm2" / "lib" / "Daemon.js"
SUPERVISOR_DIR: Final = TOOLS_DIR / "python"
RCLONE: Final = TOOLS_DIR / "bin" / "rclone"
POSTGRES_BIN: Final = Path("/usr/lib/postgresql/15/bin")


def host_root(host: str) -> Path:
    """The root of a host's file tree, as its own processes and the inventory name it."""
    return RUN_DIR / host


def host_files(host: str) -> Path:
    """The same tree where it is stored, under the lab's directory."""
    return LAB_DIR / "hosts" / host


def node_bin_dir() -> Path:
    """The directory of the `node` and `npm` that hosts run."""
    return program("node").parent


def program(name: str) -> Path:
    """The absolute path of an installed program; `FileNotFoundError` says how to install it."""
    beside_python = Path(sys.executable).parent / name
    if beside_python.exists():
        return beside_python
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", ""))
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: run scripts/setup.sh (make demo and make test do)")
    return Path(found)
