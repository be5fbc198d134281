"""A real S3 server over TLS, with a certificate of the test's own authority."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.systems.certificates import Authority
from tests.systems.processes import LOOPBACK, accepts, free_port, server

KEY_ID, SECRET = "TESTKEY", "TESTSECRET"


@dataclass(frozen=True)
class S3Server:
    """The server, and how Airflow is told to reach it."""

    port: int
    authority: Authority
    directory: Path

    def connection(self, *, port: int | None = None, secret: str = SECRET, ca_file: Path | None = None) -> str:
        """An Airflow connection to it, as the environment variable AIRFLOW_CONN_... holds it."""
        extra = {
            "endpoint_url": f"https://{LOOPBACK}:{port or self.port}",
            "region_name": "us-east-1",
            "verify": str(ca_file or self.authority.ca_file),
            "config_kwargs": {
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "s3": {"addressing_style": "path"},
                "signature_version": "s3v4",
                "connect_timeout": 10,
                "retries": {"max_attempts": 2},
            },
        }
        return json.dumps({"conn_type": "aws", "login": KEY_ID, "password": secret, "extra": extra})


@contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """A server with a bucket "sebenza", below a directory."""
    beside_python = Path(sys.executable).parent / "rclone"
    program = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    assert program is not None, "rclone is not installed"
    port = free_port()
    authority = Authority(directory)
    files = authority.server_files("storage", "storage.test")
    (directory / "data" / "sebenza").mkdir(parents=True)
    (directory / "rclone.conf").touch()
    argv = [program, "serve", "s3", "--addr", f"{LOOPBACK}:{port}", "--cert", str(files.certificate)]
    argv += [
        "--key",
        str(files.key),
        "--vfs-cache-mode",
        "off",
        "--dir-cache-time",
        "1s",
        "--etag-hash=",
        str(directory / "data"),
    ]
    environment = {"RCLONE_AUTH_KEY": f'"{KEY_ID},{SECRET}"', "RCLONE_CONFIG": str(directory / "rclone.conf")}
    with server(argv, directory / "log", lambda: accepts(port), environment=environment):
        yield S3Server(port, authority, directory)
