"""The backup before a change: where it lies, and which ones are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sebenza_ops.changes import run_key
from sebenza_ops.deployment.backup_before import MANIFEST, PREFIX, run_prefix, superfluous
from sebenza_ops.ledger import Holder

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def backup(dag_id: str, run: str, days_ago: float, *, whole: bool = True) -> dict[str, datetime]:
    at = NOW - timedelta(days=days_ago)
    prefix = run_prefix(Holder(dag_id, run, "thandi"))
    return {f"{prefix}{'a' * 64}.dump": at} | ({prefix + MANIFEST: at} if whole else {})


def directories(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(key.rpartition("/")[0].rpartition("/")[2] for key in keys))


def test_the_newest_are_kept_across_procedures() -> None:
    keys = backup("migrate_contract.staging", "r1", 3) | backup("rollback.staging", "r2", 2)
    keys |= backup("deploy_standard.staging", "r3", 1) | backup("deploy_standard.staging", "r4", 0)
    own = run_prefix(Holder("deploy_standard.staging", "r4", "thandi"))
    assert directories(superfluous(keys, "staging", 2, own, NOW)) == ["r2", "r1"]
    assert superfluous(keys, "staging", 4, own, NOW) == []


def test_the_manifest_goes_first() -> None:
    gone = superfluous(backup("rollback.staging", "r1", 3), "staging", 0, "", NOW)
    assert [key.endswith(MANIFEST) for key in gone] == [True, False]


def test_other_environments_are_left_alone() -> None:
    keys = backup("rollback.production", "r1", 300) | backup("rollback.staging", "r2", 300)
    assert directories(superfluous(keys, "staging", 0, "", NOW)) == ["r2"]


def test_the_run_s_own_backup_is_never_removed() -> None:
    keys = backup("rollback.staging", "r1", 9)
    assert superfluous(keys, "staging", 0, run_prefix(Holder("rollback.staging", "r1", "x")), NOW) == []


def test_what_came_to_no_end_is_removed_later_and_displaces_nothing() -> None:
    keys = backup("rollback.staging", "whole", 9) | backup("rollback.staging", "at-work", 1, whole=False)
    keys |= backup("rollback.staging", "abandoned", 3, whole=False)
    assert directories(superfluous(keys, "staging", 1, "", NOW)) == ["abandoned"]


def test_any_run_id_is_one_directory() -> None:
    hostile = Holder("rollback.staging", "../../etc/$(reboot) 'x'", "thandi")
    assert run_prefix(hostile).count("/") == PREFIX.count("/") + 2
    assert run_prefix(Holder("rollback.staging", "..", "thandi")) == f"{PREFIX}rollback.staging/%2E%2E/"
    assert set(run_key(hostile)) <= set("0123456789abcdef")
    assert run_key(hostile) != run_key(Holder("rollback.staging", "other", "thandi"))
