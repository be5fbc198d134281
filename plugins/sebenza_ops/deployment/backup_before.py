"""The backup before a change: a set of pgBackRest where backups are made so, else a verified logical dump."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.changes import ChangeRefusedError, ChangeRun, run_key
from sebenza_ops.deployment.migrations import read_schema
from sebenza_ops.deployment.set_before import PhysicalSet, SetNotMadeError, is_there, make_set
from sebenza_ops.environments.models import Environment, Host, Role
from sebenza_ops.ledger import Holder
from sebenza_ops.systems.database_dump import DatabaseDump, DatabaseLogin, DumpResult
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.object_store import LARGEST_UPLOAD_BYTES, ObjectStorage
from sebenza_ops.systems.ssh import open_session

PREFIX = "backups/before/"
MANIFEST = "manifest.json"
POLL_INTERVAL_SECONDS = 1.0
# A directory without a manifest belongs to a run that is at work, or that came to no end.
ABANDONED_AFTER = timedelta(days=2)


class BackupFailedError(Exception):
    """There is no verified backup, so the change must not begin. The message says why."""


class LogicalDump(BaseModel):
    """A verified dump of an environment's database in object storage.

    `schema_revision` is the database's own when the dump was made; `seconds` is how long dumping and verifying took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    database: str
    key: str
    size_bytes: int
    sha256: str
    seconds: float
    schema_revision: int
    entries: int
    made_with: str
    made_on: str
    made_at: AwareDatetime
    run: str


ChangeBackup = LogicalDump | PhysicalSet
_CHANGE_BACKUP: TypeAdapter[ChangeBackup] = TypeAdapter(ChangeBackup)


def backup_before_change(run: ChangeRun, sleep: Callable[[float], None] = time.sleep) -> ChangeBackup:
    """The run's verified backup, made now unless a former attempt has.

    Where a set can't be made as things are (another backup works, nothing to be based on, no repository), the dump is
    made instead: what counts is that there is a way back.

    Args:
        run: The run, which holds its environment's lease.
        sleep: Waits between two looks at what a host does.

    Raises BackupFailedError, OutsideSystemError.
    """
    environment = run.environment
    storage, prefix = ObjectStorage(environment.object_store), run_prefix(run.holder)
    finished = _finished(run, storage, prefix)
    if finished is not None:
        run.note(f"the backup of this run is there already: {finished.key}")
        return finished
    wants_set = environment.policies.backup is not None and environment.policies.backup_before_change.method == "auto"
    # Without the ledger there is no lease of backups; a dump needs none.
    if wants_set and not run.is_journaled:
        try:
            return _set(run, storage, prefix, sleep)
        except FencedOffError:
            raise
        except (BackupRefusedError, ChangeRefusedError, SetNotMadeError, OutsideSystemError) as error:
            run.note(f"no set of pgBackRest before this change, a dump is made instead: {error}", "warning")
    return LogicalDumpBackup(sleep).ensure(run)


def _set(run: ChangeRun, storage: ObjectStorage, prefix: str, sleep: Callable[[float], None]) -> PhysicalSet:
    made = make_set(run, prefix + MANIFEST, read_schema(run.environment).revision, sleep)
    text = made.model_dump_json(indent=2).encode()
    storage.put_bytes(made.key, text, "application/json")
    if storage.get_bytes(made.key) != text:
        raise SetNotMadeError(f"{made.key} is not what was sent")
    run.note(
        f"backup before the change: {made.label} ({made.backup_type}), {made.stored_bytes} bytes added to the "
        f"repository in {made.seconds:.0f} s, schema revision {made.schema_revision}, its WAL archived, all that it "
        "is based on read back before",
        "success",
        host=made.made_on,
    )
    prune(run, storage, prefix)
    return made


class LogicalDumpBackup:
    """A dump in PostgreSQL's custom format, made and verified on a database host.

    Args:
        sleep: Waits between two looks at the dump.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def ensure(self, run: ChangeRun) -> LogicalDump:
        """The run's backup, made now unless a former attempt has. Raises BackupFailedError, OutsideSystemError."""
        environment = run.environment
        storage = ObjectStorage(environment.object_store)
        prefix = run_prefix(run.holder)
        revision = read_schema(environment).revision
        key_of_run = run_key(run.holder)
        # Signed URLs and sessions are for one host: the dump is where it was begun, if a former attempt has.
        with open_session(self._host(environment, key_of_run), environment.ssh_conn_id) as session:
            dump = DatabaseDump(environment, session, key_of_run)
            result = self._made(environment, dump)
            # Named by its content, so that a former attempt that wakes up can't replace what was verified.
            key = f"{prefix}{result.sha256}.dump"
            dump.upload(storage, key, result.sha256)
            found = storage.size_bytes(key)
            if found != result.size_bytes:
                raise BackupFailedError(f"{key} has {found} bytes in object storage, expected {result.size_bytes}")
            backup = LogicalDump(
                environment=environment.name,
                database=environment.database.name,
                key=key,
                size_bytes=result.size_bytes,
                sha256=result.sha256,
                seconds=result.seconds,
                schema_revision=revision,
                entries=result.entries,
                made_with=result.made_with,
                made_on=session.host.name,
                made_at=datetime.now(UTC),
                run=str(run.holder),
            )
            # The manifest is written last: only with it does the backup exist.
            storage.put_bytes(prefix + MANIFEST, backup.model_dump_json(indent=2).encode(), "application/json")
            dump.discard()
        run.note(
            f"backup before the change: {backup.key}, {backup.size_bytes} bytes, schema revision {revision}, "
            f"dumped and verified in {backup.seconds:.0f} s, read back from object storage",
            "success",
            host=backup.made_on,
        )
        prune(run, storage, prefix)
        return backup

    def _host(self, environment: Environment, key_of_run: str) -> Host:
        """The database host on which the run's dump is, or the first that answers."""
        first: Host | None = None
        reasons = []
        for host in environment.hosts_with_role(Role.DATABASE):
            try:
                with open_session(host, environment.ssh_conn_id) as session:
                    state = DatabaseDump(environment, session, key_of_run).status().state
            except OutsideSystemError as error:
                reasons.append(str(error))
                continue
            if state in {"running", "done"}:
                return host
            first = first or host
        if first is None:
            reason = "; ".join(reasons) or "the inventory has no database host"
            raise BackupFailedError(f"no database host of {environment.name} can make a backup: {reason}")
        return first

    def _made(self, environment: Environment, dump: DatabaseDump) -> DumpResult:
        timeout_seconds = environment.policies.backup_before_change.timeout_seconds
        until = time.monotonic() + timeout_seconds
        dump.start(DatabaseLogin.from_connection(environment.database.conn_id))
        while True:
            status = dump.status()
            if status.state == "done" and status.result is not None:
                if status.result.size_bytes > LARGEST_UPLOAD_BYTES:
                    raise BackupFailedError(
                        f"the dump has {status.result.size_bytes} bytes, object storage takes "
                        f"{LARGEST_UPLOAD_BYTES} at once: make a backup with pgBackRest before this change"
                    )
                return status.result
            if status.state != "running":
                reason = status.log_tail or "it was killed"
                raise BackupFailedError(f"the dump of {environment.database.name} failed: {reason}")
            if time.monotonic() >= until:
                raise BackupFailedError(f"the dump did not end within {timeout_seconds} s")
            self._sleep(POLL_INTERVAL_SECONDS)


def prune(run: ChangeRun, storage: ObjectStorage, own_prefix: str) -> None:
    """Remove what the policy does not keep. That this fails is no reason to give the change up."""
    try:
        keys = storage.keys(PREFIX)
        keep = run.environment.policies.backup_before_change.keep
        for key in superfluous(keys, run.environment.name, keep, own_prefix, datetime.now(UTC)):
            storage.delete(key)
    except OutsideSystemError as error:
        run.note(f"old backups could not be removed: {error}", "warning")


def run_prefix(holder: Holder) -> str:
    """Where a run's backup is in object storage."""
    # A run may be called "..", which some servers would read as another place.
    run_id = quote(holder.run_id, safe="")
    return f"{PREFIX}{quote(holder.dag_id, safe='')}/{run_id if run_id.strip('.') else run_id.replace('.', '%2E')}/"


def superfluous(keys: Mapping[str, datetime], environment: str, keep: int, own_prefix: str, now: datetime) -> list[str]:
    """Keys to delete: backups of the environment that are older than the newest `keep`, and what was abandoned.

    The manifest of a backup comes first, so that a pruning that is killed leaves nothing that looks whole.

    Args:
        keys: All keys below `PREFIX`, with the moments of their last changes.
        environment: The environment; backups of others are left alone.
        keep: How many are kept.
        own_prefix: The backup that was just made; it is always kept.
        now: The current moment.
    """
    runs: dict[str, list[str]] = {}
    for key in keys:
        directory = key.rpartition("/")[0] + "/"
        dag_id = directory.removeprefix(PREFIX).partition("/")[0]
        if dag_id.rpartition(".")[2] == environment:
            runs.setdefault(directory, []).append(key)
    whole = {directory: keys[f"{directory}{MANIFEST}"] for directory in runs if f"{directory}{MANIFEST}" in keys}
    newest = sorted(whole, key=lambda directory: whole[directory], reverse=True)
    kept = {own_prefix, *newest[:keep]}
    gone = [directory for directory in newest if directory not in kept]
    gone += [
        directory
        for directory, members in runs.items()
        if directory not in whole
        and directory != own_prefix
        and max(keys[member] for member in members) < now - ABANDONED_AFTER
    ]
    return [key for directory in gone for key in sorted(runs[directory], key=lambda key: not key.endswith(MANIFEST))]


def parse_backup(manifest: object) -> ChangeBackup | None:
    """A backup's manifest as a value; None when it is none."""
    try:
        return _CHANGE_BACKUP.validate_python(manifest)
    except ValidationError:
        return None


def is_whole(run: ChangeRun, storage: ObjectStorage, backup: ChangeBackup) -> bool:
    """Whether what the manifest tells of is still there: the dump with its size, or the set by the catalog."""
    if isinstance(backup, PhysicalSet):
        return is_there(run, backup)
    return storage.size_bytes(backup.key) == backup.size_bytes


def _finished(run: ChangeRun, storage: ObjectStorage, prefix: str) -> ChangeBackup | None:
    backup = parse_backup(storage.get_json(prefix + MANIFEST))
    return backup if backup is not None and is_whole(run, storage, backup) else None
