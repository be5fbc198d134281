"""When application backups are made, and which sets are kept."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.backup.archive_rules import (
    abandoned_keys,
    catalog_label,
    keys_of,
    schedule_of,
    superfluous_sets,
)
from sebenza_ops.environments.models import ApplicationBackupPolicy, BackupPolicy
from tests.backup.archives import NOW, archive_set
from tests.systems.estates import shipped

BACKUP = shipped("production").model_dump()["policies"]["backup"]


@pytest.mark.parametrize(
    ("frequency", "day", "start", "cron"),
    [
        ("daily", "sunday", "01:30", "30 1 * * *"),
        ("weekly", "sunday", "00:05", "5 0 * * 0"),
        ("weekly", "saturday", "23:00", "0 23 * * 6"),
    ],
)
def test_the_schedule_follows_the_policy(frequency: str, day: str, start: str, cron: str) -> None:
    policy = ApplicationBackupPolicy.model_validate({"start": start, "ssh_conn_id": "a", "cipher_conn_id": "b"})
    assert schedule_of(policy, BackupPolicy.model_validate(BACKUP | {"frequency": frequency, "full_on": day})) == cron


def test_what_is_older_than_the_policy_goes() -> None:
    old, young = archive_set(days=31), archive_set(days=29)
    assert superfluous_sets([old, young], 30, NOW) == [old]


def test_the_last_good_set_of_each_host_stays_however_old_it_is() -> None:
    sets = [archive_set("app1", 40), archive_set("app1", 50), archive_set("app2", 90)]
    assert superfluous_sets(sets, 30, NOW) == [sets[1]]


def test_a_damaged_set_is_nobodys_last_good_one() -> None:
    damaged, good, older = archive_set(days=35), archive_set(days=40), archive_set(days=50)
    assert superfluous_sets([damaged, good, older], 30, NOW, {catalog_label(damaged)}) == [damaged, older]
    assert superfluous_sets([damaged], 30, NOW, {catalog_label(damaged)}) == [], "all that there is was removed"


@given(
    st.lists(st.tuples(st.sampled_from(["app1", "app2", "lb1"]), st.integers(0, 400)), unique=True), st.integers(1, 60)
)
def test_whatever_there_is_every_host_keeps_its_newest_and_nothing_young_goes(
    made: list[tuple[str, int]], kept_days: int
) -> None:
    sets = [archive_set(host, days) for host, days in made]
    gone = superfluous_sets(sets, kept_days, NOW)
    for host in {each.host for each in sets}:
        newest = max((each for each in sets if each.host == host), key=lambda each: each.made_at)
        assert newest not in gone
    assert all(each.made_at < NOW - dt.timedelta(days=kept_days) for each in gone)


def test_what_killed_runs_have_left_goes_after_two_days() -> None:
    known = archive_set()
    named = dict.fromkeys(keys_of(known), NOW - dt.timedelta(days=9))
    half = {"archives/production/app1/x/b.tar.zst.age": NOW - dt.timedelta(days=3)}
    at_work = {"archives/production/app1/y/c.tar.zst.age": NOW - dt.timedelta(hours=1)}
    assert abandoned_keys({**named, **half, **at_work}, [known], NOW) == list(half)


def test_a_set_stops_to_be_one_before_its_files_go() -> None:
    assert keys_of(archive_set())[0].endswith("/set.json")
