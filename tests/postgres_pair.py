"""Two private PostgreSQL 15 servers, primary and replica, each with the directories of a host."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from lab import waiting
from lab.waiting import scaled
from sebenza_ops.systems.database_server import ServerState, parse_server_state
from sebenza_ops.systems.ssh import script_argv

BIN = "/usr/lib/postgresql/15/bin"
PASSWORD = "a:b\\c"
ROLE = "replication"


def free_port() -> int:
    """A loopback port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One of both: a host's files below one directory."""

    def __init__(self, name: str, root: Path, port: int, address: str = "127.0.0.1") -> None:
        self.name, self.root, self.port, self.address = name, root / name, port, address
        self.data, self.socket, self.state_dir = self.root / "data", self.root / "run", self.root / "state"

    @property
    def place(self) -> list[object]:
        """BIN SOCKET_DIR PORT, as the scripts take them."""
        return [BIN, self.socket, self.port]

    def run(self, name: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run include/hosts/<name>.sh as the owner of the cluster."""
        return as_owner(script_argv(name, [str(argument) for argument in arguments]), stdin)

    def fenced(
        self, name: str, *arguments: object, token: int = 5, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that changes something; raises when it fails."""
        done = self.run(name, self.state_dir, "production", token, "run/1", *arguments, stdin=stdin)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.returncode} {done.stderr}")
        return done

    def state(self) -> ServerState:
        """What the server is."""
        done = self.run("database_server_state", BIN, self.data, self.socket, self.port)
        assert done.returncode == 0, done.stderr
        return parse_server_state(done.stdout, self.name)

    def start(self) -> None:
        """Start it as a service manager would."""
        options = f"-c config_file={self.root}/postgresql.conf"
        log = str(self.root / "server.log")
        done = as_owner([f"{BIN}/pg_ctl", "start", "-w", "-D", str(self.data), "-l", log, "-o", options])
        assert done.returncode == 0, done.stdout + (self.root / "server.log").read_text()[-2000:]

    def stop(self, mode: str = "fast") -> None:
        """Stop it."""
        as_owner([f"{BIN}/pg_ctl", "stop", "-w", "-D", str(self.data), "-m", mode])

    def kill(self) -> None:
        """SIGKILL to all of it, as the lab's faults do."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        # Its children go when they see it gone; the walsender must not send a last time.
        subprocess.run(["pkill", "-KILL", "-P", str(pid)], check=False)
        os.kill(pid, 9)
        until(lambda: not Path(f"/proc/{pid}").exists(), f"{self.name} is dead")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A superuser's connection."""
        return psycopg.connect(host=str(self.socket), port=self.port, user="postgres", dbname=database, autocommit=True)

    def query(self, statement: str) -> Any:
        """The first value of a statement."""
        with self.connect() as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


def as_owner(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as the account that may run PostgreSQL."""
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    return subprocess.run(
        list(argv),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=scaled(90),
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def until(condition: Any, what: str, seconds: float = 30) -> None:
    """Wait for a state. The time is that of an idle machine, see `lab.waiting`."""
    waiting.until(condition, what, seconds, error=AssertionError)


CONFIG = """
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{socket}'
hba_file = '{root}/pg_hba.conf'
wal_log_hints = on
wal_keep_size = 64MB
wal_retrieve_retry_interval = 200ms
fsync = off
timezone = 'Asia/Kolkata'
"""
HBA = """
local all all trust
local replication all trust
host postgres sebenza_health 127.0.0.0/8 trust
host all all 127.0.0.0/8 scram-sha-256
host replication all 127.0.0.0/8 scram-sha-256
"""


@contextmanager
def postgres_pair(addresses: tuple[str, str] | None = None) -> Iterator[tuple[Server, Server]]:
    """A primary and a replica that streams from it through its slot; gone afterwards.

    With addresses of their own they listen on the same port, as on two hosts.
    """
    root = Path(tempfile.mkdtemp(prefix="sebenza-pair-"))
    port, (one, two) = free_port(), addresses or ("127.0.0.1", "127.0.0.1")
    servers = (Server("db1", root, port, one), Server("db2", root, port if addresses else free_port(), two))
    first, second = servers
    try:
        for server in servers:
            for directory in (server.root, server.socket):
                directory.mkdir()
            (server.root / "postgresql.conf").write_text(
                CONFIG.format(port=server.port, socket=server.socket, root=server.root, address=server.address)
            )
            (server.root / "pg_hba.conf").write_text(HBA)
        if os.geteuid() == 0:
            for path in (root, *root.rglob("*")):
                shutil.chown(path, "postgres", "postgres")
        made = as_owner([f"{BIN}/initdb", "-D", str(first.data), "-U", "postgres", "-k", "--no-sync"])
        assert made.returncode == 0, made.stderr
        first.start()
        first.query(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        first.query("CREATE TABLE orders (id int PRIMARY KEY)")
        first.query("SELECT pg_create_physical_replication_slot('db2_slot')")
        copied = as_owner(
            [
                *(f"{BIN}/pg_basebackup", "-D", str(second.data), "-R", "-S", "db2_slot", "--no-sync", "-c", "fast"),
                *("-d", f"host={first.socket} port={first.port} user=postgres"),
            ]
        )
        assert copied.returncode == 0, copied.stderr
        second.start()
        until(lambda: second.state().is_streaming, "the replica streams")
        yield servers
    finally:
        for server in servers:
            if (server.data / "postmaster.pid").exists():
                server.stop("immediate")
        shutil.rmtree(root)
