"""The secondary site's copy of the object storage: filled from the first one while that can be reached."""

from __future__ import annotations

import contextlib
import os
import shutil
from functools import partial
from pathlib import Path

from lab import paths, tls
from lab.accounts import LOGIN_USER, make_directory, own, write_as
from lab.addresses import SSH_PORT, address
from lab.hosts import SECONDARY_SITE
from lab.rendering import render
from lab.waiting import until

SOURCE = "storage"
COPY = SECONDARY_SITE.storage_host
# Without a byte that is copied.
ROUND_SECONDS = 120


def login(host: str) -> str:
    """The line that lets the copy's host log in to the storage that it copies; nothing on other hosts."""
    return f"restrict {_key()} {COPY}\n" if host == SOURCE and paths.SECONDARY_SITE_FILE.exists() else ""


def _key() -> str:
    return tls.ensure_ssh_key(paths.host_files(COPY) / "etc/object-copy/id_ed25519", COPY)


def write(host: str, root: Path) -> None:
    """Write what copies, its key, and its places."""
    for directory in ("var/lib/object-copy", "var/lib/object-copy/lists", "var/lib/object-copy/partial"):
        make_directory(root / directory, LOGIN_USER, 0o700)
    _key()
    own(root / "etc/object-copy/id_ed25519", LOGIN_USER, 0o600)
    source_key = tls.ensure_ssh_key(paths.host_files(SOURCE) / "etc/ssh/ssh_host_ed25519_key", SOURCE)
    write_as(root / "etc/object-copy/known_hosts", f"[{address(SOURCE)}]:{SSH_PORT} {source_key}\n")
    write_as(
        root / "etc/object-copy/copy.sh",
        render(
            "object-copy.sh.j2",
            root=paths.host_root(host),
            user=LOGIN_USER,
            source_address=address(SOURCE),
            source_root=paths.host_root(SOURCE),
            ssh_port=SSH_PORT,
        ),
    )


def foreign_histories() -> list[str]:
    """Histories of the cluster in the copy that the first storage does not know: of a promotion at this site."""
    archive = Path("srv/s3/sebenza/pgbackrest")
    copied, source = paths.host_files(COPY) / archive, paths.host_files(SOURCE) / archive
    found = (file.relative_to(copied) for file in copied.rglob("*.history"))
    return sorted(str(file) for file in found if not (source / file).exists())


def start_over() -> None:
    """Fill the copy of the backups anew; what was there is set aside, once.

    A standby follows the newest history that its archive has: one of a promotion that was taken back leads it astray.
    """
    copied = paths.host_files(COPY) / "srv/s3/sebenza/pgbackrest"
    aside = paths.host_files(COPY) / "var/lib/object-copy/set-aside"
    shutil.rmtree(aside, ignore_errors=True)
    copied.rename(aside)
    await_round()


def await_round() -> None:
    """Wait until all that the first storage has now is copied, for as long as something is being copied."""
    # The round that is under way may have passed by some of it.
    for _ in range(2):
        before = completed_at()
        until(partial(_is_past, before), f"{COPY}: a whole round of copying", ROUND_SECONDS, progress=copied)


def copied() -> str:
    """How much the copy has, that under way included; changes with what is being copied."""
    files = bytes_ = 0
    for place in ("srv/s3", "var/lib/object-copy"):
        for folder, _, names in os.walk(paths.host_files(COPY) / place):
            for name in names:
                # A file may have been moved to its place meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    bytes_ += (Path(folder) / name).stat().st_size
                    files += 1
    return f"{files} files with {bytes_} bytes are at {COPY}"


def _is_past(moment: str) -> bool:
    return completed_at() > moment


def completed_at() -> str:
    """When the last whole round of copying ended (UTC, ISO 8601); empty before the first one."""
    file = paths.host_files(COPY) / "var/lib/object-copy/completed_at"
    return file.read_text().strip() if file.exists() else ""
