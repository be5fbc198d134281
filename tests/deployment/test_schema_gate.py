"""Which release can work with which schema: what a contract migration may take away, and from whom."""

from __future__ import annotations

from typing import Literal

import pytest

from sebenza_ops.deployment.migrations import DatabaseSchema
from sebenza_ops.deployment.release import Migration, Release
from sebenza_ops.deployment.schema_gate import (
    ReleaseInUse,
    bare_name,
    is_compatible,
    needing_old_schema,
    rollback_is_possible,
)
from sebenza_ops.systems.application_migrations import KnownMigration

Phase = Literal["expand", "contract"]


def migration(number: int, phase: Phase = "expand", name: str = "") -> Migration:
    return Migration(number=number, name=name or f"{number:04}_m{number}.sql", phase=phase)


def release(release_id: str, *migrations: Migration) -> Release:
    return Release(
        version=release_id.partition("-")[0],
        sha="a" * 40,
        release_id=release_id,
        sha256="b" * 64,
        size_bytes=1,
        node_version="20.0.0",
        schema_revision=max((one.number for one in migrations), default=0),
        migrations=migrations,
    )


DROP = migration(4, "contract", "0004_drop_amount.sql")
OLD = release("v1.2.0-aaaaaaaaaaaa", migration(1), migration(2), migration(3))
NEW = release("v1.4.0-bbbbbbbbbbbb", *OLD.migrations, DROP)
NEWER = release("v1.4.1-cccccccccccc", *NEW.migrations, migration(6))
# Another line: a higher revision, and it still reads the old column.
OTHER_LINE = release("v1.3.5-dddddddddddd", migration(1), migration(2), migration(5))


def schema(*known: tuple[int, Phase, str]) -> DatabaseSchema:
    return DatabaseSchema(tuple(KnownMigration(number, f"m{number}", phase, state) for number, phase, state in known))


def test_releases_that_have_the_contract_migration_are_no_obstacle() -> None:
    in_use = [ReleaseInUse(NEW.release_id, "is live", NEW), ReleaseInUse(NEWER.release_id, "runs on app1", NEWER)]
    assert needing_old_schema([DROP], in_use) == []


@pytest.mark.parametrize("needy", [OLD, OTHER_LINE, release("v1.4.0-eeeeeeeeeeee", migration(4, "contract", "0004_x"))])
def test_a_release_without_the_contract_migration_needs_the_old_schema(needy: Release) -> None:
    found = needing_old_schema([DROP], [ReleaseInUse(needy.release_id, "runs on app2 in blue", needy)])
    assert found == [
        f"{needy.release_id} runs on app2 in blue, and needs what contract migration 4 (drop_amount) takes away"
    ]


def test_a_release_that_nobody_knows_is_no_good_news() -> None:
    found = needing_old_schema([DROP], [ReleaseInUse("v9-ffffffffffff", "runs on app3", None)])
    assert found == ["v9-ffffffffffff runs on app3, and no manifest tells what schema it needs"]


@pytest.mark.parametrize(
    ("target", "applied", "possible"),
    [
        (OLD, [], True),
        (OLD, [4], False),
        (OTHER_LINE, [4], False),
        (NEW, [4], True),
        (NEWER, [4], True),
        (NEWER, [4, 8], False),
    ],
)
def test_a_rollback_needs_a_schema_that_the_target_can_use(target: Release, applied: list[int], possible: bool) -> None:
    verdict = rollback_is_possible(target, applied)
    assert (verdict.possible, bool(verdict)) == (possible, possible)
    assert target.release_id in verdict.reason


def test_a_contract_migration_that_was_only_begun_counts_as_applied() -> None:
    begun = schema((1, "expand", "applied"), (4, "contract", "half-applied"))
    assert begun.contract_revisions == {4}
    assert begun.revision == 1
    assert not rollback_is_possible(OLD, begun.contract_revisions)


def test_compatible_is_what_misses_nothing_and_lost_nothing() -> None:
    three: list[tuple[int, Phase, str]] = [(1, "expand", "applied"), (2, "expand", "foreign"), (3, "expand", "applied")]
    assert is_compatible(OLD, schema(*three))
    assert is_compatible(NEW, schema(*three)), "its contract migration comes later"
    assert "expand migration 6" in is_compatible(NEWER, schema(*three)).reason
    assert "taken away" in is_compatible(OLD, schema(*three, (4, "contract", "foreign"))).reason
    assert "half-applied" in is_compatible(OLD, schema(*three, (6, "expand", "half-applied"))).reason


@pytest.mark.parametrize("name", ["0004_drop_amount.sql", "0004_drop_amount", "drop_amount"])
def test_the_manifest_and_the_application_name_a_migration_differently(name: str) -> None:
    assert bare_name(name) == "drop_amount"
