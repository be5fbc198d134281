"""Putting the restored copy in the database's place, and proving that the application works with it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.database_rollback import (
    DatabaseRollbackPlan,
    alternatives,
    find_differences,
    find_loss,
    moment,
    summed_up,
)
from sebenza_ops.deployment.database_rollback_steps import (
    RestoredCopy,
    copy_of,
    login_of,
    progress_of,
    save_progress,
)
from sebenza_ops.deployment.migrations import read_schema
from sebenza_ops.deployment.observe import servers_up
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.systems.application_cache import forget_cached_rows
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.database_copy import EXIT_SESSIONS_LEFT, parse_description
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.fencing import changed_hosts, raise_tokens
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import CommandResult, kept_sessions, on_hosts

AUDIT_ACTION = "database.rolled_back"
HEALTH_DEADLINE_SECONDS = 60.0
HEALTH_INTERVAL_SECONDS = 0.5


class DatabaseExchangeError(Exception):
    """The copy could not be put in the database's place, or is not right there. The message says how it stands."""


def exchange_database(run: ChangeRun, plan: DatabaseRollbackPlan, copy: RestoredCopy, approved_by: str) -> str:
    """Exchange, forget cached rows, verify. Every part is done again by a retry, or found done. Returns a summary.

    Raises:
        DatabaseExchangeError: The message says whether the names were exchanged, and what to do.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host does not answer; a retry goes on.
    """
    if progress_of(run).get("state") not in {"exchanging", "exchanged"}:
        _refuse_moved(run, plan, copy)
        save_progress(run, state="exchanging")
    _exchange(run, plan, copy, approved_by)
    _forget_cached_rows(run, plan)
    _await_healthy(run, plan)
    return _verify(run, plan, copy)


def _refuse_moved(run: ChangeRun, plan: DatabaseRollbackPlan, copy: RestoredCopy) -> None:
    """What was approved must still be what is: the color, and the schema. Nothing is changed before this has passed."""
    with TrafficControl(run.environment) as control:
        colors = colors_now(run.environment, control.states(PATIENT_TIMEOUT_SECONDS))
    wrong = {name: color for name, color in colors.items() if color is not plan.color}
    if wrong:
        raise DatabaseExchangeError(
            f"not as it was approved: {wrong} is live, not {plan.color}. Nothing was exchanged."
        )
    with copy_of(run.environment, plan.restored, plan.aside) as beside:
        if beside.status().oid != copy.oid:
            raise DatabaseExchangeError(
                f"the restored copy {plan.restored} is not there any more. Nothing was exchanged. Start a new run: "
                f"rollback.{plan.environment} with `to` {plan.release.release_id} and `database`."
            )


@kept_sessions()
def _exchange(run: ChangeRun, plan: DatabaseRollbackPlan, copy: RestoredCopy, approved_by: str) -> None:
    environment = run.environment
    # A later change has told its token to these hosts, if not to the database's.
    for answer in raise_tokens(environment, changed_hosts(environment), run.fence).values():
        if isinstance(answer, FencedOffError):
            raise answer
    with copy_of(environment, plan.restored, plan.aside) as beside:
        try:
            result = beside.swap(login_of(environment), run.fence, copy.oid)
        except RemoteCommandError as error:
            if isinstance(error, FencedOffError):
                raise
            if error.exit_status == EXIT_SESSIONS_LEFT:
                save_progress(run, state="not exchanged", reason=str(error))
                raise DatabaseExchangeError(
                    f"{error}. {plan.database} is as it was. End these sessions (a superuser may), then start a "
                    f"new run: rollback.{plan.environment} with `to` {plan.release.release_id} and `database`."
                ) from error
            raise
    save_progress(run, state="exchanged")
    audit, name = run.ledger.audit, environment.name
    entries = audit.entries(environment=name, action=AUDIT_ACTION)
    if not any(
        entry.detail.get("run") == str(run.holder) and entry.detail.get("kept_as") == plan.aside for entry in entries
    ):
        detail = {
            "run": str(run.holder),
            "kept_as": plan.aside,
            "backup": plan.backup.key,
            "backup_made_at": plan.backup.made_at.isoformat(),
            "approved_by": approved_by,
            "lost": copy.lost,
            "interrupted_seconds": result.interrupted_seconds,
            "reason": str(run.conf.get("reason", "")),
        }
        audit.append(AUDIT_ACTION, run.holder.actor, name, plan.database, detail)
    how = "was exchanged by an earlier attempt" if result.state == "already" else "exchanged"
    run.note(
        f"{plan.database} {how}, users were refused for {result.interrupted_seconds} s; what was is kept as "
        f"{plan.aside}",
        "success",
        host=beside.host,
    )


def _forget_cached_rows(run: ChangeRun, plan: DatabaseRollbackPlan) -> None:
    """Cached rows are of the database that was moved aside. Raises DatabaseExchangeError when they stay."""
    environment = run.environment
    pattern = environment.cache.rows_pattern

    def forget_all(host: ApplicationHost) -> int:
        return forget_cached_rows(host, run.fence, pattern)

    reasons = []
    for host in environment.hosts_with_role(Role.APPLICATION):
        answer = on_hosts(
            [host], environment.ssh_conn_id, lambda session: forget_all(ApplicationHost(environment, session))
        )[host.name]
        if isinstance(answer, FencedOffError):
            raise answer
        if isinstance(answer, OutsideSystemError):
            reasons.append(str(answer))
            continue
        run.note(f"{answer} cached rows ({pattern}) are forgotten", host=host.name)
        return
    raise DatabaseExchangeError(
        f"{plan.database} is exchanged, but the cache still has rows of the former one: {'; '.join(reasons)}. Users "
        f"may see them until they expire. Mend the cache and clear this task, or remove the keys {pattern} by hand."
    )


def _await_healthy(run: ChangeRun, plan: DatabaseRollbackPlan) -> None:
    """Every host is healthy with the release that is live, seen from every load balancer, and by their own checks."""
    environment = run.environment
    until = time.monotonic() + HEALTH_DEADLINE_SECONDS
    while True:
        missing = _missing_health(environment, plan)
        if not missing:
            break
        if time.monotonic() >= until:
            raise DatabaseExchangeError(
                f"{plan.database} is exchanged, but {plan.release.release_id} is not healthy after "
                f"{HEALTH_DEADLINE_SECONDS:.0f} s: {'; '.join(missing)}. Look at it; to go back to what was: "
                f"{back_by_hand(plan)}"
            )
        time.sleep(HEALTH_INTERVAL_SECONDS)
    run.note(f"{plan.release.release_id} is healthy on all hosts with the restored database", "success")


def _missing_health(environment: Environment, plan: DatabaseRollbackPlan) -> list[str]:
    application, hosts = environment.application, environment.hosts_with_role(Role.APPLICATION)
    port = application.colors[plan.color].port
    version = {host.name: f"http://{host.address}:{port}{application.version_path}" for host in hosts}
    health = {host.name: f"http://{host.address}:{port}{application.health_path}" for host in hosts}
    arguments = ["2", environment.public_hostname, *version.values(), *health.values()]
    answers = on_hosts(
        environment.hosts_with_role(Role.LOAD_BALANCER),
        environment.ssh_conn_id,
        lambda session: session.run_script("lb_probe", arguments, check=False),
    )
    missing = missing_healthy_release(
        {name: answer.stdout if isinstance(answer, CommandResult) else None for name, answer in answers.items()},
        version_urls=version,
        health_urls=health,
        release_id=plan.release.release_id,
    )
    with TrafficControl(environment) as control:
        up = servers_up(environment, plan.color, control.states(PATIENT_TIMEOUT_SECONDS))
    if up < len(hosts):
        missing.append(f"load balancers see {up} of {len(hosts)} servers of {plan.color} up")
    return missing


def _verify(run: ChangeRun, plan: DatabaseRollbackPlan, copy: RestoredCopy) -> str:
    """Schema, rows and everything beside them are what was restored. Returns the summary."""
    environment, login = run.environment, login_of(run.environment)
    schema = read_schema(environment)
    with copy_of(environment, plan.restored, plan.aside) as beside:
        then = parse_description(copy.description, beside.host)
        now = beside.describe(login, plan.database)
        kept = beside.describe(login, plan.aside, copy.description)
    wrong = []
    if now.oid != copy.oid:
        wrong.append(f"{plan.database} has oid {now.oid}, the restored copy had {copy.oid}")
    if schema.revision != plan.backup.schema_revision:
        wrong.append(f"its schema revision is {schema.revision}, the backup's is {plan.backup.schema_revision}")
    if wrong:
        raise DatabaseExchangeError(
            f"{plan.database} is not what was restored: {'; '.join(wrong)}. To go back: {back_by_hand(plan)}"
        )
    for name, table in then.tables.items():
        found = now.tables.get(name)
        if found is None or found.rows < table.rows:
            rows = found.rows if found else "no such table"
            run.note(f"{name} has {rows} rows, the backup had {table.rows}: users may have removed some", "warning")
    for line in find_differences(kept, now):
        run.note(f"not as in {plan.aside}: {line}", "warning")
    lost = summed_up(find_loss(kept, then))
    save_progress(run, lost=lost, verified=True)
    rows = sum(table.rows for table in now.tables.values())
    text = (
        f"{plan.database} is the backup of {moment(plan.backup.made_at)}: schema revision {schema.revision}, "
        f"{len(now.tables)} tables, {rows} rows, verified; written since and kept in {plan.aside}: {lost}"
    )
    run.note(text, "success")
    return text


def back_by_hand(plan: DatabaseRollbackPlan) -> str:
    """How a person exchanges the databases again."""
    moved = f"{plan.database}_undone_{plan.aside.rpartition('_')[2]}"
    return (
        f"as a superuser, connected to postgres: ALTER DATABASE {plan.database} ALLOW_CONNECTIONS false; end its "
        f"sessions (pg_terminate_backend); ALTER DATABASE {plan.database} RENAME TO {moved}; ALTER DATABASE "
        f"{plan.aside} RENAME TO {plan.database}; then forget cached rows"
    )


def conclusion(run: ChangeRun, release_id: str, failed: Sequence[str]) -> str:
    """What the run's summary says about the database, whatever happened.

    Args:
        run: The run.
        release_id: The release that it has brought traffic back to.
        failed: The tasks that failed.
    """
    known = progress_of(run)
    name, state = run.environment.database.name, known.get("state")
    if state is None:
        return f"The database {name} was not touched"
    if state == "exchanged":
        aside = known["names"][1]
        proven = "" if known.get("verified") else " It is NOT verified: the log of swap_database says why."
        return (
            f"The database {name} was brought back as well; what it was is kept as {aside}, with the rows written "
            f"since ({known.get('lost', 'not counted')}). Once nobody needs it: DROP DATABASE {aside}.{proven}"
        )
    reason = known.get("reason") or f"{failed[0] if failed else 'a task'} did not succeed, its log says why"
    return (
        f"Of the release only: the database {name} STAYS as it is ({reason}). "
        f"{alternatives(run.environment.name, name, release_id)}."
    )
