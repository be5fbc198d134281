"""The credentials file: Airflow's connections, in a file that does not live in Airflow's database.

Format of `LocalFilesystemBackend`: a YAML mapping of connection ids.
https://airflow.apache.org/docs/apache-airflow/stable/security/secrets/secrets-backend/local-filesystem-secrets-backend.html
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import yaml

from sebenza_ops.break_glass.errors import RefusedError

FILE_VARIABLE = "SEBENZA_BREAK_GLASS_CREDENTIALS"
DEFAULT_FILE = Path("/etc/sebenza/credentials.yaml")


def credentials_file() -> Path:
    """Where the credentials are: SEBENZA_BREAK_GLASS_CREDENTIALS, or /etc/sebenza/credentials.yaml."""
    return Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)


def check_credentials(file: Path, needed: Iterable[str]) -> None:
    """Check that a file may be trusted and holds the connections that are needed.

    A group may read it (the team on call), nobody else; only its owner, who is root or the caller, may write it.
    Raises RefusedError.
    """
    try:
        found = file.stat()
        text = file.read_text()
    except OSError as error:
        raise RefusedError(
            f"the credentials file {file} can't be read ({error.strerror}); name another one in {FILE_VARIABLE}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"the credentials file {file} is no regular file")
    if found.st_uid not in (0, os.getuid()):
        raise RefusedError(f"the credentials file {file} belongs to uid {found.st_uid}, not to root or to you")
    if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        mode = stat.S_IMODE(found.st_mode)
        raise RefusedError(f"the credentials file {file} is open to others (mode {mode:04o}): chmod 600 {file}")
    try:
        connections = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Not its text: it would show what is in the file.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise RefusedError(f"the credentials file {file} is no valid YAML{where}") from None
    if not isinstance(connections, dict):
        raise RefusedError(f"the credentials file {file} is no mapping of connection ids")
    missing = sorted(set(needed) - set(connections))
    if missing:
        raise RefusedError(f"the credentials file {file} lacks the connection {', '.join(missing)}")
