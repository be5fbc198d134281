"""A real OpenSSH server on a free loopback port, with keys of its own."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sebenza_ops.environments.models import Host
from tests.systems.estates import loopback_host
from tests.systems.processes import LOOPBACK, accepts, children, descendants, free_port, server

SSHD = "/usr/sbin/sshd"


def key_pair(path: Path) -> str:
    """Write a private key; return the public one, "ssh-ed25519 AAAA..."."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.touch(0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()


class SshServer:
    """The server, whom it lets in, and how Airflow is told to reach it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.host_key = key_pair(directory / "host_key")
        self._user_key = directory / "user_key"
        (directory / "authorized_keys").write_text(key_pair(self._user_key) + "\n")
        self.config = directory / "sshd_config"
        self.process: subprocess.Popen[str] | None = None
        self.config.write_text(
            f"ListenAddress {LOOPBACK}:{self.port}\n"
            f"HostKey {directory}/host_key\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\n"
            f"PidFile {directory}/sshd.pid\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "UsePAM no\nStrictModes no\nUseDNS no\nMaxStartups 100\nPrintMotd no\n"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """The server runs while the block does."""
        if os.geteuid() == 0:
            # sshd(8): privilege separation wants this directory; a boot makes it elsewhere.
            Path("/run/sshd").mkdir(exist_ok=True)
        argv = [SSHD, "-D", "-e", "-f", str(self.config)]
        with server(argv, self.directory / "sshd.log", lambda: accepts(self.port)) as self.process:
            yield

    def sessions(self) -> list[int]:
        """The processes of open connections and what runs in them."""
        assert self.process is not None
        return descendants(self.process.pid)

    def cut(self) -> None:
        """End every connection as a crash does; the server itself takes new ones."""
        assert self.process is not None
        for pid in children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def host(self, name: str = "app1", *, host_key: str | None = None, root_dir: str = "/") -> Host:
        """The inventory's view of the server."""
        return loopback_host(name, self.port, host_key or self.host_key, root_dir)

    def connection(self, **extra: Any) -> str:
        """An Airflow connection to it, as the environment variable AIRFLOW_CONN_... holds it."""
        extras = {"key_file": str(self._user_key), **extra}
        return json.dumps({"conn_type": "ssh", "host": "", "login": getpass.getuser(), "extra": extras})


@contextmanager
def ssh_server() -> Iterator[SshServer]:
    """A server in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="sebenza-sshd-"))
    try:
        found = SshServer(directory)
        with found.running():
            yield found
    finally:
        shutil.rmtree(directory)
