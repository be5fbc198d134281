"""The lab's database servers: clusters, roles, databases, replication."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from lab import haproxy, paths, supervision
from lab.accounts import DATABASE_USER, LOGIN_USER, ids, own, write_as
from lab.addresses import POSTGRES_PORT, address
from lab.configuration import DATABASE_PROXY, HEALTH_USER, PAUSE_MAP, REPLICATION_USER, STATE_FILE
from lab.hosts import ENVIRONMENTS, LabEnvironment
from lab.secrets import lab_secrets
from lab.waiting import LabError, until

APPLICATION_ROLE = "sebenza"


def data_directory(host: str) -> Path:
    """The data directory of a host's cluster."""
    return paths.host_files(host) / "var/lib/postgresql/main"


@contextlib.contextmanager
def connect(host: str, database: str = "postgres") -> Iterator[Any]:
    """A cursor of the superuser on a host's server, in autocommit mode."""
    connection = psycopg2.connect(
        host=address(host),
        port=POSTGRES_PORT,
        user="postgres",
        password=lab_secrets().postgres_superuser,
        dbname=database,
        connect_timeout=3,
        application_name="sebenza-lab",
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def _run_as_postgres(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    user_id, group_id = ids("postgres")
    done = subprocess.run(
        command,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **(environment or {})},
        user=user_id,
        group=group_id,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"{what} failed: {(done.stderr or done.stdout).strip()[-600:]}")


def has_cluster(host: str) -> bool:
    """Whether a host has a cluster."""
    return (data_directory(host) / "PG_VERSION").exists()


def primary_of_production() -> str:
    """The host whose cluster is production's primary, by what its data directory says.

    Of two that were primaries, the one that was promoted last; of two that are replicas, the one that has come further.
    """
    hosts = [host for host in ENVIRONMENTS["production"].database_hosts if has_cluster(host)]
    if not hosts:
        return ENVIRONMENTS["production"].database_hosts[0]
    primaries = [host for host in hosts if not is_standby(host)]
    # The first of equals: the one that the lab starts out with.
    return max(primaries or hosts, key=_timeline)


def is_standby(host: str) -> bool:
    """Whether a host's cluster starts as a replica, by its files."""
    return (data_directory(host) / "standby.signal").exists()


def _timeline(host: str) -> int:
    """How often the cluster's history was promoted: each time leaves a file."""
    histories = (data_directory(host) / "pg_wal").glob("????????.history")
    return max((int(file.stem, 16) for file in histories), default=1)


def start_primary(host: str) -> None:
    """Start a primary, after creating its cluster if it has none, and create what applications need."""
    if not has_cluster(host):
        _create_cluster(host)
    elif is_standby(host):
        # A switch was broken off in its middle.
        supervision.stop(host, "postgresql")
        (data_directory(host) / "standby.signal").unlink()
    unasked = data_directory(host).with_name("guard-off")
    unasked.touch()
    supervision.start(host, "postgresql")
    until(lambda: answers(host), f"{host}: PostgreSQL answers queries", 30)
    unasked.unlink(missing_ok=True)
    _ensure_roles(host)
    for environment in ENVIRONMENTS.values():
        if host in environment.database_hosts:
            _ensure_database(host, environment)


def replayed(host: str) -> str:
    """How far a standby has come in what it replays before it streams."""
    try:
        with connect(host) as cursor:
            cursor.execute("SELECT pg_last_wal_replay_lsn()")
            return f"replayed up to {cursor.fetchone()[0]}"
    except psycopg2.OperationalError as error:
        return f"takes no connections: {str(error).strip()}"


def start_standby(host: str, primary: str) -> None:
    """Start a streaming replica of the primary, and wait until it streams.

    Without a cluster, or with one that was a primary itself or does not follow, the primary is copied; what was there
    is set aside.
    """
    slot = f"{host}_slot"
    with connect(primary) as cursor:
        cursor.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,))
        if cursor.fetchone() is None:
            cursor.execute("SELECT pg_create_physical_replication_slot(%s)", (slot,))
    if has_cluster(host) and not streams(primary, slot):
        supervision.stop(host, "postgresql")
        if is_standby(host):
            _follow(host, primary, slot)
        else:
            set_aside(host)
    if not has_cluster(host):
        copy_cluster(host, primary, slot)
    supervision.start(host, "postgresql")
    try:
        until(lambda: streams(primary, slot), f"{host}: streams from {primary}", 15, progress=lambda: replayed(host))
    except LabError:
        supervision.stop(host, "postgresql")
        set_aside(host)
        copy_cluster(host, primary, slot)
        supervision.start(host, "postgresql")
        until(
            lambda: streams(primary, slot),
            f"{host}: streams from {primary} (its log says why not)",
            progress=lambda: replayed(host),
        )
    with connect(host) as cursor:
        # Of the time when it was the primary: a replica that keeps one keeps WAL for ever.
        cursor.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")


def settle_pair() -> None:
    """One primary and a replica that streams, both open to clients at the endpoint; whatever a switch has left."""
    hosts = ENVIRONMENTS["production"].database_hosts
    for host in hosts:
        supervision.readmit(host, "postgresql")
    primary = primary_of_production()
    start_primary(primary)
    for host in hosts:
        if host != primary:
            start_standby(host, primary)
    _open_endpoint(primary)


def _open_endpoint(primary: str) -> None:
    environment = ENVIRONMENTS["production"]
    endpoint = environment.database_host
    until(lambda: bool(haproxy.runtime_command(endpoint, "show info")), f"{endpoint}: HAProxy answers", 20)
    haproxy.runtime_command(endpoint, f"set map {paths.host_root(endpoint) / PAUSE_MAP} paused_until 0")
    for host in environment.database_hosts:
        health = "up" if host == primary else "down"
        server = f"{DATABASE_PROXY}/{host}"
        haproxy.runtime_command(endpoint, f"set server {server} state ready; set server {server} health {health}")
    state = haproxy.runtime_command(endpoint, f"show servers state {DATABASE_PROXY}")
    text = "".join(f"{line}\n" for line in state.splitlines() if line.strip())
    write_as(paths.host_files(endpoint) / STATE_FILE, text, LOGIN_USER)


def _follow(host: str, primary: str, slot: str) -> None:
    """Let a replica stream from this primary from its next start on."""
    file = data_directory(host) / "postgresql.auto.conf"
    kept = [line for line in file.read_text().splitlines() if not line.startswith(("primary_conninfo", "primary_slot"))]
    password = lab_secrets().replication
    source = f"host={address(primary)} port={POSTGRES_PORT} user={REPLICATION_USER} password={password}"
    lines = [*kept, f"primary_conninfo = '{source}'", f"primary_slot_name = '{slot}'"]
    write_as(file, "\n".join(lines) + "\n", DATABASE_USER, 0o600)


def set_aside(host: str) -> None:
    """Move a cluster that is stopped out of the way; only the last one is kept."""
    directory = data_directory(host)
    for older in directory.parent.glob("set-aside-*"):
        shutil.rmtree(older)
    directory.rename(directory.with_name(f"set-aside-{time.time_ns()}"))


def _create_cluster(host: str) -> None:
    directory = data_directory(host)
    # Made beside and moved: a cluster that exists is a whole one, whenever the lab was killed.
    fresh = directory.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w") as password_file:
        password_file.write(lab_secrets().postgres_superuser)
        password_file.flush()
        own(Path(password_file.name), "postgres", 0o600)
        command = [str(paths.POSTGRES_BIN / "initdb"), "--pgdata", str(fresh), "--username", "postgres"]
        command += ["--pwfile", password_file.name, "--data-checksums", "--encoding", "UTF8"]
        command += ["--locale", "C.UTF-8", "--auth-local", "peer", "--auth-host", "scram-sha-256", "--no-sync"]
        _run_as_postgres(command, f"{host}: initdb")
    fresh.rename(directory)


def copy_cluster(host: str, source: str, slot: str | None = None) -> None:
    """Copy the primary that another host (or the endpoint there) leads to; the copy is its replica."""
    directory = data_directory(host)
    fresh = directory.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [str(paths.POSTGRES_BIN / "pg_basebackup"), "--pgdata", str(fresh), "--write-recovery-conf"]
    command += ["--host", address(source), "--port", str(POSTGRES_PORT), "--username", REPLICATION_USER]
    command += ["--wal-method", "stream", "--checkpoint", "fast", "--no-sync", "--no-password"]
    command += ["--slot", slot] if slot is not None else []
    _run_as_postgres(command, f"{host}: copying {source}", {"PGPASSWORD": lab_secrets().replication})
    if slot is None:
        # A primary that was a replica before still names the slot that it had.
        settings = fresh / "postgresql.auto.conf"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith("primary_slot_name")]
        settings.write_text("\n".join(kept) + "\n")
    fresh.rename(directory)


def answers(host: str) -> bool:
    """Whether a host's server answers a query."""
    try:
        with connect(host) as cursor:
            cursor.execute("SELECT 1")
            return True
    except psycopg2.OperationalError:
        return False


def streams(primary: str, slot: str) -> bool:
    """Whether somebody streams from a server by a slot."""
    with connect(primary) as cursor:
        cursor.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (slot,))
        row = cursor.fetchone()
    return bool(row and row[0])


def _ensure_roles(host: str) -> None:
    roles = {HEALTH_USER: ("LOGIN", None), REPLICATION_USER: ("LOGIN REPLICATION", lab_secrets().replication)}
    with connect(host) as cursor:
        cursor.execute("SELECT rolname FROM pg_roles")
        present = {name for (name,) in cursor.fetchall()}
        for name, (rights, password) in roles.items():
            if name in present:
                continue
            statement = sql.SQL("CREATE ROLE {} " + rights).format(sql.Identifier(name))
            if password is not None:
                statement += sql.SQL(" PASSWORD {}").format(sql.Literal(password))
            cursor.execute(statement)


def application_role(environment: LabEnvironment) -> str:
    """The database role of an environment's application; servers that two environments share have two."""
    return APPLICATION_ROLE if environment.name == "production" else f"{APPLICATION_ROLE}_{environment.name}"


def _ensure_database(host: str, environment: LabEnvironment) -> None:
    role = application_role(environment)
    with connect(host) as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
        if cursor.fetchone() is None:
            cursor.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(lab_secrets().database(environment.name))
                )
            )
            # What procedures read beyond their own tables: sessions, replication, statement statistics.
            cursor.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(role)))
        # Migrations are tested on a copy beside it, and a backup is restored beside it to take its place.
        cursor.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)))
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (environment.database_name,))
        if cursor.fetchone() is None:
            cursor.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    sql.Identifier(environment.database_name), sql.Identifier(role)
                )
            )
    with connect(host, environment.database_name) as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def start_over_if_contracted(environment: LabEnvironment) -> bool:
    """Make the environment's database anew when a contract migration has taken away what v1.0.0 needs; say whether."""
    host = primary_of_production() if environment.name == "production" else environment.database_hosts[0]
    with connect(host, environment.database_name) as cursor:
        cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return False
        cursor.execute("SELECT 1 FROM schema_migrations WHERE phase = 'contract'")
        if cursor.fetchone() is None:
            return False
    with connect(host) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(environment.database_name)))
    _ensure_database(host, environment)
    return True


def database_url(environment: LabEnvironment) -> str:
    """The URL by which the application reaches its database."""
    password = lab_secrets().database(environment.name)
    role = application_role(environment)
    return f"postgresql://{role}:{password}@{environment.database_endpoint}/{environment.database_name}"


def application_can_write(environment: LabEnvironment) -> bool:
    """Whether the application's address leads to a server that is not in recovery."""
    try:
        connection = psycopg2.connect(database_url(environment), connect_timeout=3)
    except psycopg2.OperationalError:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT NOT pg_is_in_recovery()")
            row = cursor.fetchone()
    except psycopg2.OperationalError:
        return False
    finally:
        connection.close()
    return bool(row and row[0])


def leads_to_production() -> str | None:
    """The database host that a client of production's endpoint gets now; None when it gets none."""
    environment = ENVIRONMENTS["production"]
    try:
        connection = psycopg2.connect(database_url(environment), connect_timeout=3)
    except psycopg2.OperationalError:
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT host(inet_server_addr())")
            row = cursor.fetchone()
    finally:
        connection.close()
    return next((host for host in environment.database_hosts if row and address(host) == row[0]), None)


def remove_stale_lock(host: str) -> None:
    """Remove the postmaster.pid of a host that is down: after a kill, its number may be another process's."""
    (data_directory(host) / "postmaster.pid").unlink(missing_ok=True)
    for socket in (paths.host_files(host) / "run/postgresql").glob(".s.PGSQL.*"):
        socket.unlink()
