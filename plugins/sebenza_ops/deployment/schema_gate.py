"""Schema compatibility: which release can work with which schema. Pure rules.

A release works before and after its own contract migrations, and after every one that its code line had when it was
built: those are in its manifest. A contract migration that its manifest does not have takes away what it needs.
Numbers alone decide nothing: a release on another line may have a higher revision and still need the old schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sebenza_ops.deployment.migrations import DatabaseSchema
from sebenza_ops.deployment.release import Migration, Release


@dataclass(frozen=True)
class SchemaVerdict:
    """Whether something is possible with a schema, and why (not). As a condition, it is `possible`."""

    possible: bool
    reason: str

    def __bool__(self) -> bool:
        """Whether it is possible."""
        return self.possible


@dataclass(frozen=True)
class ReleaseInUse:
    """A release that runs, or that a rollback would go back to.

    Attributes:
        release_id: The release.
        why: Where it runs, or what it is needed for, in words.
        release: Its manifest; None when it is not known.
    """

    release_id: str
    why: str
    release: Release | None


def bare_name(name: str) -> str:
    """A migration's name as the application calls it: `0004_drop_amount.sql` and `drop_amount` are one."""
    stem = name.removesuffix(".sql")
    number, separator, rest = stem.partition("_")
    return rest if separator and number.isdigit() else stem


def knows(release: Release, migration: Migration) -> bool:
    """Whether the release's code line has this very contract migration."""
    return any(
        own.phase == "contract" and own.number == migration.number and bare_name(own.name) == bare_name(migration.name)
        for own in release.migrations
    )


def needing_old_schema(due: Sequence[Migration], in_use: Iterable[ReleaseInUse]) -> list[str]:
    """Why contract migrations can't be run now, in sentences; empty when nothing needs what they take away.

    A release without a known manifest counts as one that needs the old schema.
    """
    refusals = []
    for used in in_use:
        if used.release is None:
            refusals.append(f"{used.release_id} {used.why}, and no manifest tells what schema it needs")
            continue
        refusals += [
            f"{used.release_id} {used.why}, and needs what contract migration {migration.number} "
            f"({bare_name(migration.name)}) takes away"
            for migration in due
            if not knows(used.release, migration)
        ]
    return refusals


def rollback_is_possible(target_release: Release, applied_contract_revisions: Collection[int]) -> SchemaVerdict:
    """Whether a release can run on a schema to which these contract migrations were applied.

    Args:
        target_release: The release to go back to.
        applied_contract_revisions: Their numbers, as `DatabaseSchema.contract_revisions` has them.
    """
    own = {migration.number for migration in target_release.migrations if migration.phase == "contract"}
    gone = sorted(set(applied_contract_revisions) - own)
    if gone:
        numbers = ", ".join(str(number) for number in gone)
        return SchemaVerdict(
            False,
            f"{target_release.release_id} needs what contract migration {numbers} has taken away from the database. Go "
            "back to a release that has it in its manifest, or deploy a corrected one.",
        )
    return SchemaVerdict(True, f"no contract migration took away what {target_release.release_id} needs")


def is_compatible(release: Release, schema: DatabaseSchema) -> SchemaVerdict:
    """Whether a release can run on the schema as it is: nothing that it needs is missing, or was taken away."""
    half = [str(migration.number) for migration in schema.half_applied]
    if half:
        return SchemaVerdict(False, f"migration {', '.join(half)} is half-applied: settle it first")
    applied = {migration.number for migration in schema.migrations if migration.is_applied}
    missing = [m.number for m in release.migrations if m.phase == "expand" and m.number not in applied]
    if missing:
        numbers = ", ".join(str(number) for number in missing)
        return SchemaVerdict(False, f"expand migration {numbers} of {release.release_id} is not applied")
    return rollback_is_possible(release, schema.contract_revisions)
