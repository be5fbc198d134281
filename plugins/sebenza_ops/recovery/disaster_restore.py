"""The database at the site that takes over, made anew from that site's own copy of the repository and put in.

All of it: brought to the end of the archived WAL, compared with its manifest on the way. Or its critical tables first,
from the dump of a set, in the cluster of that set; the rest follows while users are served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.backup_policy import BackupPolicy
from sebenza_ops.environments.models import Environment, Service
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.ledger import BackupKind, LedgerUnavailable, RecordUnknown
from sebenza_ops.recovery.disaster_database import lead_endpoints
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import save_progress
from sebenza_ops.recovery.disaster_repository import RestoreSource
from sebenza_ops.recovery.disaster_rules import DisasterType
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.partial_rules import NotInDumpError, Parts, differences, parse_contents, split
from sebenza_ops.recovery.run_record import JobFailedError, await_job
from sebenza_ops.systems.database_restore import BackupManifest, StoredPiece, parse_backup_manifest
from sebenza_ops.systems.drill_instance import RepositoryKeys
from sebenza_ops.systems.errors import RemoteCommandError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.site_restore import SiteReport, SiteRestore
from sebenza_ops.systems.ssh import kept_sessions, open_session

START_TIMEOUT_SECONDS = 120.0
RESTORED_ACTION = "disaster.restored"


@contextmanager
def on_copy(run: ChangeRun, plan: DisasterPlan) -> Iterator[tuple[SiteRestore, RestoreSource, BackupPolicy]]:
    """The restored cluster on its host, what it is made from, and the policy."""
    placed, source = run.environment.at_site(plan.to_site), plan.restore
    policy, conn_id = placed.policies.backup, placed.database.ssh_conn_id
    if source is None or policy is None or conn_id is None:
        raise DisasterRefusedError(f"{plan.kind} restores nothing")
    with open_session(placed.host(source.host), conn_id) as session:
        yield SiteRestore(placed, session, source.key), source, policy


@kept_sessions()
def restore_site(run: ChangeRun, plan: DisasterPlan) -> str:
    """Restore beside what is there, prove it, put it in its place as the primary, and lead clients to it.

    Whatever an earlier try has done is found again by the host. Returns a summary.

    Raises:
        DisasterRefusedError: It can't be restored, or is not what was backed up; nothing was put in.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host or the storage does not answer; a retry goes on.
    """
    pair, target = Pair(run.environment, (plan.from_site, plan.to_site)), plan.database
    with on_copy(run, plan) as (copy, source, policy):
        if copy.stage() != "after":
            report = _restored(run, plan, copy, source, policy)
            _gate(run, "restored", "pass", _words(plan, report))
            run.note(_words(plan, report), "success", host=source.host)
            _measure(run, plan, report)
            # Whatever still runs there has nothing that anybody waits for; its directory is kept.
            pair.on_services(source.host, lambda services: services.fence(Service.POSTGRESQL, run.fence))
            copy.put_in(run.fence, source.system_identifier)
            run.note(f"put in; what was there before is kept as {copy.aside}", "success", host=source.host)
    if not _is_primary(pair, plan):
        # Its guard would ask the lost site, which is silent.
        pair.on_server(target.new, lambda server: server.undemote(run.fence))
        pair.start_service(target.new, run.fence)
    state = pair.await_state(
        target.new, lambda found: found.is_primary, "the restored cluster takes writes", START_TIMEOUT_SECONDS
    )
    run.note(f"is the primary, on timeline {state.timeline}", "success", host=target.new, mark="switch")
    lead_endpoints(run, plan)
    save_progress(run, promoted=True)
    return f"{target.new} takes writes, restored from {source.label} ({plan.kind})"


def _is_primary(pair: Pair, plan: DisasterPlan) -> bool:
    return pair.state_of(plan.database.new).is_primary


def _restored(
    run: ChangeRun, plan: DisasterPlan, copy: SiteRestore, source: RestoreSource, policy: BackupPolicy
) -> SiteReport:
    placed, is_partial = run.environment.at_site(plan.to_site), plan.kind is DisasterType.PARTIAL
    parts = None
    if is_partial:
        parts = _fetch_first(run, placed, copy, source)
    started = copy.begin(
        run.fence,
        RepositoryKeys.from_connections(policy.cipher_conn_id, policy.repository_conn_id),
        source.dump if is_partial else source.label,
        count_lsn="" if is_partial else source.count_lsn,
        end_lsn="" if is_partial else source.end_lsn,
        timeline=source.timeline,
        need_bytes=source.need_bytes(policy.minimum_free_bytes),
    )
    run.note(f"restore {started}, into {copy.restored}", host=source.host)
    try:
        await_job(copy.status, "the restore", source.host, float(policy.timeout_seconds))
    except JobFailedError as error:
        raise DisasterRefusedError(f"{error}. Nothing was put in, what was there is untouched") from error
    report = copy.site_report()
    wrong = [] if report.system_identifier == source.system_identifier else [f"it is {report.system_identifier}"]
    key = source.dump_manifest if is_partial else source.manifest
    if key:
        wrong += differences(_manifest(placed, key).rows, report.rows, parts.tables if parts is not None else None)
    if wrong:
        _gate(run, "manifest", "fail", "; ".join(wrong))
        copy.discard(run.fence)
        reason = f"restored, it is not what was backed up: {'; '.join(wrong)}"
        _mark_bad(run, plan, source, reason)
        raise DisasterRefusedError(
            f"{source.label}: {reason}. Nothing was put in, the copy is removed; a new run takes another set"
        )
    verdict = ("pass", f"every table has the rows that {key} says") if key else ("waived", "the set has no manifest")
    _gate(run, "manifest", *verdict)
    return report


def _manifest(placed: Environment, key: str) -> BackupManifest:
    found = ObjectStorage(placed.object_store).get_json(key)
    if found is None:
        raise DisasterRefusedError(f"{key} is not in the site's storage any more. Nothing was put in")
    return parse_backup_manifest(found, key)


def _fetch_first(run: ChangeRun, placed: Environment, copy: SiteRestore, source: RestoreSource) -> Parts:
    """Bring what the first part needs of the dump to the host, and write what belongs to which part."""
    storage, manifest = ObjectStorage(placed.object_store), _manifest(placed, source.dump_manifest)
    contents = [piece for piece in manifest.pieces if piece.name.endswith("toc.dat")] or list(manifest.pieces)
    parts = _parts(run.environment, copy, storage, contents, source.dump_manifest)
    first = [piece for piece in manifest.pieces if parts.is_first(piece.name)]
    copy.fetch(storage, first)
    copy.write_lists(parts.lists())
    size = sum(piece.size_bytes for piece in first)
    run.note(
        f"{', '.join(sorted(parts.tables))} come first: {size} of {sum(piece.size_bytes for piece in manifest.pieces)} "
        "bytes of the dump fetched, each SHA-256 right",
        host=source.host,
    )
    return parts


def _parts(
    environment: Environment, copy: SiteRestore, storage: ObjectStorage, contents: Sequence[StoredPiece], key: str
) -> Parts:
    policy = environment.policies.disaster_recovery
    assert policy is not None
    try:
        copy.fetch(storage, contents)
        return split(parse_contents(copy.contents()), policy.critical_tables)
    except (NotInDumpError, RemoteCommandError) as error:
        raise DisasterRefusedError(f"{key}: {error}. Nothing was put in") from error


def _words(plan: DisasterPlan, report: SiteReport) -> str:
    loaded = "critical tables loaded and counted" if plan.kind is DisasterType.PARTIAL else "rows counted"
    return (
        f"{report.restored_bytes} bytes restored in {report.restore_seconds:.1f} s, WAL in {report.replay_seconds:.1f} "
        f"s, {loaded} in {report.load_seconds:.1f} s; its own timeline is {report.timeline}"
    )


def _measure(run: ChangeRun, plan: DisasterPlan, report: SiteReport) -> None:
    save_progress(run, lost=plan.loss.words, lost_seconds=plan.loss.seconds, lost_bytes=plan.loss.size_bytes)
    source = plan.restore
    assert source is not None
    reached = {"restore_seconds": report.restore_seconds, "replay_seconds": report.replay_seconds}
    detail = {"run": str(run.holder), "set": source.label, "kind": plan.kind.value, **reached}
    run.ledger.audit.append(RESTORED_ACTION, run.holder.actor, plan.environment, source.host, detail)


def _mark_bad(run: ChangeRun, plan: DisasterPlan, source: RestoreSource, reason: str) -> None:
    kind, label = BackupKind.PHYSICAL, source.label
    if plan.kind is DisasterType.PARTIAL:
        kind, label = BackupKind.LOGICAL, source.dump
    try:
        run.ledger.backup_sets.mark_bad(plan.environment, kind, label, reason, run.holder)
    except (LedgerUnavailable, RecordUnknown) as error:
        run.note(f"{label} could not be marked as damaged in the catalog: {error}", "warning")


@kept_sessions()
def restore_rest(run: ChangeRun, plan: DisasterPlan) -> str:
    """Bring what is not critical into the database that serves, compare it, and let everybody use it.

    Raises DisasterRefusedError when that fails: users are served on the critical tables as before; OutsideSystemError.
    """
    placed = run.environment.at_site(plan.to_site)
    with on_copy(run, plan) as (copy, source, policy):
        manifest = _manifest(placed, source.dump_manifest)
        copy.fetch(ObjectStorage(placed.object_store), manifest.pieces)
        started = copy.begin_rest(run.fence)
        run.note(f"restore of the rest {started}, while users are served", host=source.host)
        try:
            job = await_job(copy.rest_status, "the restore of the rest", source.host, float(policy.timeout_seconds))
        except JobFailedError as error:
            raise DisasterRefusedError(f"{error}. Users are served on the critical tables; clear this task") from error
        recovery = run.environment.policies.disaster_recovery
        assert recovery is not None
        first = split(parse_contents(copy.contents()), recovery.critical_tables).tables
        later = manifest.rows.keys() - first
        wrong = differences(manifest.rows, copy.rest_rows(), later)
        if wrong:
            _gate(run, "rest", "fail", "; ".join(wrong))
            _mark_bad(run, plan, source, "; ".join(wrong))
            raise DisasterRefusedError(
                f"the rest is not what was backed up: {'; '.join(wrong)}. Users are served on the critical tables, "
                "nobody can use the rest: restore it from another set by hand"
            )
        copy.publish_rest(run.fence)
        copy.forget_dump()
    rows = sum(manifest.rows[name] for name in later)
    detail = (
        f"{len(later)} tables, {rows} rows: as {source.dump_manifest} says, in {job.seconds:.1f} s beside the users"
    )
    _gate(run, "rest", "pass", detail)
    run.note(detail, "success", host=source.host)
    save_progress(run, whole_at=time.time())
    return detail


def _gate(run: ChangeRun, name: str, verdict: str, detail: str) -> None:
    fact = {"name": name, "verdict": verdict, "detail": detail, "at": utc_now()}
    run.record([GateFact.model_validate(fact)])
