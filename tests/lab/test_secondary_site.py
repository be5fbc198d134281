"""The secondary site: it follows the primary one, needs nothing of it, and DNS is at neither."""

from __future__ import annotations

from types import ModuleType

import pytest
import yaml

from lab import application_hosts, backups, nameserver, object_copy, paths, postgres, secondary_site, supervision
from lab.addresses import address
from lab.connections import storage_client
from lab.hosts import PRIMARY_SITE_HOSTS, SECONDARY_SITE, SERVICES
from lab.storage import BUCKET
from lab.waiting import LabError, until
from sebenza_ops.environments.inventory import load_inventory
from tests.fixtures_estate import Estate

pytestmark = [pytest.mark.long, pytest.mark.lab]

site = secondary_site
STANDBY = site.STANDBY


def test_the_inventory_has_the_site_and_dns(secondary_site: Estate) -> None:
    environment = load_inventory(secondary_site.environments_dir).environments["production"]
    place = environment.at_site("secondary")
    assert [host.name for host in place.active_hosts] == ["lb3", "app4", "db3", "dbendpoint2", "cache2", "storage2"]
    assert environment.dns is not None
    assert environment.public_addresses("secondary") == (address("lb3"),)
    assert secondary_site.summary["secondary_site"]["application_hosts"] == ["app4"]


def test_what_is_written_at_the_primary_is_at_the_standby(secondary_site: Estate) -> None:
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS followed (at timestamptz)")
        cursor.execute("INSERT INTO followed VALUES (now()) RETURNING at")
        written = cursor.fetchone()

    def arrived() -> bool:
        with postgres.connect(STANDBY) as cursor:
            cursor.execute("SELECT to_regclass('followed') IS NOT NULL")
            if cursor.fetchone() != (True,):
                return False
            cursor.execute("SELECT max(at) FROM followed")
            return bool(cursor.fetchone() == written)

    try:
        until(arrived, f"{STANDBY} has what the primary has", 10)
    finally:
        with postgres.connect(postgres.primary_of_production()) as cursor:
            cursor.execute("DROP TABLE followed")


def test_what_is_stored_is_copied_and_nothing_is_taken_away(secondary_site: Estate) -> None:
    client = storage_client()
    client.put_object(Bucket=BUCKET, Key="tests/copied", Body=b"once")
    copied = paths.host_files(object_copy.COPY) / "srv/s3/sebenza/tests/copied"
    try:
        until(copied.exists, "the object is in the copy", 30)
        assert copied.read_bytes() == b"once"
        before = object_copy.completed_at()
        client.delete_object(Bucket=BUCKET, Key="tests/copied")
        until(lambda: object_copy.completed_at() > before, "another round of copying has ended", 30)
        assert copied.exists(), "what was deleted at the first storage is to be had from the copy"
    finally:
        copied.unlink(missing_ok=True)


def test_the_site_opens_the_backups_with_its_own_copy(secondary_site: Estate, faults: ModuleType) -> None:
    before = object_copy.completed_at()
    until(lambda: object_copy.completed_at() > before, "a round of copying has ended", 30)
    with faults.kill("storage"):
        done = backups.run(STANDBY, "info", "--output=text")
        assert done.returncode == 0, done.stderr
        assert "status: ok" in done.stdout or "no valid backups" in done.stdout
        assert "cipher: aes-256-cbc" in done.stdout


def test_dns_answers_and_a_frozen_zone_refuses_updates(secondary_site: Estate, faults: ModuleType) -> None:
    primary = sorted(address(host) for host in ("lb1", "lb2"))
    assert nameserver.ask("dns1", "app.sebenza.com") == primary
    assert nameserver.ask("dns2", "app.sebenza.com") == primary
    with faults.refuse_dns():
        with pytest.raises(LabError, match="REFUSED"):
            nameserver.reset()
        assert nameserver.ask("dns1", "app.sebenza.com") == primary
    nameserver.reset()


def test_the_connections_that_are_left_lead_nowhere_to_the_primary_site(secondary_site: Estate) -> None:
    left = yaml.safe_load(paths.SECONDARY_CONNECTIONS_FILE.read_text())
    assert {"sebenza_secondary_object_store", "sebenza_production_secondary_database", "sebenza_dns"} <= set(left)
    assert {"sebenza_production_backup_cipher", "sebenza_production_archive_key"} <= set(left), "keys are escrowed"
    gone = [address(host) for host in PRIMARY_SITE_HOSTS]
    text = yaml.safe_dump({name: {**each, "password": ""} for name, each in left.items()})
    assert not [each for each in gone if f"{each}:" in text or f"{each}\n" in text]
    assert str(paths.LAB_DIR / "ledger") not in text


def test_a_site_that_is_killed_leaves_the_other_one_and_comes_back(secondary_site: Estate, faults: ModuleType) -> None:
    with faults.kill_site("primary", airflow=False):
        assert not any(supervision.is_up(host) for host in PRIMARY_SITE_HOSTS)
        assert not (paths.LAB_DIR / "ledger").exists()
        assert all(state.running for host in ("lb3", "db3", "storage2", "dns1") for state in supervision.states(host))
        with postgres.connect(STANDBY) as cursor:
            cursor.execute("SELECT pg_is_in_recovery(), count(*) FROM pg_database")
            assert cursor.fetchone() is not None
        assert nameserver.ask("dns1", "app.sebenza.com"), "DNS is at neither site"
    assert (paths.LAB_DIR / "ledger").exists()
    assert all(supervision.is_up(host) for host in PRIMARY_SITE_HOSTS)
    until(site.streams, f"{STANDBY} streams again", 30)


def test_a_standby_that_was_promoted_follows_again_after_a_reset(secondary_site: Estate) -> None:
    with postgres.connect(STANDBY) as cursor:
        cursor.execute("SELECT pg_promote()")
    assert site.is_active()
    secondary_site.reset("production")
    assert not site.is_active()
    assert site.streams()
    assert application_hosts.live_color("lb3") == "blue"


def test_nothing_runs_on_the_hosts_that_wait(secondary_site: Estate) -> None:
    for host in SECONDARY_SITE.application_hosts:
        assert "pm2" in SERVICES[host]
        assert application_hosts.processes(host) == []
        assert application_hosts.version_answer(host, "blue") is None
