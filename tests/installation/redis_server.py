"""A private Redis for tests, with the broker's configuration of docker-compose.yaml."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import paths
from tests.systems.processes import LOOPBACK, accepts, free_port, server


@contextmanager
def redis_broker() -> Iterator[str]:
    """A Redis on a loopback port, with a password; its URL."""
    directory = Path(tempfile.mkdtemp(prefix="sebenza-redis-"))
    port, password = free_port(), secrets.token_urlsafe(16)
    own = directory / "redis.conf"
    own.touch(0o600)
    own.write_text(f"include {paths.CHECKOUT}/docker/redis.conf\nrequirepass {password}\n")
    argv = [str(paths.program("redis-server")), str(own)]
    argv += ["--bind", LOOPBACK, "--port", str(port), "--dir", str(directory)]
    try:
        with server(argv, directory / "redis.log", lambda: accepts(port)):
            yield f"redis://:{password}@{LOOPBACK}:{port}/0"
    finally:
        shutil.rmtree(directory)
