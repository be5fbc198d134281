"""The target's side of a refresh: the snapshot restored beside, checked, exchanged, proven, or taken back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sebenza_ops.backup.comparison import differences
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Color, Environment, Host, Role
from sebenza_ops.evidence.facts import GateFact
from sebenza_ops.recovery.anonymization import check_sql, parse_told
from sebenza_ops.recovery.refresh_steps import RefreshPlan, Snapshot, refresh_policy_of
from sebenza_ops.recovery.restore_rules import live_color, what_is_live
from sebenza_ops.systems.application_cache import forget_cached_rows
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_migrations import migration_error, parse_applied
from sebenza_ops.systems.application_secrets import leading_to, resolve_secrets
from sebenza_ops.systems.database_copy import DatabaseCopy, RestoreStatus, parse_description
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.haproxy import LoadBalancer
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import CommandResult, HostSession, kept_sessions, on_hosts, open_session

AUDIT_ACTION = "database.refreshed"
POLL_INTERVAL_SECONDS = 1.0
HEALTH_DEADLINE_SECONDS = 60.0
HEALTH_INTERVAL_SECONDS = 0.5


class RefreshFailedError(Exception):
    """The target was not refreshed. The message says which database it has now, and what to do."""


class Copy(BaseModel):
    """The restored copy, checked: its oid and that of what it replaces, its description, the release that is live."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    oid: int
    live_oid: int
    description: str
    color: Color
    release_id: str
    summary: str


@contextmanager
def copy_of(environment: Environment, plan: RefreshPlan) -> Iterator[tuple[DatabaseCopy, HostSession]]:
    """The copy, from the database host on which it was begun, or the first that answers. Raises OutsideSystemError."""
    first: Host | None = None
    reasons = []
    for host in environment.hosts_with_role(Role.DATABASE):
        try:
            with open_session(host, environment.ssh_conn_id) as session:
                state = DatabaseCopy(environment, session, plan.restored, plan.aside).status().state
        except OutsideSystemError as error:
            reasons.append(str(error))
            continue
        first = first or host
        if state in {"running", "done"}:
            first = host
            break
    if first is None:
        raise OutsideSystemError(f"no database host answers: {'; '.join(reasons)}", host=environment.name)
    with open_session(first, environment.ssh_conn_id) as session:
        yield DatabaseCopy(environment, session, plan.restored, plan.aside), session


def login_of(environment: Environment) -> DatabaseLogin:
    """Who works on the database: the application's role, which owns it."""
    return DatabaseLogin.from_connection(environment.database.conn_id)


def what_runs(environment: Environment) -> tuple[Color, str]:
    """The live color and its release, by the load balancers and the processes. Raises RestoreRefusedError."""
    balancers = environment.hosts_with_role(Role.LOAD_BALANCER)
    login, hosts = environment.ssh_conn_id, environment.hosts_with_role(Role.APPLICATION)
    color = live_color(
        environment, on_hosts(balancers, login, lambda session: LoadBalancer(environment, session).state())
    )
    states = on_hosts(hosts, login, lambda session: ApplicationHost(environment, session).state())
    return color, what_is_live(environment, "", color, states).release_id


def restore_beside(run: ChangeRun, plan: RefreshPlan, snapshot: Snapshot) -> Copy:
    """Restore the snapshot into a new database beside, compare and check it, and bring its schema to the live release.

    Args:
        run: The run, which holds the target's lease.
        plan: The plan.
        snapshot: The anonymized dump.

    Raises RefreshFailedError; OutsideSystemError. The target's database is untouched.
    """
    environment, login = run.environment, login_of(run.environment)
    color, release_id = what_runs(environment)
    with copy_of(environment, plan) as (copy, session):
        status = _restored(run, plan, snapshot, copy, login)
        then = copy.describe(login, plan.restored)
        live = copy.describe(login, environment.database.name)
        wrong = differences(snapshot.rows, {name: table.rows for name, table in then.tables.items()})
        if wrong:
            raise RefreshFailedError(
                f"the copy is not what {plan.source} had: {'; '.join(wrong)}. {environment.database.name} is untouched"
            )
        _check(run, session, login, plan.restored)
        applied = _migrate(run, plan, color, release_id)
        described = copy.describe(login, plan.restored)
    rows = sum(table.rows for table in then.tables.values())
    text = (
        f"restored into {plan.restored} in {status.seconds:.0f} s: {len(then.tables)} tables, {rows} rows as in the "
        f"manifest of {plan.label}; looked through again, nothing personal; migrations of {release_id}: "
        f"{', '.join(applied) or 'none needed'}"
    )
    run.note(text, "success")
    run.record([GateFact(name="copy", verdict="pass", detail=text, at=datetime.now(UTC))])
    return Copy(
        oid=described.oid,
        live_oid=live.oid,
        description=described.text,
        color=color,
        release_id=release_id,
        summary=text,
    )


def _restored(
    run: ChangeRun, plan: RefreshPlan, snapshot: Snapshot, copy: DatabaseCopy, login: DatabaseLogin
) -> RestoreStatus:
    timeout_seconds = run.environment.policies.backup_before_change.timeout_seconds
    until, storage = time.monotonic() + timeout_seconds, ObjectStorage(run.environment.object_store)
    copy.start(login, storage, snapshot.key, snapshot.sha256, snapshot.size_bytes, is_foreign=True)
    while (status := copy.status()).state == "running":
        if time.monotonic() >= until:
            raise RefreshFailedError(f"restoring the snapshot did not end within {timeout_seconds} s")
        time.sleep(POLL_INTERVAL_SECONDS)
    if status.state != "done":
        reason = status.log_tail or "it was killed"
        raise RefreshFailedError(f"the snapshot could not be restored beside {plan.restored}: {reason}")
    return status


def _check(run: ChangeRun, session: HostSession, login: DatabaseLogin, database: str) -> None:
    """The second look, on another server than the first. Raises RefreshFailedError."""
    environment = run.environment
    arguments = [
        str(environment.database.major_version),
        environment.database.endpoint_host,
        str(environment.database.endpoint_port),
        login.user,
        database,
    ]
    timeout_seconds = float(environment.policies.backup_before_change.timeout_seconds)
    sql = check_sql(refresh_policy_of(environment))
    try:
        said = session.run_script(
            "database_sql", arguments, stdin=f"{login.password}\n{sql}", timeout_seconds=timeout_seconds
        ).stdout
        parse_told(said)
    except (RemoteCommandError, KeyError, TypeError, ValueError) as error:
        raise RefreshFailedError(f"{database} is not used, its check has failed: {error}") from error


def _migrate(run: ChangeRun, plan: RefreshPlan, color: Color, release_id: str) -> list[str]:
    """Run the live release's expand migrations on the copy: production may be behind what is tried here."""
    environment, policy = run.environment, run.environment.policies.migrations
    host = environment.hosts_with_role(Role.APPLICATION)[0]
    settings = render_env_file(
        environment, color, host, release_id, leading_to(resolve_secrets(environment), plan.restored)
    )
    with open_session(host, environment.ssh_conn_id) as session:
        arguments = [
            *ApplicationHost(environment, session).fenced(run.fence),
            ApplicationHost(environment, session).release_dir(release_id),
            environment.application.node_bin_dir,
            str(policy.lock_timeout_milliseconds),
            str(policy.statement_timeout_seconds * 1000),
        ]
        try:
            text = session.run_script(
                "copy_migrate", arguments, stdin=settings, timeout_seconds=float(policy.timeout_seconds)
            ).stdout
        except FencedOffError:
            raise
        except RemoteCommandError as error:
            raise RefreshFailedError(
                f"{release_id} can't bring the copy to its schema: {migration_error(error)}. "
                f"{environment.database.name} is untouched"
            ) from error
        return [f"{one.number} {one.name}" for one in parse_applied(host.name, text)]


@kept_sessions()
def exchange(run: ChangeRun, plan: RefreshPlan, snapshot: Snapshot, copy: Copy) -> str:
    """Put the copy in the database's place, and prove that the application works with it; else take it back.

    Returns a summary. Raises RefreshFailedError, FencedOffError, OutsideSystemError.
    """
    environment, login, name = run.environment, login_of(run.environment), run.environment.database.name
    with copy_of(environment, plan) as (beside, _):
        swapped = beside.swap(login, run.fence, copy.oid)
    run.note(f"{name} exchanged, users were refused for {swapped.interrupted_seconds} s; kept as {plan.aside}")
    try:
        _forget_cached_rows(run)
        _await_healthy(run, copy)
        rows = _verify(run, plan, copy)
    except FencedOffError:
        raise
    except (RefreshFailedError, OutsideSystemError) as error:
        raise RefreshFailedError(f"{error}. {_take_back(run, plan, copy)}") from error
    text = (
        f"{name} of {environment.name} is {plan.label} of {plan.source} ({plan.made_at:%F %R} UTC), {rows} rows, "
        f"{snapshot.anonymized}. The former database is kept as {plan.aside}; once nobody needs it: "
        f"DROP DATABASE {plan.aside}"
    )
    detail = {
        "run": str(run.holder),
        "kept_as": plan.aside,
        "set": plan.label,
        "source": plan.source,
        "interrupted_seconds": swapped.interrupted_seconds,
    }
    run.ledger.audit.append(AUDIT_ACTION, run.holder.actor, environment.name, name, detail)
    run.note(text, "success")
    return text


def _take_back(run: ChangeRun, plan: RefreshPlan, copy: Copy) -> str:
    """Give the former database its name again. Returns how it stands, in a sentence."""
    environment, login, name = run.environment, login_of(run.environment), run.environment.database.name
    try:
        with copy_of(environment, plan) as (_, session):
            # The same exchange the other way round: what was kept aside against what came.
            DatabaseCopy(environment, session, plan.aside, plan.restored).swap(login, run.fence, copy.live_oid)
    except OutsideSystemError as error:
        text = f"AND IT COULD NOT BE TAKEN BACK: {error}. What was is {plan.aside}, or {name} again: look at once"
        run.note(text, "error")
        return text
    try:
        _forget_cached_rows(run)
        _await_healthy(run, copy)
    except (RefreshFailedError, OutsideSystemError) as error:
        text = f"It was taken back: {name} is what it was. The application is not healthy with that either: {error}"
        run.note(text, "error")
        return text
    run.note(f"taken back: {name} is what it was, and healthy", "warning")
    return f"It was taken back: {name} is what it was, and healthy"


def _forget_cached_rows(run: ChangeRun) -> None:
    environment = run.environment
    reasons = []
    for host in environment.hosts_with_role(Role.APPLICATION):
        answer = on_hosts(
            [host],
            environment.ssh_conn_id,
            lambda session: forget_cached_rows(
                ApplicationHost(environment, session), run.fence, environment.cache.rows_pattern
            ),
        )[host.name]
        if isinstance(answer, FencedOffError):
            raise answer
        if not isinstance(answer, OutsideSystemError):
            return
        reasons.append(str(answer))
    raise RefreshFailedError(f"the cache still has rows of the former database: {'; '.join(reasons)}")


def _await_healthy(run: ChangeRun, copy: Copy) -> None:
    """Every application host has connected anew and is healthy, seen from every load balancer."""
    environment = run.environment
    application, hosts = environment.application, environment.hosts_with_role(Role.APPLICATION)
    port = application.colors[copy.color].port
    version = {host.name: f"http://{host.address}:{port}{application.version_path}" for host in hosts}
    health = {host.name: f"http://{host.address}:{port}{application.health_path}" for host in hosts}
    arguments = ["2", environment.public_hostname, *version.values(), *health.values()]
    until = time.monotonic() + HEALTH_DEADLINE_SECONDS
    while True:
        answers = on_hosts(
            environment.hosts_with_role(Role.LOAD_BALANCER),
            environment.ssh_conn_id,
            lambda session: session.run_script("lb_probe", arguments, check=False),
        )
        missing = missing_healthy_release(
            {name: answer.stdout if isinstance(answer, CommandResult) else None for name, answer in answers.items()},
            version_urls=version,
            health_urls=health,
            release_id=copy.release_id,
        )
        if not missing:
            run.note(f"{copy.release_id} is healthy on all hosts", "success")
            return
        if time.monotonic() >= until:
            raise RefreshFailedError(
                f"{copy.release_id} is not healthy after {HEALTH_DEADLINE_SECONDS:.0f} s: {'; '.join(missing)}"
            )
        time.sleep(HEALTH_INTERVAL_SECONDS)


def _verify(run: ChangeRun, plan: RefreshPlan, copy: Copy) -> int:
    """The database with the name is the copy, and has its rows. Returns their number."""
    environment, login = run.environment, login_of(run.environment)
    with copy_of(environment, plan) as (beside, _):
        then = parse_description(copy.description, beside.host)
        now = beside.describe(login, environment.database.name)
    if now.oid != copy.oid:
        raise RefreshFailedError(f"{environment.database.name} has oid {now.oid}, the copy had {copy.oid}")
    gone = [name for name, table in then.tables.items() if name not in now.tables or now.tables[name].rows < table.rows]
    if gone:
        raise RefreshFailedError(f"{', '.join(gone)} lost rows since the copy was made")
    return sum(table.rows for table in now.tables.values())


def settle(run: ChangeRun, plan: RefreshPlan, snapshot: Snapshot | None) -> None:
    """At the end, whatever happened: users are let in, a copy that is not used goes, and so does the dump."""
    environment = run.environment
    try:
        with copy_of(environment, plan) as (beside, _):
            _, done = beside.settle(login_of(environment), run.fence)
            beside.discard_files()
        for line in done:
            run.note(line, "warning")
        if snapshot is not None:
            ObjectStorage(environment.object_store).delete(snapshot.key)
    except OutsideSystemError as error:
        run.note(
            f"whether {environment.database.name} lets users in could not be seen to: {error}. Look at once; "
            f"{plan.restored} may be left there",
            "error",
        )
