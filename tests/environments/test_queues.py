"""Whose tasks wait where, and which connections lead to whom."""

from __future__ import annotations

from lab import paths
from sebenza_ops.environments.__main__ import main
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.queues import CORE, DEFAULT_QUEUE, connections_by_place, queue_of
from tests.environments.inventory_files import Files

INVENTORY = load_inventory(paths.CHECKOUT / "include" / "environments")
PLACES = connections_by_place(INVENTORY)


def test_a_queue_for_each_environment_and_one_for_all() -> None:
    assert {queue_of(environment) for environment in INVENTORY.environments.values()} == set(INVENTORY.environments)
    assert queue_of(None) == DEFAULT_QUEUE
    assert set(PLACES) == {CORE, DEFAULT_QUEUE, *INVENTORY.environments}


def test_productions_connections_are_known_to_production_alone() -> None:
    own = {conn_id for conn_id in PLACES["production"] if "production" in conn_id}

    assert {"sebenza_production_ssh", "sebenza_production_database", "sebenza_production_cache"} <= own
    for place, ids in PLACES.items():
        if place != "production":
            assert own.isdisjoint(ids), place


def test_production_has_what_is_tried_first_in_staging() -> None:
    assert {"sebenza_staging_ssh", "sebenza_staging_database", "sebenza_staging_smoke"} <= set(PLACES["production"])


def test_who_reads_no_attestation_can_sign_none() -> None:
    assert [place for place, ids in PLACES.items() if "sebenza_attestation" in ids] == ["production"]


def test_everybody_records_and_can_tell_people() -> None:
    for ids in PLACES.values():
        assert {"ops_ledger", "sebenza_slack", "sebenza_pagerduty", "sebenza_smtp"} <= set(ids)


def test_what_builds_can_build_and_no_other_place_needs_a_build_host() -> None:
    assert [place for place, ids in PLACES.items() if "sebenza_build_ssh" not in ids] == [CORE]


def test_the_command_lists_them(files: Files, capsys) -> None:
    assert main(["connections", str(files.directory)]) == 0

    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {place: tuple(ids.split()) for place, ids in lines.items()} == PLACES
