"""Archives of hosts: made on a host, sent to object storage, fetched back and read, and unpacked on a host again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, BinaryIO, Final, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy
from sebenza_ops.environments.archived_paths import archived_paths, excluded_paths
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.age import Identity, decompressed
from sebenza_ops.systems.archive_manifest import MadeArchive, Manifest, parse_made, read_archive
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import CHUNK_BYTES, ObjectStorage
from sebenza_ops.systems.ssh import Fence, HostSession

PREFIX: Final = "archives/"
SET: Final = "set.json"
LIST_TIMEOUT_SECONDS: Final = 120.0
# Up to here an archive is held in memory while it is read; a larger one goes to a file of the worker, encrypted.
_MEMORY_BYTES: Final = 64 * 1024**2


class ArchiveSet(BaseModel):
    """A verified archive of one host in object storage: what can be restored.

    `verified_at` is when it was fetched back and compared with its manifest; `release_id` and `color` are what the
    host's marker called live when it was made, None for a host without an application. `sha256` is of what is stored,
    which is encrypted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    host: str
    key: str
    manifest_key: str
    size_bytes: int
    sha256: str
    recipient: str
    files: int
    content_bytes: int
    missing: tuple[str, ...] = ()
    color: str | None = None
    release_id: str | None = None
    made_at: AwareDatetime
    verified_at: AwareDatetime
    seconds: float
    run: str

    @property
    def label(self) -> str:
        """How people name it: the moment at which it was made, and the beginning of its hash."""
        return f"{self.made_at:%Y%m%dT%H%M%SZ}-{self.sha256[:8]}"

    @property
    def directory(self) -> str:
        """Where all of it lies."""
        return self.key.rpartition("/")[0] + "/"


def set_directory(environment: str, host: str, run_key: str) -> str:
    """Where a run's archive of a host lies in object storage."""
    return f"{PREFIX}{environment}/{host}/{run_key}/"


def read_set(storage: ObjectStorage, directory: str) -> ArchiveSet | None:
    """The set in a directory; None without one that is whole: its archive has the size that it says."""
    content = storage.get_json(directory + SET)
    if content is None:
        return None
    try:
        found = ArchiveSet.model_validate(content)
    except ValidationError:
        return None
    return found if storage.size_bytes(found.key) == found.size_bytes else None


def stored_sets(storage: ObjectStorage, environment: str, host: str | None = None) -> list[ArchiveSet]:
    """The sets of an environment (or of one host) that are really in object storage, the newest first."""
    prefix = f"{PREFIX}{environment}/" + (f"{host}/" if host else "")
    directories = [key.removesuffix(SET) for key in storage.keys(prefix) if key.endswith(f"/{SET}")]
    found = [each for each in (read_set(storage, directory) for directory in directories) if each is not None]
    return sorted(found, key=lambda each: each.made_at, reverse=True)


@contextmanager
def fetched(storage: ObjectStorage, archive: ArchiveSet) -> Iterator[BinaryIO]:
    """A set's archive, encrypted as it is stored. Raises NoDataError when it is not what was stored."""
    with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as file:
        stream = cast("BinaryIO", file)
        if not storage.fetch(archive.key, stream):
            raise NoDataError(f"{archive.key} is gone", host="object storage")
        file.seek(0)
        hashed = hashlib.sha256()
        while part := stream.read(CHUNK_BYTES):
            hashed.update(part)
        digest = hashed.hexdigest()
        if digest != archive.sha256:
            raise NoDataError(
                f"{archive.key} has SHA-256 {digest}, expected {archive.sha256}: it was changed or cut off "
                "after it was stored",
                host="object storage",
            )
        file.seek(0)
        yield stream


def read_back(storage: ObjectStorage, archive: ArchiveSet, identity: Identity) -> Manifest:
    """What a stored archive holds: fetched, decrypted, and every file in it read. Raises NoDataError, SealError."""
    with (
        fetched(storage, archive) as sealed,
        identity.opened(sealed) as packed,
        decompressed(packed) as tar,
    ):
        return read_archive(tar)


def read_manifest(storage: ObjectStorage, archive: ArchiveSet, identity: Identity) -> Manifest:
    """The manifest that the host made before. Raises NoDataError, SealError."""
    sealed = storage.get_bytes(archive.manifest_key)
    if sealed is None:
        raise NoDataError(f"{archive.manifest_key} is gone", host="object storage")
    return Manifest.from_json(identity.open(sealed))


class HostArchive:
    """A host's archive, over a session as root.

    Args:
        environment: The environment.
        policy: Its policy of application backups.
        session: The session.
        run_key: The run, as the name of a directory.
    """

    def __init__(
        self, environment: Environment, policy: ApplicationBackupPolicy, session: HostSession, run_key: str
    ) -> None:
        self._environment, self._policy, self._session, self._run_key = environment, policy, session, run_key
        self._host: Host = session.host
        self._work_dir = self._host.path(policy.work_dir)

    def make(self, recipient: str) -> MadeArchive:
        """List everything, then archive it, encrypted, on the host. One that a killed attempt has left is made anew."""
        return self._make("make", self._run_key, recipient, float(self._policy.timeout_seconds))

    def look(self) -> Manifest:
        """What is on the host now."""
        return self._make("list", f"{self._run_key}.list", "-", LIST_TIMEOUT_SECONDS).manifest

    def look_at_staged(self) -> Manifest:
        """What was unpacked beside, by the same eyes."""
        root = f"{self._work_dir}/{self._run_key}/tree"
        return self._make("list", f"{self._run_key}.list", "-", LIST_TIMEOUT_SECONDS, root=root).manifest

    def send(self, storage: ObjectStorage, key: str, sha256: str) -> None:
        """Send it to object storage, and remove it from the host."""
        source = storage.transfer_source(key, "put_object")
        timeout_seconds = float(self._policy.timeout_seconds)
        arguments = [self._work_dir, self._run_key, sha256]
        self._session.run_script("archive_upload", arguments, stdin=source, timeout_seconds=timeout_seconds)

    def stage(self, fence: Fence, packed: IO[bytes], needed_bytes: int) -> None:
        """Unpack an archive (decrypted, still compressed) beside; nothing of the host changes."""
        arguments = [*self._fenced(fence), self._work_dir, self._run_key, str(needed_bytes)]
        timeout_seconds = float(self._policy.timeout_seconds)
        self._session.run_script("archive_stage", arguments, stdin=packed, timeout_seconds=timeout_seconds)

    def place(self, fence: Fence, moved: Sequence[str], left_out: Sequence[str]) -> None:
        """Move aside what is in the way, and put what was unpacked into its places."""
        arguments = [*self._fenced(fence), self._work_dir, self._run_key, self._host.root_dir, *left_out]
        names = b"".join(name.encode(errors="surrogateescape") + b"\0" for name in moved)
        with tempfile.TemporaryFile() as listed:
            listed.write(names)
            listed.seek(0)
            timeout_seconds = float(self._policy.timeout_seconds)
            self._session.run_script("archive_place", arguments, stdin=listed, timeout_seconds=timeout_seconds)

    def has_begun(self) -> bool:
        """Whether this run has begun to put an archive into its places here."""
        path = f"{self._work_dir}/{self._run_key}/begun"
        return self._session.run_script("file_read", [path], check=False).exit_status == 0

    def discard(self, fence: Fence) -> None:
        """Remove what was unpacked beside."""
        self._session.run_script("archive_done", [*self._fenced(fence), self._work_dir, self._run_key])

    @property
    def aside(self) -> str:
        """Where this run moves what is in the way."""
        return f"{self._work_dir}/aside/{self._run_key}"

    def _fenced(self, fence: Fence) -> list[str]:
        application = self._environment.application
        return [*fence.arguments(self._host.path(application.state_dir)), application.user]

    def _make(self, mode: str, run: str, recipient: str, timeout_seconds: float, root: str = "") -> MadeArchive:
        places = archived_paths(self._environment, self._host, self._policy)
        arguments = [
            mode,
            root or self._host.root_dir,
            self._work_dir,
            run,
            str(self._policy.minimum_free_bytes),
            recipient,
            " ".join(self._policy.exclude_names),
            " ".join(path.lstrip("/") for path in excluded_paths(self._environment)),
            *(f"{'+' if place.content else '='}{place.path.lstrip('/')}" for place in places),
        ]
        said = self._session.run_script("archive_make", arguments, timeout_seconds=timeout_seconds)
        made = parse_made(self._host.name, said.stdout)
        optional = {place.path for place in places if place.optional}
        missing = tuple(path for path in made.manifest.missing if path not in optional)
        manifest = Manifest(made.manifest.entries, missing, made.manifest.stamps)
        return MadeArchive(manifest, made.size_bytes, made.sha256)
