"""Running commands on the lab's hosts: over SSH as a procedure does, or at once as the login user."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from lab import paths
from lab.accounts import LOGIN_USER, ids
from lab.addresses import SSH_PORT, address
from lab.hosts import check_host
from lab.programs import MARKER_VARIABLE, marker
from lab.waiting import LabError, scaled


def ssh_command(host: str, argv: Sequence[str] = (), *, terminal: bool = False) -> list[str]:
    """The `ssh` command line that reaches a host with the operator's key, its host key checked."""
    command = ["ssh", "-F", "none", "-i", str(paths.OPERATOR_KEY), "-p", str(SSH_PORT)]
    for option in (
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={paths.KNOWN_HOSTS}",
        "GlobalKnownHostsFile=none",
        "ConnectTimeout=5",
        "LogLevel=ERROR",
    ):
        command += ["-o", option]
    if terminal:
        command.append("-t")
    else:
        command += ["-o", "BatchMode=yes"]
    command += [f"{LOGIN_USER}@{address(check_host(host))}"]
    if argv:
        command.append(shlex.join(argv))
    return command


def shell(
    host: str, argv: Sequence[str], *, stdin: str = "", timeout_seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command on a host over SSH as the login user; its exit code, output and errors."""
    return subprocess.run(
        ssh_command(host, argv),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=scaled(timeout_seconds),
        check=False,
    )


def as_login_user(
    host: str,
    argv: Sequence[str],
    what: str,
    *,
    environment: dict[str, str] | None = None,
    cwd: str | None = None,
    timeout_seconds: float = 120.0,
) -> str:
    """Run a command as the login user inside a host's tree, without SSH; its output, or `LabError`."""
    user_id, group_id = ids(LOGIN_USER)
    root = paths.host_root(host)
    home = root / "home" / LOGIN_USER
    done = subprocess.run(
        list(argv),
        cwd=cwd or str(home),
        env={
            "HOME": str(home),
            "PATH": f"{paths.node_bin_dir()}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            MARKER_VARIABLE: marker(host),
            **(environment or {}),
        },
        user=user_id,
        group=group_id,
        extra_groups=[],
        umask=0o022,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(timeout_seconds),
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"{host}: {what} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
