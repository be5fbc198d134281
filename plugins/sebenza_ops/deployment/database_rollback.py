"""Bringing the database back with a release: from which backup, whether it may be, and what would be lost. Pure rules.

Traffic is back on the old release before any of this is asked: seconds matter there, and deciding about data takes
minutes. A refusal here leaves traffic where it is, and the database as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict

from sebenza_ops.deployment.backup_before import ChangeBackup, run_prefix
from sebenza_ops.deployment.migrations import DatabaseSchema
from sebenza_ops.deployment.progress import Phase
from sebenza_ops.deployment.release import Release
from sebenza_ops.deployment.schema_gate import is_compatible
from sebenza_ops.environments.models import Color
from sebenza_ops.ledger import Deployment, Holder
from sebenza_ops.systems.database_copy import PATIENCE_SECONDS, DatabaseDescription

# PostgreSQL cuts names after 63 bytes; "_before_" and a moment to the second take 22.
LONGEST_DATABASE_NAME = 41
MOMENT_FORMAT = "%Y%m%d%H%M%S"


class DatabaseRollbackRefusedError(Exception):
    """The database can't be brought back with the release; it was not touched. The message says why."""


class DatabaseRollbackPlan(BaseModel):
    """What a database rollback will do. Handed from task to task; holds no secret.

    Attributes:
        environment: The environment.
        database: The database's name.
        restored: The name of the copy beside it, until it takes the database's place.
        aside: The name under which the database is kept then.
        backup: The backup that is restored.
        change: The run whose change is gone back behind, in words.
        change_at: When it began.
        release: The release that is live again.
        color: Its color.
        left_release: The release that was left; None when that can't be told.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    database: str
    restored: str
    aside: str
    backup: ChangeBackup
    change: str
    change_at: AwareDatetime
    release: Release
    color: Color
    left_release: str | None


def alternatives(environment: str, database: str, release_id: str) -> str:
    """What can be done where the database stays, in sentences."""
    return (
        f"Alternatives: leave {database} as it is, deployments only expand the schema and {release_id} works with it; "
        f"or restore a backup into a new database beside it (backups/before/ in object storage, pg_restore) and copy "
        "over what is needed; or restore to a point in time where the database's own backups allow it. Once the reason "
        f"is mended: rollback.{environment} again, with `to` {release_id} and `database`"
    )


def names_beside(database: str, now: datetime) -> tuple[str, str]:
    """New names for the restored copy and for the database moved aside.

    Raises DatabaseRollbackRefusedError for a database whose name leaves no room.
    """
    if len(database) > LONGEST_DATABASE_NAME:
        raise DatabaseRollbackRefusedError(f"the name of database {database} is too long to keep another one beside it")
    moment = now.strftime(MOMENT_FORMAT)
    return f"{database}_rb_{moment}", f"{database}_before_{moment}"


def find_change(
    deployments: Iterable[Deployment], left_release: str | None, target: str, own: Holder
) -> tuple[Deployment, str]:
    """The run that brought the release that was left, and that release.

    Args:
        deployments: The environment's runs, the newest first.
        left_release: The release that was left; None when traffic was back before this run.
        target: The release that is live again.
        own: The rollback itself.

    Raises DatabaseRollbackRefusedError when no run is known to have brought it.
    """
    known = [one for one in deployments if not one.holder.is_run(own)]
    if left_release is None:
        back = [one for one in known if one.strategy == "rollback" and one.release_id == target]
        left_release = next((one.previous_release_id for one in back if one.previous_release_id), None)
    for one in known:
        phase = one.progress.get("phase")
        moved = phase is not None and Phase(phase) is not Phase.UNDONE
        if moved and left_release is not None and one.release_id == left_release:
            return one, left_release
    raise DatabaseRollbackRefusedError(
        f"the ledger knows no run that brought {left_release or 'the release before'} live, so it can't be told which "
        "backup is from before it"
    )


def choose_backup(backups: Iterable[ChangeBackup], environment: str, database: str, change: Deployment) -> ChangeBackup:
    """The newest verified backup of the database from before a change: the change's own, or an earlier one.

    Raises DatabaseRollbackRefusedError when there is none.
    """
    found = [
        backup
        for backup in backups
        if backup.environment == environment
        and backup.database == database
        and (backup.key.startswith(run_prefix(change.holder)) or backup.made_at <= change.started_at)
    ]
    if not found:
        raise DatabaseRollbackRefusedError(
            f"there is no verified backup of {database} from before {change.holder} ({moment(change.started_at)}): "
            "neither did that run make one, nor is there an older one"
        )
    return max(found, key=lambda backup: backup.made_at)


def refuse_without_restoring(release: Release, backup: ChangeBackup, contracted: Mapping[str, datetime]) -> None:
    """The schema gate, as far as it can be asked before there is a copy.

    Args:
        release: The release that is live again.
        backup: The backup.
        contracted: Contract migrations that the audit knows, with when they were applied.

    Raises DatabaseRollbackRefusedError.
    """
    since = sorted(name for name, at in contracted.items() if at > backup.made_at)
    if since:
        raise DatabaseRollbackRefusedError(
            f"a contract migration ran since the backup of {moment(backup.made_at)} ({', '.join(since)}): what it took "
            "away was given up on purpose"
        )
    missing = [m.number for m in release.migrations if m.phase == "expand" and m.number > backup.schema_revision]
    if missing:
        raise DatabaseRollbackRefusedError(
            f"{release.release_id} needs expand migration {', '.join(map(str, missing))}, and the newest backup from "
            f"before the change ({moment(backup.made_at)}) has schema revision {backup.schema_revision}"
        )


def refuse_copy(release: Release, backup: ChangeBackup, live: DatabaseSchema, copy: DatabaseSchema) -> None:
    """The schema gate on what the restored copy really has. Raises DatabaseRollbackRefusedError."""
    since = sorted(live.contract_revisions - copy.contract_revisions)
    if since:
        raise DatabaseRollbackRefusedError(
            f"contract migration {', '.join(map(str, since))} ran since the backup: what it took away was given up on "
            "purpose"
        )
    verdict = is_compatible(release, copy)
    if not verdict:
        raise DatabaseRollbackRefusedError(f"{release.release_id} does not fit the backup's schema: {verdict.reason}")
    if copy.revision != backup.schema_revision:
        raise DatabaseRollbackRefusedError(
            f"the restored copy has schema revision {copy.revision}, the backup's manifest says "
            f"{backup.schema_revision}: it is not the backup that it is called"
        )


@dataclass(frozen=True)
class TableLoss:
    """What a table would lose, or get back. Rows are exact; `written` and `changed` as far as its columns tell."""

    table: str
    rows_now: int
    rows_then: int
    written: int | None
    changed: int | None
    newest: str | None
    by: str

    @property
    def is_untouched(self) -> bool:
        """Whether nothing tells of a difference."""
        return self.rows_now == self.rows_then and not self.written and not self.changed

    @property
    def lost(self) -> int:
        """How many rows would be lost at least."""
        return max(self.written or 0, self.rows_now - self.rows_then)

    def cells(self) -> list[str]:
        """The row of a table for people."""
        if self.written is None:
            written = f"at least {max(0, self.rows_now - self.rows_then)} (no column tells)"
        else:
            written = f"{self.written} (by {self.by})" if self.written and self.by != "all" else str(self.written)
        newest = moment_text(self.newest) if self.newest else "not known"
        changed = "not known" if self.changed is None else str(self.changed)
        return [self.table, written, changed, newest, str(self.rows_now), str(self.rows_then)]


def find_loss(live: DatabaseDescription, copy: DatabaseDescription) -> tuple[TableLoss, ...]:
    """What the database has and the copy has not, for every table of either; `live` was compared with `copy`."""
    found = []
    for name in sorted({*live.tables, *copy.tables}):
        now, then = live.tables.get(name), copy.tables.get(name)
        found.append(
            TableLoss(
                table=name,
                rows_now=now.rows if now else 0,
                rows_then=then.rows if then else 0,
                written=now.written if now else 0,
                changed=now.changed if now else None,
                newest=now.created if now else None,
                by=now.by if now else "",
            )
        )
    return tuple(found)


def summed_up(loss: Sequence[TableLoss]) -> str:
    """The loss in a line: tables that would lose rows, those that lose most first."""
    losing = sorted((one for one in loss if one.lost), key=lambda one: -one.lost)
    shown = [f"{one.table} {one.lost}" for one in losing[:8]]
    more = [f"and {len(losing) - 8} more tables"] if len(losing) > 8 else []
    return ", ".join([*shown, *more]) or "no row"


def find_differences(live: DatabaseDescription, copy: DatabaseDescription) -> list[str]:
    """What besides rows and schema would not be as it is: in words, with what to do."""
    found = [
        f"{name} is {copy.properties[name]}, was {live.properties[name]}"
        for name in live.properties
        if copy.properties[name] != live.properties[name]
    ]
    found += [
        f"extension {one} is missing, only a superuser may create it: CREATE EXTENSION {one} there, before or after. "
        "The backup's tables do not need it"
        for one in sorted(live.extensions - copy.extensions)
    ]
    found += [f"setting {one} is missing" for one in sorted(live.settings - copy.settings)]
    found += [f"setting {one} is new" for one in sorted(copy.settings - live.settings)]
    found += [f"the right {one} is missing" for one in sorted(live.grants - copy.grants)]
    found += [f"the right {one} is new" for one in sorted(copy.grants - live.grants)]
    found += [f"replication slot {one} follows the database that is moved aside" for one in live.slots]
    for name in sorted(set(live.tables) & set(copy.tables)):
        now, then = live.tables[name], copy.tables[name]
        if now.owner != then.owner:
            found.append(f"table {name} belongs to {then.owner}, not {now.owner}")
        if now.grants != then.grants:
            found.append(f"rights on table {name} are ({', '.join(then.grants)}), were ({', '.join(now.grants)})")
    return found


def question(
    plan: DatabaseRollbackPlan,
    loss: Sequence[TableLoss],
    differences: Sequence[str],
    *,
    counted_at: str,
    reason: str,
    requested_by: str,
    excluded: Mapping[str, str],
) -> str:
    """Everything that is needed to decide, in Markdown."""
    backup = plan.backup
    touched = [one for one in loss if not one.is_untouched]
    rows = ["| " + " | ".join(one.cells()) + " |" for one in touched]
    table = [
        "| table | rows written since | rows changed since | newest row | rows now | rows in the backup |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    alike = len(loss) - len(touched)
    lost = summed_up(loss)
    parts = [
        f"Traffic of **{plan.environment}** is back on {plan.release.release_id} ({plan.color}) already, whatever is "
        f"answered here. Asked is whether its database **{plan.database}** goes back as well. Requested by "
        f"{requested_by}: {' '.join(reason.split())}",
        f"The backup is of **{moment(backup.made_at)}**, {age(backup.made_at, counted_at)} before these numbers were "
        f"taken: schema revision {backup.schema_revision}, made by {backup.run}. It goes back behind {plan.change}, "
        f"which began {moment(plan.change_at)}.",
        f"### What would be lost\n\nOf what was written since the backup: **{lost}**.",
        "\n".join(table) if rows else "No table differs from the backup.",
        f"{alike} tables show no difference. Counted in one snapshot at {moment_text(counted_at)}; users write on "
        "until the exchange. A changed row is known only where a column tells.",
        "### What happens\n\n"
        f"1. Another verified backup of {plan.database}, as it is then.\n"
        f"2. New connections are refused, sessions are ended, and in one transaction {plan.database} becomes "
        f"**{plan.aside}** and the restored copy takes its name. Requests that need the database fail meanwhile: "
        f"mostly 1 to 3 s; after {PATIENCE_SECONDS} s it is given up and users are let in again.\n"
        "3. Cached rows are forgotten; health, schema revision and rows are verified.\n"
        f"4. {plan.aside} stays, with every row written since. Nothing is deleted.",
        "Numbers that identity columns and sequences gave out since are given out again. What left the system since "
        "(mails, payments, calls of other systems) is not taken back.",
    ]
    if plan.left_release is not None:
        parts.append(
            f"{plan.left_release}, which was left, may need what goes: where it still runs without traffic it becomes "
            "unhealthy. A deployment of it runs its migrations again."
        )
    if differences:
        parts += ["### What else would differ", "\n".join(f"- {line}" for line in differences)]
    parts.append(f"Rejected, or without an answer in time: {plan.database} stays as it is, and the copy is removed.")
    if excluded:
        parts.append("May not approve: " + ", ".join(f"{name} ({what})" for name, what in excluded.items()) + ".")
    return "\n\n".join(parts)


def moment(at: datetime) -> str:
    """A moment for people."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def moment_text(text: str) -> str:
    """A moment of the database's, for people."""
    return moment(datetime.fromisoformat(text)) if text else "not known"


def age(then: datetime, now: str) -> str:
    """How long ago something was, in the two largest units that say something."""
    seconds = max(0, int((datetime.fromisoformat(now) - then).total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
