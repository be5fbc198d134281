"""Contract migrations: planned, refused while anything needs the old schema, applied once, recorded.

The rule is `schema_gate`'s; here is what it is asked about, and the steps of the procedure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.installed import InstalledReleases
from sebenza_ops.deployment.migrations import DatabaseSchema, apply_migrations, read_schema
from sebenza_ops.deployment.reconcile import ApplicationHostStates, reconcile
from sebenza_ops.deployment.release import Migration, Release
from sebenza_ops.deployment.rollback_rules import RollbackRefusedError, choose_target
from sebenza_ops.deployment.schema_gate import ReleaseInUse, bare_name, needing_old_schema
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl
from sebenza_ops.environments.models import Application, Color, Environment, Role
from sebenza_ops.evidence.facts import GateFact
from sebenza_ops.ledger import LeaseKind, Outcome
from sebenza_ops.systems.application_hosts import ApplicationHost, ApplicationHostState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, raise_tokens, read_tokens
from sebenza_ops.systems.ssh import kept_sessions, on_hosts

STRATEGY = "migrate_contract"
AUDIT_ACTION = "schema.contracted"
# What runs nothing and will start nothing by itself. A process in any other state may run its release again.
_AT_REST = frozenset({"stopped", "errored"})


class ContractRefusedError(Exception):
    """Contract migrations may not be run now; nothing was changed. The message says what needs the old schema."""


class NothingToContractError(ContractRefusedError):
    """The live release has no contract migration that the database has not."""


class ContractPlan(BaseModel):
    """What a run of migrate_contract will do. Handed from task to task; holds no secret.

    Attributes:
        environment: The environment.
        release: The live release, whose migrations they are.
        color: Its color.
        host: The application host on which they run.
        revision: The database's schema revision now.
        migrations: The contract migrations that are due.
        rollback_target: The release that a rollback would go back to; None when there is none.
        checked: The releases that were asked about, in words.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    release: Release
    color: Color
    host: str
    revision: int
    migrations: tuple[Migration, ...]
    rollback_target: str | None = None
    checked: tuple[str, ...] = ()

    def text(self) -> str:
        """The plan for people, in Markdown: also the body of the question to the approver."""
        due = [f"- {m.number} {bare_name(m.name)}" for m in self.migrations]
        rollback = self.rollback_target or "none: there is no earlier good release here"
        return "\n".join(
            [
                f"**{self.environment}**: contract migrations of the live release {self.release.release_id} "
                f"({self.color}), on {self.host}. The database is at revision {self.revision}.",
                "",
                *due,
                "",
                f"A rollback would go to: {rollback}.",
                "",
                "Asked, and none of them needs what is taken away:",
                "",
                *[f"- {line}" for line in self.checked],
                "",
                "**They can't be undone but by restoring a backup**, which loses what was written since. A verified "
                "dump is made first. Releases that need the old schema can't be deployed or rolled back to afterwards.",
            ]
        )


@kept_sessions()
def take_contract_lease(run: ChangeRun, purpose: str, ttl_seconds: float, *, plan_only: bool) -> None:
    """Take the lease and make the hosts refuse lower tokens. Raises ChangeRefusedError."""
    hosts = changed_hosts(run.environment)
    seen = [answer.token for answer in read_tokens(run.environment, hosts).values() if isinstance(answer, SeenToken)]
    # What changes nothing must not keep an earlier run from being cleared.
    kind = LeaseKind.HOUSEKEEPING if plan_only else LeaseKind.CHANGE
    lease = run.acquire(purpose, ttl_seconds, max(seen, default=0), kind, respect_freeze=not plan_only)
    holder = run.holder
    run.ledger.deployments.start(
        run.environment.name, holder.dag_id, holder.run_id, holder.actor, "contract migrations", None, STRATEGY
    )
    for name, answer in raise_tokens(run.environment, hosts, run.fence).items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"it could not be told the fencing token: {answer}", "warning", host=name)
    run.note(f"{purpose}: lease taken by {holder.actor}, fencing token {lease.token}")


@kept_sessions()
def plan_contract(run: ChangeRun) -> ContractPlan:
    """Find out what is due and who needs what it takes away. Changes nothing but the ledger.

    Raises:
        NothingToContractError: Nothing is due.
        ContractRefusedError: A release that runs, or the rollback target, needs the old schema; or it can't be told.
        NoDataError: No host tells what the database has.
    """
    environment = run.environment
    hosts = on_hosts(
        # A spare may run an old release, or start one when it is added: it is asked too.
        environment.hosts_with_role(Role.APPLICATION, include_spare=True),
        environment.ssh_conn_id,
        lambda session: ApplicationHost(environment, session).state(),
    )
    silent = [str(state) for state in hosts.values() if isinstance(state, OutsideSystemError)]
    if silent:
        raise ContractRefusedError(
            f"it can't be told what runs in {environment.name}: {'; '.join(silent)}. Nothing was changed."
        )
    color, live = _live(environment, hosts)
    installed = InstalledReleases(environment, hosts)
    release = _manifest(run, live, installed)
    if release is None:
        raise ContractRefusedError(f"no manifest of the live release {live} can be found. Nothing was changed.")
    schema = read_schema(environment, hosts)
    due = due_migrations(release, schema)
    target = rollback_target(run, live)
    in_use = [
        ReleaseInUse(name, why, _manifest(run, name, installed))
        for name, why in releases_in_use(environment.application, hosts, live, target)
    ]
    refusals = needing_old_schema(due, in_use)
    verdict, detail = ("fail", "; ".join(refusals)) if refusals else ("pass", "nothing in use needs the old schema")
    run.record(
        [GateFact.model_validate({"name": "schema", "verdict": verdict, "detail": detail, "at": datetime.now(UTC)})]
    )
    run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, release_id=live, from_color=color.value)
    if refusals:
        raise ContractRefusedError(
            f"{'; '.join(refusals)}. Nothing was changed. Deploy releases that have the contract migration, and let "
            "the old color stop."
        )
    return ContractPlan(
        environment=environment.name,
        release=release,
        color=color,
        host=environment.hosts_with_role(Role.APPLICATION)[0].name,
        revision=schema.revision,
        migrations=due,
        rollback_target=target,
        checked=tuple(f"{used.release_id} {used.why}" for used in in_use),
    )


def due_migrations(release: Release, schema: DatabaseSchema) -> tuple[Migration, ...]:
    """The release's contract migrations that the database does not have, or has by half.

    Raises:
        NothingToContractError: There is none.
        ContractRefusedError: An expand migration of the release is missing.
    """
    applied = {known.number for known in schema.migrations if known.is_applied}
    missing = [m.number for m in release.migrations if m.phase == "expand" and m.number not in applied]
    if missing:
        raise ContractRefusedError(
            f"expand migration {', '.join(map(str, missing))} of the live release {release.release_id} is not applied: "
            "deploy it again. Nothing was changed."
        )
    due = tuple(m for m in release.migrations if m.phase == "contract" and m.number not in applied)
    if not due:
        raise NothingToContractError(
            f"the database has all contract migrations of the live release {release.release_id}: nothing to do"
        )
    return due


def releases_in_use(
    application: Application, hosts: ApplicationHostStates, live: str, target: str | None
) -> list[tuple[str, str]]:
    """Every release that runs in either color of any host, and the rollback target, each with why it counts."""
    places: dict[str, list[str]] = {}
    names = {application.process_name(color): color for color in Color}
    for host, state in hosts.items():
        if not isinstance(state, ApplicationHostState):
            continue
        for process in state.processes or ():
            color = names.get(process.name)
            if color is not None and process.status not in _AT_REST:
                release = process.cwd.rstrip("/").rsplit("/", 1)[-1]
                place = f"{host} in {color}"
                if place not in places.setdefault(release, []):
                    places[release].append(place)
    found = [(release, f"runs on {', '.join(where)}") for release, where in places.items()]
    if live not in places:
        found.append((live, "is live"))
    if target is not None and target not in places:
        found.append((target, "is what a rollback would go back to"))
    return found


def rollback_target(run: ChangeRun, live: str) -> str | None:
    """The release that a rollback would choose now; None when there is none."""
    name, releases = run.environment.name, run.ledger.releases
    good = [known.release_id for known in releases.known_good(name)]
    # What ran before the first release that was verified, as a rollback looks for it.
    for deployment in run.ledger.deployments.recent(name, limit=50):
        previous = deployment.previous_release_id
        passed = deployment.outcome is Outcome.SUCCEEDED and deployment.release_id == live
        if passed and previous and previous not in good:
            good.append(previous)
    bad = {release_id for release_id in good if releases.bad(name, release_id) is not None}
    try:
        return choose_target(None, live, good, bad)
    except RollbackRefusedError:
        return None


def apply_contract(run: ChangeRun, planned: ContractPlan) -> int:
    """Apply what was planned, after a second look, and record it in the audit. Returns the schema revision.

    A retry goes on with what is left.

    Raises:
        ContractRefusedError: The environment has changed since the plan; nothing was changed by this step.
        SchemaChangeError: No lock, or a half-applied migration; the message says what to do.
    """
    try:
        now = plan_contract(run)
    except NothingToContractError:
        # A former attempt of this run has applied all, and was killed before it could say so.
        schema = read_schema(run.environment)
        _record_applied(run, planned, schema)
        return schema.revision
    if now.release.release_id != planned.release.release_id or not set(now.migrations) <= set(planned.migrations):
        raise ContractRefusedError(
            f"{planned.environment} is not what was planned for: {now.release.release_id} is live now, due "
            f"{[m.number for m in now.migrations]}. Nothing was changed by this step; start a new run."
        )
    try:
        apply_migrations(run, now.host, now.color, now.release.release_id, "contract")
    finally:
        schema = read_schema(run.environment)
        _record_applied(run, planned, schema)
    left = [m.number for m in planned.migrations if m.number not in schema.contract_revisions]
    if left:
        raise ContractRefusedError(f"contract migration {', '.join(map(str, left))} is still not in the database")
    return schema.revision


def contract_subject(migration: Migration) -> str:
    """A contract migration as the audit names it."""
    return f"migration {migration.number} {bare_name(migration.name)}"


def applied_by(run: ChangeRun) -> list[str]:
    """What the audit says that this run has applied."""
    entries = run.ledger.audit.entries(environment=run.environment.name, action=AUDIT_ACTION)
    return [entry.subject for entry in entries if entry.detail.get("run") == str(run.holder)]


def _record_applied(run: ChangeRun, planned: ContractPlan, schema: DatabaseSchema) -> None:
    """Keep in the audit what of the plan the database has now; once, however often the step is tried."""
    name, holder = run.environment.name, str(run.holder)
    known = set(applied_by(run))
    for migration in planned.migrations:
        subject = contract_subject(migration)
        if migration.number in schema.contract_revisions and subject not in known:
            detail: Mapping[str, object] = {
                "run": holder,
                "revision": migration.number,
                "release_id": planned.release.release_id,
                "reason": str(run.conf.get("reason", "")),
            }
            run.ledger.audit.append(AUDIT_ACTION, run.holder.actor, name, subject, detail)
            run.note(f"{subject}: what it takes away is gone", "success", host=planned.host)


def _live(environment: Environment, hosts: ApplicationHostStates) -> tuple[Color, str]:
    regular = {host.name for host in environment.hosts_with_role(Role.APPLICATION)}
    with TrafficControl(environment) as control:
        balancers = control.states(PATIENT_TIMEOUT_SECONDS)
    states = {name: state for name, state in hosts.items() if name in regular}
    found = reconcile(environment.application, balancers, states)
    if found.conflicts or found.live_color is None or found.live_release is None:
        why: Iterable[str] = found.conflicts or [f"no release runs on {found.live_color} of every host"]
        raise ContractRefusedError(f"it can't be told what is live: {'; '.join(why)}. Nothing was changed.")
    return found.live_color, found.live_release


def _manifest(run: ChangeRun, release_id: str, installed: InstalledReleases) -> Release | None:
    record = run.ledger.releases.find(release_id)
    return Release.model_validate(record.manifest) if record is not None else installed.find(release_id)
