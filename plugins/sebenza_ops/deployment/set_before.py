"""The backup before a change as a set of pgBackRest, and the dump that a database rollback gets out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.backup.jobs import database_login
from sebenza_ops.backup.plan import BackupType, check_archiving, choose_host, type_due
from sebenza_ops.backup.steps import (
    LEASE,
    LEASE_TTL_SECONDS,
    catalog_follows,
    catalogued,
    host_states,
    info_of_idle,
    on_host,
    policy_of,
    take_lease,
)
from sebenza_ops.changes import ChangeRun, run_key
from sebenza_ops.ledger import BackupKind
from sebenza_ops.systems.database_dump import DumpResult
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import LARGEST_UPLOAD_BYTES, ObjectStorage
from sebenza_ops.systems.pgbackrest import PgBackRest, RepositoryInfo, RepositorySet
from sebenza_ops.systems.set_dump import END_OF_BACKUP, SetDump
from sebenza_ops.systems.ssh import open_session

POLL_INTERVAL_SECONDS = 1.0


class SetNotMadeError(Exception):
    """There is no set of this run. The message says why; nothing of what was there before is touched."""


class PhysicalSet(BaseModel):
    """A set of pgBackRest that a run has made before its change. Restored to its end, it is the database of `made_at`.

    `key` is where its manifest is in object storage; `schema_revision` is the database's own when it was begun.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["set"] = "set"
    environment: str
    database: str
    key: str
    label: str
    backup_type: str
    based_on: str
    size_bytes: int
    stored_bytes: int
    seconds: float
    schema_revision: int
    made_on: str
    made_at: AwareDatetime
    run: str


@contextmanager
def backups_held(run: ChangeRun) -> Iterator[ChangeRun]:
    """The lease of the environment's backups, beside the one that the run holds: no other backup, no expiration.

    Raises ChangeRefusedError while another backup works.
    """
    name = f"{run.environment.name}.{LEASE}"
    beside = ChangeRun(run.ledger, run.environment, run.holder, run.clear_number, run.conf, lease_name=name)
    take_lease(beside)
    try:
        with beside.kept_lease(LEASE_TTL_SECONDS):
            yield beside
    finally:
        beside.release("the step has ended")


def make_set(
    run: ChangeRun, key: str, schema_revision: int, sleep: Callable[[float], None] = time.sleep
) -> PhysicalSet:
    """Make an incremental or differential set, or find what an earlier attempt has made.

    It counts as verified when pgBackRest has archived its WAL and lists it without an error, every set that it needs
    was read back before and is good, and no WAL that it needs is missing. All of it is read back by the next
    backup_database.

    Args:
        run: The run, which holds its environment's lease.
        key: Where its manifest will be.
        schema_revision: The database's schema revision now.
        sleep: Waits between two looks at the job.

    Raises:
        SetNotMadeError: pgBackRest has failed, or what it made can't be restored from.
        BackupRefusedError: It can't be begun as things are: no sound set to be based on, two primaries, no archiving.
        ChangeRefusedError: Another backup works.
        OutsideSystemError: A host or the repository does not answer.
    """
    environment = run.environment
    with backups_held(run) as beside:
        states, unreachable = host_states(environment)
        host, primary, warnings = choose_host(policy_of(environment), states, unreachable)
        check_archiving(primary)
        for warning in warnings:
            run.note(warning, "warning")
        job = run_key(run.holder)
        began = time.monotonic()
        with on_host(environment, host.host) as (pgbackrest, _):
            made = pgbackrest.info().of_run(job)
            if made is None:
                backup_type = _type_to_make(beside, info_of_idle(environment, host.host))
                with on_host(environment, primary.host) as (archiving, _):
                    archiving.check()
                made = _made(beside, pgbackrest, job, backup_type, from_replica=host.in_recovery, sleep=sleep)
            _refuse_unsound(beside, pgbackrest, made, host.host)
    return PhysicalSet(
        environment=environment.name,
        database=environment.database.name,
        key=key,
        label=made.label,
        backup_type=made.backup_type,
        based_on=str(made.based_on),
        size_bytes=made.size_bytes,
        stored_bytes=made.stored_bytes,
        seconds=time.monotonic() - began,
        schema_revision=schema_revision,
        made_on=host.host,
        made_at=made.finished_at,
        run=str(run.holder),
    )


def _type_to_make(run: ChangeRun, info: RepositoryInfo) -> BackupType:
    """Returns incr where everything that it would be based on was read back, else diff. Raises BackupRefusedError."""
    if not info.is_encrypted:
        raise BackupRefusedError("the repository is not encrypted: set repo1-cipher-type as docs/backup.md says")
    catalog = catalog_follows(run, info, "not in the repository: removed by hand, or by pgBackRest")
    damaged = {each.label for each in catalog if each.bad_since is not None}
    due, reason = type_due(policy_of(run.environment), info.sets, damaged, datetime.now(UTC), "incr")
    good = {each.label for each in catalog if each.is_good}
    if due == "incr" and not set(info.chain(info.sets[-1].label)) <= good:
        due = "diff"
    if due == "full":
        raise BackupRefusedError(f"{reason}: run backup_database.{run.environment.name}, then changes are backed up so")
    full = [each.label for each in info.sets if each.backup_type == "full"][-1]
    if full not in good:
        raise BackupRefusedError(
            f"{full}, which it would be based on, was not read back yet: run backup_database.{run.environment.name}"
        )
    return due


def _made(
    run: ChangeRun,
    pgbackrest: PgBackRest,
    run_name: str,
    backup_type: BackupType,
    *,
    from_replica: bool,
    sleep: Callable[[float], None],
) -> RepositorySet:
    timeout_seconds = run.environment.policies.backup_before_change.timeout_seconds
    until, job = time.monotonic() + timeout_seconds, f"{run_name}-before"
    pgbackrest.start_backup(run.fence, job, backup_type, run_name, from_replica=from_replica)
    while (status := pgbackrest.status(job)).state == "running":
        if time.monotonic() >= until:
            raise SetNotMadeError(
                f"the backup on {pgbackrest.host} did not end within {timeout_seconds} s; it goes on there"
            )
        sleep(POLL_INTERVAL_SECONDS)
    made = pgbackrest.info().of_run(run_name)
    if status.state != "done" or made is None:
        reason = status.log_tail or "it was killed"
        raise SetNotMadeError(f"the backup on {pgbackrest.host} has failed: {reason}")
    return made


def _refuse_unsound(run: ChangeRun, pgbackrest: PgBackRest, made: RepositorySet, host: str) -> None:
    sets, name = run.ledger.backup_sets, run.environment.name
    archive, info = pgbackrest.archives(), pgbackrest.info()
    sets.record(replace(catalogued(name, made, {"host": host, "before_change": True}), made_by=run.holder))
    wrong = []
    if made.has_error:
        wrong.append(f"pages with wrong checksums on {host}: pgbackrest info --set={made.label} names the files")
    if archive.breaks(made.wal_start):
        wrong.append(f"WAL that it needs: {archive.message}")
    if len(info.chain(made.label)) < 2:
        wrong.append("what it is based on is not in the repository")
    if wrong:
        sets.mark_bad(name, BackupKind.PHYSICAL, made.label, "; ".join(wrong), run.holder)
        raise SetNotMadeError(f"{made.label} can't be restored from: {'; '.join(wrong)}")


def is_there(run: ChangeRun, backup: PhysicalSet) -> bool:
    """Whether the set can still be restored from, by the catalog."""
    known = run.ledger.backup_sets.find(backup.environment, BackupKind.PHYSICAL, backup.label)
    return known is not None and known.gone_at is None and known.bad_since is None


def dump_of_set(
    run: ChangeRun, backup: PhysicalSet, sleep: Callable[[float], None] = time.sleep
) -> tuple[str, DumpResult]:
    """Get the database out of a set as a dump in object storage, for a restore beside. Returns its key and what it is.

    Raises SetNotMadeError; ChangeRefusedError while another backup works; OutsideSystemError.
    """
    environment, storage = run.environment, ObjectStorage(run.environment.object_store)
    timeout_seconds = environment.policies.backup_before_change.timeout_seconds
    until = time.monotonic() + timeout_seconds
    with (
        backups_held(run) as beside,
        open_session(environment.host(backup.made_on), database_login(environment)) as session,
    ):
        dump = SetDump(environment, session, f"{run_key(run.holder)}-set")
        dump.start(beside.fence, backup.label, END_OF_BACKUP, backup.size_bytes)
        while (status := dump.status()).state == "running":
            if time.monotonic() >= until:
                raise SetNotMadeError(f"{backup.label} was not restored and dumped within {timeout_seconds} s")
            sleep(POLL_INTERVAL_SECONDS)
        result = status.result
        if result is None:
            raise SetNotMadeError(
                f"{backup.label} can't be restored on {backup.made_on}: {status.log_tail or 'it was killed'}"
            )
        if result.size_bytes > LARGEST_UPLOAD_BYTES:
            raise SetNotMadeError(
                f"the dump of {backup.label} has {result.size_bytes} bytes, object storage takes "
                f"{LARGEST_UPLOAD_BYTES} at once: restore the set to a point in time instead"
            )
        key = f"{backup.key.rpartition('/')[0]}/{result.sha256}.dump"
        dump.upload(storage, key, result.sha256)
        dump.discard()
    found = storage.size_bytes(key)
    if found != result.size_bytes:
        raise OutsideSystemError(f"{key} has {found} bytes, expected {result.size_bytes}", host="object storage")
    run.note(
        f"{backup.label} restored beside and dumped in {result.seconds:.0f} s: {result.size_bytes} bytes",
        "success",
        host=backup.made_on,
    )
    return key, result
