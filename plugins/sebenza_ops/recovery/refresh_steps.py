"""The snapshot of a refresh: a verified set, anonymized on the source's own host, as a dump for the target."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict

from sebenza_ops.backup.errors import BackupFailedError, BackupRefusedError
from sebenza_ops.backup.jobs import await_job, database_login, job_key
from sebenza_ops.backup.plan import choose_host
from sebenza_ops.backup.steps import host_states, policy_of
from sebenza_ops.changes import ChangeRun, run_key
from sebenza_ops.environments.models import Environment
from sebenza_ops.environments.refresh_policy import RefreshPolicy
from sebenza_ops.evidence.facts import GateFact
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.recovery.anonymization import parse_told, prepare_sql
from sebenza_ops.systems.object_store import LARGEST_UPLOAD_BYTES, ObjectStorage
from sebenza_ops.systems.set_dump import SetDump
from sebenza_ops.systems.ssh import open_session

PREFIX = "backups/refresh/"
# PostgreSQL cuts names after 63 bytes; "_before_" and a moment to the second take 22.
LONGEST_DATABASE_NAME = 41
MOMENT_FORMAT = "%Y%m%d%H%M%S"


class RefreshPlan(BaseModel):
    """Which set of the source becomes the target's database, and the names there. Holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    source: str
    job: str
    label: str
    made_at: AwareDatetime
    host: str
    lsn: str
    manifest: str
    size_bytes: int
    restored: str
    aside: str


class Snapshot(BaseModel):
    """The anonymized dump in the target's object storage, what was done to it, and the rows by the set's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    sha256: str
    size_bytes: int
    anonymized: str
    rows: dict[str, int]


def refresh_policy_of(environment: Environment) -> RefreshPolicy:
    """The environment's policy. Raises BackupRefusedError without one."""
    policy = environment.policies.refresh
    if policy is None:
        raise BackupRefusedError(f"environment {environment.name} has no policy for a refresh")
    return policy


def proven_set(present: list[BackupSet], source: str, wanted: str = "") -> BackupSet:
    """The set that is wanted, or the newest: one that was read back, is good and has a manifest.

    Raises BackupRefusedError with those that there are.
    """
    good = [
        each for each in present if each.is_good and each.detail.get("manifest") and each.detail.get("manifest_lsn")
    ]
    found = next((each for each in good if wanted in {"", each.label}), None)
    if found is not None:
        return found
    if good:
        known = ", ".join(each.label for each in good)
        raise BackupRefusedError(f"{source} has no verified set {wanted!r}; there are: {known}. Nothing was touched")
    raise BackupRefusedError(
        f"{source} has no verified set with a manifest: run backup_database.{source} to its end. Nothing was touched"
    )


def plan_refresh(run: ChangeRun, target: Environment, wanted: str = "") -> RefreshPlan:
    """Choose the set, and a host of the source with room for a copy. Changes nothing.

    Args:
        run: The run's hold on the source's backups: no set expires meanwhile.
        target: The environment that gets the data.
        wanted: A set's label; empty: the newest.

    Raises BackupRefusedError with what to mend.
    """
    source, database = run.environment, target.database.name
    if len(database) > LONGEST_DATABASE_NAME:
        raise BackupRefusedError(f"the name of database {database} is too long to keep another one beside it")
    chosen = proven_set(run.ledger.backup_sets.present(source.name, BackupKind.PHYSICAL), source.name, wanted)
    states, unreachable = host_states(source)
    host, _, warnings = choose_host(policy_of(source), states, unreachable)
    for warning in warnings:
        run.note(warning, "warning")
    need = SetDump.space_needed(chosen.size_bytes) + policy_of(source).minimum_free_bytes
    if host.free_bytes < need:
        raise BackupRefusedError(
            f"{host.host}: {host.free_bytes // 2**20} MiB free in {policy_of(source).work_dir}, {need // 2**20} MiB "
            f"needed to restore {chosen.label} beside the running database: make room, or move work_dir"
        )
    moment = datetime.now(UTC).strftime(MOMENT_FORMAT)
    plan = RefreshPlan(
        environment=target.name,
        source=source.name,
        job=f"{job_key(run.holder, run.clear_number)}-refresh",
        label=chosen.label,
        made_at=chosen.finished_at,
        host=host.host,
        lsn=str(chosen.detail["manifest_lsn"]),
        manifest=str(chosen.detail["manifest"]),
        size_bytes=chosen.size_bytes,
        restored=f"{database}_rb_{moment}",
        aside=f"{database}_before_{moment}",
    )
    run.note(f"{target.name} gets {plan.label} of {source.name} ({plan.made_at:%F %R} UTC)", host=plan.host)
    return plan


def take_snapshot(run: ChangeRun, plan: RefreshPlan, target: Environment) -> Snapshot:
    """Restore the set into a scratch instance, anonymize and check it there, and send its dump to the target's storage.

    Raises JobRunning; BackupRefusedError when something personal is not declared, or is left; BackupFailedError.
    """
    source, storage = run.environment, ObjectStorage(target.object_store)
    manifest = ObjectStorage(source.object_store).get_json(plan.manifest)
    if manifest is None:
        raise BackupRefusedError(f"the manifest {plan.manifest} is no longer in object storage: nothing was touched")
    rows = {str(name): int(number) for name, number in manifest["rows"].items()}
    with open_session(source.host(plan.host), database_login(source)) as session:
        dump = SetDump(source, session, plan.job)
        # A try that finds the job at work leaves it with the salt that it has.
        sql = prepare_sql(refresh_policy_of(target), secrets.token_hex(16))
        try:
            await_job(
                source,
                source.host(plan.host),
                plan.job,
                f"the snapshot of {plan.label}",
                lambda: dump.start(run.fence, plan.label, plan.lsn, plan.size_bytes, sql),
                dump.job_status,
            )
        except BackupFailedError as error:
            _, found, said = str(error).partition("refused: ")
            if not found:
                raise
            # What follows tells of the scratch instance's end.
            reason = said.partition("\n")[0].removeprefix("ERROR:").strip()
            run.record([GateFact(name="anonymization", verdict="fail", detail=reason, at=datetime.now(UTC))])
            raise BackupRefusedError(
                f"{plan.environment} keeps the database that it has, nothing has left {plan.host}: {reason}"
            ) from error
        result = dump.status().result
        if result is None:
            raise BackupFailedError(f"the snapshot on {plan.host} has ended, and tells nothing of its dump")
        if result.size_bytes > LARGEST_UPLOAD_BYTES:
            raise BackupRefusedError(
                f"the dump has {result.size_bytes} bytes, object storage takes {LARGEST_UPLOAD_BYTES} at once"
            )
        try:
            told = parse_told(dump.prepared())
        except (KeyError, TypeError, ValueError) as error:
            raise BackupFailedError(f"what was anonymized on {plan.host} can't be read: {error}") from error
        key = f"{PREFIX}{run_key(run.holder)}/{result.sha256}.dump"
        dump.upload(storage, key, result.sha256)
        dump.discard()
    if storage.size_bytes(key) != result.size_bytes:
        raise BackupFailedError(f"{key} has not {result.size_bytes} bytes in object storage")
    text = f"{told.text()}; dumped in {result.seconds:.0f} s, {result.size_bytes} bytes"
    run.note(text, "success", host=plan.host)
    run.record([GateFact(name="anonymization", verdict="pass", detail=text, at=datetime.now(UTC))])
    return Snapshot(key=key, sha256=result.sha256, size_bytes=result.size_bytes, anonymized=told.text(), rows=rows)
