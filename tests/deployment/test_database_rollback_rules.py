"""Which backup a database rollback takes, when it is refused, and what it says would be lost."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sebenza_ops.deployment.backup_before import LogicalDump, run_prefix
from sebenza_ops.deployment.database_rollback import (
    DatabaseRollbackPlan,
    DatabaseRollbackRefusedError,
    age,
    choose_backup,
    find_change,
    find_differences,
    find_loss,
    names_beside,
    question,
    refuse_copy,
    refuse_without_restoring,
    summed_up,
)
from sebenza_ops.deployment.migrations import DatabaseSchema
from sebenza_ops.deployment.release import Migration, Release
from sebenza_ops.environments.models import Color
from sebenza_ops.ledger import Deployment, Holder
from sebenza_ops.systems.application_migrations import KnownMigration
from sebenza_ops.systems.database_copy import DatabaseDescription, parse_description, parse_restore_status
from sebenza_ops.systems.errors import NoDataError
from tests.deployment.estate import NEW, OLD

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DEPLOY = "deploy_blue_green.production"
OWN = Holder("rollback.production", "r1", "thandi")


def deployment(run_id: str, release_id: str, hours_ago: float, **values: Any) -> Deployment:
    at = NOW - timedelta(hours=hours_ago)
    known: dict[str, Any] = {
        "environment": "production",
        "holder": Holder(values.pop("dag_id", DEPLOY), run_id, "sipho"),
        "requested_version": "v1",
        "release_id": release_id,
        "previous_release_id": values.pop("previous", None),
        "strategy": values.pop("strategy", "blue_green"),
        "progress": {"phase": values.pop("moved", "baked")},
        "started_at": at,
        "updated_at": at,
    }
    names = ("from_color", "to_color", "phase", "plan", "outcome", "detail", "evidence_url", "finished_at")
    unknown: dict[str, Any] = dict.fromkeys(names)
    return Deployment(**known, **unknown)


def backup(run: str, hours_ago: float, revision: int = 1, **values: Any) -> LogicalDump:
    known: dict[str, Any] = {
        "environment": "production",
        "database": "shop",
        "key": f"{run_prefix(Holder(run.partition('/')[0], run.partition('/')[2], 'sipho'))}x.dump",
        "size_bytes": 10,
        "sha256": "a" * 64,
        "seconds": 1,
        "schema_revision": revision,
        "entries": 3,
        "made_with": "pg_dump",
        "made_on": "db1",
        "made_at": NOW - timedelta(hours=hours_ago),
        "run": run,
    }
    return LogicalDump(**(known | values))


def release(*migrations: tuple[int, str]) -> Release:
    return Release.model_validate(
        {
            "version": "v1.0.0",
            "sha": "a" * 40,
            "release_id": OLD,
            "sha256": "b" * 64,
            "size_bytes": 1,
            "node_version": "20",
            "schema_revision": max((number for number, _ in migrations), default=0),
            "migrations": [Migration(number=n, name=f"m{n}", phase=phase) for n, phase in migrations],
        }
    )


def schema(*migrations: tuple[int, str], state: str = "applied") -> DatabaseSchema:
    return DatabaseSchema(tuple(KnownMigration(n, f"m{n}", phase, state) for n, phase in migrations))  # type: ignore[arg-type]


def test_the_change_is_the_run_that_brought_what_was_left() -> None:
    runs = [
        deployment("again", NEW, 1, moved=None),  # it was live already
        deployment("taken back", NEW, 2, moved="undone"),
        deployment("the one", NEW, 3),
        deployment("long ago", NEW, 90),
        deployment("before", OLD, 100),
    ]
    assert find_change(runs, NEW, OLD, OWN)[0].holder.run_id == "the one"
    # A deployment that was fenced off in its bake has served users.
    baking = [deployment("fenced off", NEW, 1, moved="baking"), *runs]
    assert find_change(baking, NEW, OLD, OWN)[0].holder.run_id == "fenced off"


def test_the_change_is_known_when_traffic_was_back_before() -> None:
    earlier = deployment("r0", OLD, 1, dag_id="rollback.production", strategy="rollback", previous=NEW, moved=None)
    change, left = find_change([earlier, deployment("the one", NEW, 3)], None, OLD, OWN)
    assert (change.holder.run_id, left) == ("the one", NEW)


def test_without_a_known_change_it_is_refused() -> None:
    own = deployment("r1", NEW, 0, dag_id="rollback.production")
    for runs in ([], [own], [deployment("undone", NEW, 1, moved="undone")]):
        with pytest.raises(DatabaseRollbackRefusedError, match="no run that brought"):
            find_change(runs, NEW, OLD, OWN)


def test_the_newest_backup_from_before_the_change_is_taken() -> None:
    change = deployment("d1", NEW, 3)
    own, older = backup(f"{DEPLOY}/d1", 2.9), backup(f"{DEPLOY}/d0", 50)
    later = backup("migrate_contract.production/c1", 1)
    other = backup(f"{DEPLOY}/d2", 4, environment="staging")
    renamed = backup(f"{DEPLOY}/d3", 3.5, database="other")
    assert choose_backup([later, older, own, other, renamed], "production", "shop", change) == own
    assert choose_backup([later, older], "production", "shop", change) == older
    with pytest.raises(DatabaseRollbackRefusedError, match="no verified backup of shop from before"):
        choose_backup([later, other, renamed], "production", "shop", change)


def test_a_contract_migration_since_refuses_it_before_anything_is_restored() -> None:
    made = backup("x/y", 5, revision=6)
    refuse_without_restoring(release((1, "expand")), made, {"migration 4 drop_amount": NOW - timedelta(hours=6)})
    with pytest.raises(DatabaseRollbackRefusedError, match=r"contract migration ran since .*migration 4 drop_amount"):
        refuse_without_restoring(release(), made, {"migration 4 drop_amount": NOW - timedelta(hours=4)})


def test_a_release_that_needs_more_than_the_backup_has_is_refused() -> None:
    made = backup("x/y", 5, revision=1)
    refuse_without_restoring(release((1, "expand"), (2, "contract")), made, {})
    with pytest.raises(DatabaseRollbackRefusedError, match="needs expand migration 2"):
        refuse_without_restoring(release((1, "expand"), (2, "expand")), made, {})


@pytest.mark.parametrize(
    ("live", "copy", "text"),
    [
        (schema((1, "expand"), (4, "contract")), schema((1, "expand")), "contract migration 4 ran since"),
        (schema((1, "expand")), schema((1, "expand"), state="half-applied"), "half-applied"),
        (schema((1, "expand"), (2, "expand")), schema((2, "expand")), "expand migration 1"),
        (schema((1, "expand")), schema((1, "expand"), (2, "expand")), "is not the backup that it is called"),
    ],
)
def test_the_copy_itself_is_asked_again(live: DatabaseSchema, copy: DatabaseSchema, text: str) -> None:
    with pytest.raises(DatabaseRollbackRefusedError, match=text):
        refuse_copy(release((1, "expand")), backup("x/y", 1, revision=1), live, copy)


def test_a_copy_that_fits_passes() -> None:
    live = schema((1, "expand"), (2, "expand"))
    refuse_copy(release((1, "expand")), backup("x/y", 1, revision=1), live, schema((1, "expand")))


def described(**tables: dict[str, Any]) -> DatabaseDescription:
    database: dict[str, Any] = {"what": "database", "oid": 1, "at": NOW.isoformat(), "size_bytes": 1, "owner": "app"}
    database |= {"encoding": "UTF8", "collate": "C", "ctype": "C", "tablespace": "pg_default", "connection_limit": -1}
    database |= {"settings": [], "grants": [], "extensions": ["plpgsql"], "slots": []}
    table: dict[str, Any] = {
        "what": "table",
        "owner": "app",
        "grants": [],
        "created": None,
        "written": None,
        "changed": None,
        "by": "",
    }
    lines = [database, *({**table, "name": name, **values} for name, values in tables.items())]
    return parse_description("\n".join(map(json.dumps, lines)), "db1")


def test_the_loss_is_counted_table_by_table() -> None:
    now = described(
        orders={"rows": 102, "written": 2, "changed": 3, "created": NOW.isoformat(), "by": "created_at"},
        notes={"rows": 9},
        added={"rows": 4, "written": 4, "by": "all"},
        same={"rows": 7, "written": 0, "by": "id"},
    )
    then = described(orders={"rows": 100}, notes={"rows": 10}, same={"rows": 7}, dropped={"rows": 5})
    loss = {one.table: one for one in find_loss(now, then)}
    assert {name: one.lost for name, one in loss.items()} == {
        "orders": 2, "notes": 0, "added": 4, "same": 0, "dropped": 0
    }  # fmt: skip
    assert [name for name, one in loss.items() if one.is_untouched] == ["same"]
    assert summed_up(list(loss.values())) == "added 4, orders 2"
    assert loss["orders"].cells() == ["orders", "2 (by created_at)", "3", "2026-11-25 12:00:00 UTC", "102", "100"]
    assert loss["notes"].cells()[1] == "at least 0 (no column tells)"


def test_everything_that_would_not_be_as_it_is_is_told() -> None:
    live = described(orders={"rows": 1, "grants": ["SELECT to reader"]})
    copy = replace(described(orders={"rows": 1, "owner": "other"}), grants=frozenset({"CONNECT to PUBLIC"}))
    live = replace(
        live, extensions=live.extensions | {"pg_stat_statements"}, slots=("cdc",), settings=frozenset({"a=b"})
    )
    found = "\n".join(find_differences(live, copy))
    for part in ("CREATE EXTENSION pg_stat_statements", "a=b is missing", "CONNECT to PUBLIC is new", "slot cdc"):
        assert part in found, found
    assert "orders belongs to other, not app" in found
    assert find_differences(live, live) == ["replication slot cdc follows the database that is moved aside"]


def test_the_question_shows_what_would_be_lost_and_what_happens() -> None:
    plan = DatabaseRollbackPlan(
        environment="production",
        database="shop",
        restored="shop_rb_1",
        aside="shop_before_1",
        backup=backup("x/y", 26.5),
        change=f"{DEPLOY}/d1",
        change_at=NOW - timedelta(hours=26),
        release=release((1, "expand")),
        color=Color.BLUE,
        left_release=NEW,
    )
    now = described(orders={"rows": 102, "written": 2, "created": NOW.isoformat(), "by": "created_at"})
    text = question(
        plan,
        find_loss(now, described(orders={"rows": 100})),
        ["extension x is missing"],
        counted_at=NOW.isoformat(),
        reason="orders are\nlost",
        requested_by="thandi",
        excluded={"thandi": "requester"},
    )
    for part in (
        "back on " + OLD,
        "**orders 2**",
        "| orders | 2 (by created_at) |",
        "1 d 2 h before",
        "shop_before_1",
        "after 20 s",
        NEW,
        "extension x is missing",
        "thandi (requester)",
        "orders are lost",
    ):
        assert part in text, (part, text)


def test_names_say_when_and_fit() -> None:
    assert names_beside("shop", NOW) == ("shop_rb_20261125120000", "shop_before_20261125120000")
    longest = "d" * 41
    assert max(map(len, names_beside(longest, NOW))) == 63
    with pytest.raises(DatabaseRollbackRefusedError, match="too long"):
        names_beside("d" * 42, NOW)


def test_what_can_not_be_read_is_no_data() -> None:
    for text in ("", "psql: error", '{"what": "table"}'):
        with pytest.raises(NoDataError, match="db1"):
            parse_description(text, "db1")
    for text in ("", "done\nnothing", "well\n"):
        with pytest.raises(NoDataError, match="db1"):
            parse_restore_status(text, "db1")
    assert parse_restore_status("failed\ndisk full", "db1").log_tail == "disk full"


def test_ages_are_short() -> None:
    ages = [age(NOW - timedelta(seconds=s), NOW.isoformat()) for s in (5, 3700, 90000)]
    assert ages == ["0 min 5 s", "1 h 1 min", "1 d 1 h"]
