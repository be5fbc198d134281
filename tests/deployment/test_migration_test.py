"""The verdict of the gate "migrations tested"."""

from __future__ import annotations

import json

import pytest

from sebenza_ops.deployment.migration_test import TestedMigration, judge_test, parse_test
from sebenza_ops.environments.policies import MigrationPolicy
from sebenza_ops.systems.application_migrations import Phase
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.scratch_database import scratch_name

POLICY = MigrationPolicy(maximum_blocking_seconds=5)


def ran_on_copy(seconds: float, *locks: str, phase: Phase = "expand") -> TestedMigration:
    return TestedMigration(number=2, name="cents", phase=phase, seconds=seconds, locks=locks)


@pytest.mark.parametrize(
    ("migration", "verdict"),
    [
        (ran_on_copy(0.1, "AccessExclusiveLock invoices"), "pass"),
        (ran_on_copy(5.0, "AccessExclusiveLock invoices"), "pass"),
        (ran_on_copy(5.1, "AccessExclusiveLock invoices"), "fail"),
        (ran_on_copy(5.1, "ShareLock invoices"), "fail"),  # CREATE INDEX: nobody writes
        (ran_on_copy(500.0, "ShareUpdateExclusiveLock invoices"), "pass"),  # CREATE INDEX CONCURRENTLY
        (ran_on_copy(500.0, "RowExclusiveLock invoices", "AccessShareLock users"), "pass"),
        (ran_on_copy(5.1, "AccessExclusiveLock invoices", phase="contract"), "pass"),  # in its own run, at a quiet time
    ],
)
def test_users_must_be_able_to_work(migration: TestedMigration, verdict: str) -> None:
    result = judge_test([migration], "", POLICY, 9.0)
    assert (result.verdict, bool(result.problem)) == (verdict, verdict == "fail")
    assert "2 cents" in result.text()


def test_a_failed_migration_fails_the_gate_with_its_words() -> None:
    result = judge_test([ran_on_copy(0.1)], "migration 5 failed: check constraint", POLICY, 9.0)
    assert (result.verdict, result.problem) == ("fail", "migration 5 failed: check constraint")


def test_nothing_pending_passes() -> None:
    assert judge_test([], "", POLICY, 1.0).verdict == "pass"


ONE = json.dumps([{"number": 2, "name": "cents", "phase": "expand", "state": "applied", "seconds": 0.1, "locks": []}])


def test_a_cut_answer_is_no_data() -> None:
    whole = f"== expand\n{ONE}\n== expand_status\n0\n== contract\n[]\n== contract_status\n0\n"
    assert parse_test("staging", whole) == ([ran_on_copy(0.1)], "")
    for cut in ("", "== expand\n", f"== expand\n{ONE}\n== expand_status\n0\n== contract\n", "garbage"):
        with pytest.raises(NoDataError):
            parse_test("staging", cut)
    with pytest.raises(NoDataError):
        parse_test("staging", whole.replace(ONE, ONE[:20]))


def test_a_failure_without_words_is_still_one() -> None:
    assert parse_test("staging", "== expand\n\n== expand_status\n1\n")[1] == (
        "the expand migrations ended with exit status 1"
    )


def test_the_name_of_a_copy_fits_and_is_new() -> None:
    name = scratch_name("a" * 36, 1_800_000_000)
    assert len(name) <= 63
    assert name != scratch_name("a" * 36, 1_800_000_000)
    with pytest.raises(ValueError, match="too long"):
        scratch_name("a" * 37, 0)
