"""A database host of its own for tests: PostgreSQL, pgBackRest, an encrypted repository in a real S3 server over TLS.

Commands reach it without SSH; everything behind that is real.
"""

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
from typing import IO, Any

import psycopg

from lab import paths
from lab.waiting import accepts_connections, until
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import FencedOffError, RemoteCommandError
from sebenza_ops.systems.ssh import EXIT_FENCED_OFF, CommandResult, Fence, HostSession, script_argv
from tests.systems.certificates import Authority

BINARIES = paths.POSTGRES_BIN
CIPHER = "a-passphrase-that-is-a-secret"
KEY, SECRET = "AKIATEST", "s3-secret-of-the-tests"


class LocalSession(HostSession):
    """A session of the cluster's owner on a host that is this machine."""

    def __init__(self, host: Host, bin_dir: Path) -> None:
        self.host = host
        self._bin_dir = bin_dir

    def run(
        self, argv: Sequence[str], *, stdin: str | IO[bytes] = "", timeout_seconds: float = 30.0, check: bool = True
    ) -> CommandResult:
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        done = subprocess.run(
            ["timeout", "-k", "5", f"{timeout_seconds:g}", *argv],
            input=stdin if isinstance(stdin, str) else stdin.read().decode(),
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={"PATH": f"{self._bin_dir}:/usr/bin:/bin", "LANG": "C.UTF-8"},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
        result = CommandResult(done.returncode, done.stdout, done.stderr)
        if done.returncode == EXIT_FENCED_OFF:
            raise FencedOffError(done.stderr, host=self.host.name, exit_status=done.returncode)
        if check and done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise RemoteCommandError(said, host=self.host.name, exit_status=done.returncode, stderr=done.stderr)
        return result

    def run_script(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stdin: str | IO[bytes] = "",
        timeout_seconds: float = 30.0,
        check: bool = True,
    ) -> CommandResult:
        return self.run(script_argv(name, arguments), stdin=stdin, timeout_seconds=timeout_seconds, check=check)


class RepositoryServer:
    """The host, its cluster, and the storage of its repository."""

    def __init__(self) -> None:
        # A short path: the socket's must fit into 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="sebenza-pb-"))
        self.bin_dir = self.root / "usr/bin"
        self.storage_dir = self.root / "s3"
        self.port = _free_port()
        self._storage: subprocess.Popen[bytes] | None = None
        self._account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.environment = self._environment()
        self.session = LocalSession(self.environment.host("db1"), self.bin_dir)
        self._token = 0

    @property
    def repository(self) -> Path:
        """The repository's files."""
        return self.storage_dir / "sebenza/pgbackrest"

    @property
    def config_file(self) -> Path:
        """PgBackRest's configuration."""
        return self.root / "etc/pgbackrest.conf"

    def fence(self, token: int | None = None) -> Fence:
        """A fence with a token of its own, or with the given one."""
        self._token += 1
        return Fence("production.backup", self._token if token is None else token, "tests/1")

    def connect(self, database: str = "sebenza_logistics") -> psycopg.Connection[tuple[object, ...]]:
        """A superuser's connection."""
        host = str(self.root / "run/postgresql")
        return psycopg.connect(host=host, dbname=database, user="postgres", autocommit=True)

    def start(self) -> None:
        """Make everything, and wait until it answers."""
        for directory in (
            "usr/bin", "s3/sebenza", "etc", "run/postgresql", "run/pgbackrest", "log", "spool",
            "var/lib/sebenza-backup",
        ):  # fmt: skip
            (self.root / directory).mkdir(parents=True)
        authority = Authority(self.root)
        files = authority.server_files("storage", "localhost", "127.0.0.1")
        self._files = files
        self._write_configuration(authority.ca_file)
        if self._account is not None:
            subprocess.run(["chown", "-R", "postgres:", str(self.root)], check=True)
        self.start_storage()
        self._run("initdb", "--pgdata", f"{self.root}/data", "--auth", "trust", "--username", "postgres", "--no-sync")
        with (self.root / "data/postgresql.conf").open("a") as configuration:
            configuration.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.root}/run/postgresql'\nfsync = off\n"
                "archive_mode = on\narchive_timeout = 60\nlog_timezone = 'Asia/Kolkata'\ntimezone = 'Asia/Kolkata'\n"
                f"archive_command = 'pgbackrest --config={self.config_file} --stanza=main archive-push %p'\n"
            )
        self._run("pg_ctl", "start", "--wait", "--pgdata", f"{self.root}/data", "--log", f"{self.root}/log/pg.log")
        self.session.run(["pgbackrest", f"--config={self.config_file}", "--stanza=main", "stanza-create"])
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE sebenza_logistics")

    def start_storage(self) -> None:
        """Start the S3 server and wait until it listens."""
        command = [str(paths.program("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        command += ["--cert", str(self._files.certificate), "--key", str(self._files.key)]
        command += [
            "--auth-key",
            f"{KEY},{SECRET}",
            "--vfs-cache-mode",
            "off",
            "--dir-cache-time",
            "1s",
            "--etag-hash=",
        ]
        with (self.root / "log/rclone.log").open("ab") as log:
            self._storage = subprocess.Popen([*command, str(self.storage_dir)], stdout=log, stderr=log)
        until(
            lambda: accepts_connections("127.0.0.1", self.port),
            f"the storage listens (log: {self.root}/log/rclone.log)",
            20,
            error=AssertionError,
        )

    def stop_storage(self) -> None:
        """Kill the S3 server."""
        if self._storage is not None:
            self._storage.kill()
            self._storage.wait()
            self._storage = None

    @property
    def storage_pid(self) -> int:
        """The S3 server's process."""
        assert self._storage is not None
        return self._storage.pid

    @contextmanager
    def changed(self, file: Path, content: bytes | None) -> Iterator[None]:
        """Another content of an object, or none, for a time; through the server, which keeps listings for a second."""
        before, key = file.read_bytes(), str(file.relative_to(self.storage_dir / "sebenza"))
        if content is None:
            self._client().delete_object(Bucket="sebenza", Key=key)
        else:
            self._client().put_object(Bucket="sebenza", Key=key, Body=content)
        try:
            yield
        finally:
            self._client().put_object(Bucket="sebenza", Key=key, Body=before)

    def transfer_source(self, key: str, method: str = "get_object") -> str:
        """What ObjectStorage gives a host: a signed URL, then the certificates to trust."""
        url = self._client().generate_presigned_url(method, Params={"Bucket": "sebenza", "Key": key}, ExpiresIn=300)
        return f"{url}\n{(self.root / 'ca.pem').read_text()}"

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            endpoint_url=f"https://127.0.0.1:{self.port}",
            region_name="us-east-1",
            verify=str(self.root / "ca.pem"),
            config=Config(
                request_checksum_calculation="when_required",
                s3={"addressing_style": "path"},
                signature_version="s3v4",
            ),
        )

    def stop(self) -> None:
        """Stop everything and delete its files."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", f"{self.root}/data")
        self.stop_storage()
        shutil.rmtree(self.root)

    def _environment(self) -> Environment:
        shipped = load_inventory(paths.CHECKOUT / "include/environments").environment("production")
        policies = shipped.policies
        assert policies.backup is not None
        backup = policies.backup.model_copy(update={"minimum_free_bytes": 1024, "timeout_seconds": 120})
        hosts = tuple(host.model_copy(update={"root_dir": str(self.root)}) for host in shipped.hosts)
        return shipped.model_copy(update={"hosts": hosts, "policies": policies.model_copy(update={"backup": backup})})

    def _write_configuration(self, ca_file: Path) -> None:
        root = self.root
        self.config_file.write_text(
            f"[global]\nrepo1-type=s3\nrepo1-path=/pgbackrest\nrepo1-s3-bucket=sebenza\nrepo1-s3-endpoint=127.0.0.1\n"
            f"repo1-storage-port={self.port}\nrepo1-storage-ca-file={ca_file}\nrepo1-s3-region=us-east-1\n"
            f"repo1-s3-uri-style=path\nrepo1-s3-key={KEY}\nrepo1-s3-key-secret={SECRET}\nrepo1-bundle=y\n"
            f"repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={CIPHER}\nexpire-auto=n\ncompress-type=zst\n"
            "start-fast=y\narchive-async=y\narchive-timeout=30\nio-timeout=2\nprotocol-timeout=12\ndb-timeout=10\n"
            f"log-path={root}/log\nlock-path={root}/run/pgbackrest\nspool-path={root}/spool\n"
            f"[main]\npg1-path={root}/data\npg1-socket-path={root}/run/postgresql\n"
        )
        self.config_file.chmod(0o600)

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        subprocess.run(
            [str(BINARIES / program), *arguments],
            check=True,
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
