"""What each step of a backup does; the operators call these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.backup.errors import BackupDamagedError, BackupFailedError, BackupRefusedError
from sebenza_ops.backup.jobs import await_job, database_login, job_key
from sebenza_ops.backup.plan import BackupPlan, check_archiving, check_space, choose_host, type_due
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.environments.backup_policy import BackupPolicy
from sebenza_ops.environments.models import Environment, Host, Role
from sebenza_ops.ledger import BackupKind, BackupSet, Lease, LeaseHeld, LeaseKind
from sebenza_ops.systems.backup_host import BackupHost, DatabaseHostState
from sebenza_ops.systems.clocks import HostClock, read_clock
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, parse_seen_token
from sebenza_ops.systems.pgbackrest import PgBackRest, RepositoryInfo, RepositorySet
from sebenza_ops.systems.ssh import HostSession, on_hosts, open_session

# What holds a backup back is another backup: this lease stands beside the environment's own.
LEASE = "backup"
LEASE_TTL_SECONDS = 120.0
PURPOSE = "backup"


def policy_of(environment: Environment) -> BackupPolicy:
    """The environment's policy for backups. Raises BackupRefusedError without one."""
    policy = environment.policies.backup
    if policy is None:
        raise BackupRefusedError(f"environment {environment.name} has no policy for backups")
    return policy


def database_hosts(environment: Environment) -> tuple[Host, ...]:
    """The hosts of the environment's database."""
    return environment.hosts_with_role(Role.DATABASE)


@contextmanager
def on_host(environment: Environment, name: str) -> Iterator[tuple[PgBackRest, BackupHost]]:
    """One database host, logged in as the owner of its cluster."""
    with open_session(environment.host(name), database_login(environment)) as session:
        yield PgBackRest(environment, session), BackupHost(environment, session)


def take_lease(run: ChangeRun) -> int:
    """Take the lease of backups with a token above every one that a database host has seen, and tell them.

    Returns the token. Raises ChangeRefusedError while another backup of the environment works.
    """
    try:
        return acquire_with_hosts(run, PURPOSE)
    except ChangeRefusedError as error:
        if isinstance(error.__cause__, LeaseHeld):
            raise ChangeRefusedError(_other_backup(error.__cause__.lease), is_for_now=True) from error
        raise


def acquire_with_hosts(run: ChangeRun, purpose: str, kind: LeaseKind = LeaseKind.CHANGE) -> int:
    """Take the run's lease with a token above every one that a database host has seen, and tell them.

    Returns the token. Raises ChangeRefusedError.
    """
    environment = run.environment
    hosts, login = database_hosts(environment), database_login(environment)
    work_dir = policy_of(environment).work_dir

    def read(session: HostSession) -> SeenToken:
        text = session.run_script(
            "fence_read", [session.host.path(work_dir), run.lease_name], timeout_seconds=10
        ).stdout
        return parse_seen_token(session.host.name, text)

    seen = [answer.token for answer in on_hosts(hosts, login, read).values() if isinstance(answer, SeenToken)]
    lease = run.acquire(purpose, LEASE_TTL_SECONDS, max(seen, default=0), kind)

    def raise_(session: HostSession) -> SeenToken:
        arguments = run.fence.arguments(session.host.path(work_dir))
        return parse_seen_token(session.host.name, session.run_script("fence_raise", arguments).stdout)

    for name, answer in on_hosts(hosts, login, raise_).items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"it could not be told the fencing token: {answer}", "warning", host=name)
    return lease.token


def _other_backup(lease: Lease) -> str:
    return (
        f"another backup of {lease.environment.partition('.')[0]} works: {lease.holder}, "
        f"since {lease.acquired_at.isoformat(timespec='seconds')}; its lease ends by "
        f"{lease.expires_at.isoformat(timespec='seconds')} unless it is renewed. Nothing was begun. Wait for that run."
    )


def plan_backup(run: ChangeRun, requested: Any) -> BackupPlan:
    """Look at hosts, repository and catalog, and decide. Starts nothing.

    Raises BackupRefusedError with what to mend; OutsideSystemError when the repository can't be read.
    """
    environment, policy = run.environment, policy_of(run.environment)
    states, unreachable = host_states(environment)
    host, primary, warnings = choose_host(policy, states, unreachable)
    check_archiving(primary)
    check_space(policy, host)
    with on_host(environment, primary.host) as (pgbackrest, _), ThreadPoolExecutor(1) as pool:
        # Before hours of work: a set without its WAL is none. It waits for a segment; the rest is looked at meanwhile.
        archived = pool.submit(pgbackrest.check)
        info = info_of_idle(environment, host.host)
        if not info.is_encrypted:
            raise BackupRefusedError("the repository is not encrypted: set repo1-cipher-type as docs/backup.md says")
        catalog = catalog_follows(run, info, "not in the repository: removed by hand, or by pgBackRest")
        damaged = {each.label for each in catalog if each.bad_since is not None}
        backup_type, reason = type_due(policy, info.sets, damaged, datetime.now(UTC), requested)
        warnings = (*warnings, *wrong_clocks(environment))
        archived.result()
    plan = BackupPlan(
        environment=environment.name,
        job=job_key(run.holder, run.clear_number),
        backup_type=backup_type,
        reason=reason,
        host=host.host,
        primary=primary.host,
        from_replica=host.in_recovery,
        warnings=warnings,
    )
    run.note(plan.text(), host=plan.host)
    for warning in warnings:
        run.note(warning, "warning")
    return plan


def host_states(environment: Environment) -> tuple[dict[str, DatabaseHostState], dict[str, str]]:
    """What each database host says, and why the others say nothing, by name."""
    answers = on_hosts(
        database_hosts(environment),
        database_login(environment),
        lambda session: BackupHost(environment, session).state(),
    )
    states = {name: answer for name, answer in answers.items() if isinstance(answer, DatabaseHostState)}
    return states, {name: str(answer) for name, answer in answers.items() if isinstance(answer, OutsideSystemError)}


def wrong_clocks(environment: Environment) -> tuple[str, ...]:
    """What is to be told of the clocks of the database hosts: a set's times are those of the host that made it."""
    answers = on_hosts(database_hosts(environment), database_login(environment), read_clock)
    return tuple(
        f"{clock.words}: times in the WAL, and those of sets that are made there, are as wrong; mend it (timedatectl)"
        for clock in answers.values()
        if isinstance(clock, HostClock) and clock.is_wrong
    )


def info_of_idle(environment: Environment, host: str) -> RepositoryInfo:
    """What is in the repository. Raises BackupRefusedError while pgBackRest works on any database host."""
    answers = on_hosts(
        database_hosts(environment),
        database_login(environment),
        lambda session: PgBackRest(environment, session).info(),
    )
    info = answers[host]
    if isinstance(info, OutsideSystemError):
        raise info
    busy = [name for name, answer in answers.items() if isinstance(answer, RepositoryInfo) and answer.is_busy]
    if busy:
        raise BackupRefusedError(
            f"{', '.join(busy)}: a backup or an expiration works there already, of a run given up or of a person. "
            "Wait for its end (pgbackrest info says when), then start again"
        )
    return info


def catalog_follows(run: ChangeRun, info: RepositoryInfo, reason: str) -> list[BackupSet]:
    """Make the catalog say what the repository says. Returns the physical sets that are there."""
    name = run.environment.name
    found = [catalogued(name, each) for each in info.sets]
    changes = run.ledger.backup_sets.reconcile(name, BackupKind.PHYSICAL, found, reason, run.holder.actor)
    if changes.gone:
        run.note(f"no longer in the repository: {', '.join(changes.gone)} ({reason})", "warning")
    return run.ledger.backup_sets.present(name, BackupKind.PHYSICAL)


def catalogued(environment: str, found: RepositorySet, detail: Mapping[str, Any] | None = None) -> BackupSet:
    """A set of the repository as the catalog keeps it."""
    return BackupSet(
        environment=environment,
        kind=BackupKind.PHYSICAL,
        label=found.label,
        backup_type=found.backup_type,
        started_at=found.started_at,
        finished_at=found.finished_at,
        size_bytes=found.size_bytes,
        stored_bytes=found.stored_bytes,
        based_on=found.based_on,
        detail={
            "lsn_start": found.lsn_start,
            "lsn_stop": found.lsn_stop,
            "wal_start": found.wal_start,
            "wal_stop": found.wal_stop,
            "repository_bytes": found.repository_bytes,
            **(detail or {}),
        },
    )


def back_up(run: ChangeRun, plan: BackupPlan) -> str:
    """Make the physical backup, or find what an earlier attempt has made. Returns its label.

    Raises JobRunning; BackupFailedError; BackupDamagedError when pages with wrong checksums were copied.
    """
    environment, job = run.environment, f"{plan.job}-backup"
    with on_host(environment, plan.host) as (pgbackrest, _):
        # Of a job that never was there is no set, and to ask the repository takes a while.
        is_new = pgbackrest.status(job).state == "absent"
        made = None if is_new else pgbackrest.info().of_run(plan.job)
        if made is None:
            await_job(
                environment,
                environment.host(plan.host),
                job,
                f"the {plan.backup_type} backup",
                lambda: pgbackrest.start_backup(
                    run.fence, job, plan.backup_type, plan.job, from_replica=plan.from_replica
                ),
                pgbackrest.status,
            )
            made = pgbackrest.info().of_run(plan.job)
    if made is None:
        raise BackupFailedError(f"pgBackRest on {plan.host} ended well, and the repository has no set of this run")
    kept = catalogued(environment.name, made, {"host": plan.host, "from_replica": plan.from_replica})
    run.ledger.backup_sets.record(_made_by(kept, run))
    if made.has_error:
        reason = f"pages with wrong checksums on {plan.host}: pgbackrest info --set={made.label} names the files"
        run.ledger.backup_sets.mark_bad(environment.name, BackupKind.PHYSICAL, made.label, reason, run.holder)
        raise BackupDamagedError(
            f"{made.label} was made, with {reason}. Earlier sets are untouched; look at the disk now"
        )
    run.note(
        f"{made.label}: {made.size_bytes} bytes, {made.stored_bytes} added to the repository, "
        f"WAL {made.wal_start} to {made.wal_stop}",
        "success",
        host=plan.host,
    )
    return made.label


def _made_by(found: BackupSet, run: ChangeRun) -> BackupSet:
    from dataclasses import replace

    return replace(found, made_by=run.holder)
