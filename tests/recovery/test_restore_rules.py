"""Whether an application host may be restored, and from what."""

from __future__ import annotations

import pytest

from sebenza_ops.environments.models import Color
from sebenza_ops.recovery.restore_rules import (
    RestoreRefusedError,
    chosen_set,
    live_color,
    out_on_purpose,
    restorable_hosts,
    servers_of,
    serving,
    what_is_live,
)
from sebenza_ops.systems.errors import HostUnreachableError
from sebenza_ops.systems.haproxy import BackendState, LoadBalancerState, ServerState
from tests.backup.archives import archive_set
from tests.deployment.estate import NEW, OLD, balancer, host
from tests.systems.estates import shipped

PRODUCTION = shipped("production")


def with_app2(name: str, status: str) -> LoadBalancerState:
    servers = (ServerState("app1", "UP", 0), ServerState("app2", status, 0))
    return balancer(name, backends={"bk_blue": BackendState("bk_blue", 0, 0, 0, 0, 0, servers)})


def test_only_hosts_that_are_nothing_but_application_hosts_are_restored() -> None:
    assert [each.name for each in restorable_hosts(PRODUCTION)] == ["app1", "app2", "app3"]
    assert restorable_hosts(shipped("staging")) == ()


@pytest.mark.parametrize(
    ("status", "serves", "maintenance"),
    [
        ("UP", True, False),
        ("UP 1/2", True, False),
        ("DOWN", False, False),
        ("DRAIN", False, False),
        ("MAINT", False, True),
    ],
)
def test_who_is_served_by_it_is_what_the_load_balancers_say(status: str, serves: bool, maintenance: bool) -> None:
    states = {"lb1": with_app2("lb1", "DOWN"), "lb2": with_app2("lb2", status)}
    assert bool(serving(PRODUCTION, "app2", Color.BLUE, states)) is serves
    assert bool(out_on_purpose(PRODUCTION, "app2", Color.BLUE, states)) is maintenance


def test_a_spare_is_nobodys_server() -> None:
    states = {"lb1": with_app2("lb1", "UP")}
    assert servers_of(PRODUCTION, "app3", states) == {"lb1": []}


def test_a_load_balancer_that_can_not_be_asked_may_send_to_it() -> None:
    with pytest.raises(RestoreRefusedError, match="lb2"):
        live_color(PRODUCTION, {"lb1": balancer("lb1"), "lb2": HostUnreachableError("no connection", host="lb2")})


def test_load_balancers_that_disagree_refuse() -> None:
    with pytest.raises(RestoreRefusedError, match="do not agree"):
        live_color(PRODUCTION, {"lb1": balancer("lb1"), "lb2": balancer("lb2", "bk_green")})
    assert live_color(PRODUCTION, {"lb1": balancer("lb1", "bk_green")}) is Color.GREEN


def test_the_host_runs_what_its_peers_run_not_what_it_ran() -> None:
    peers = {"app1": host("app1", PRODUCTION, blue=NEW), "app2": host("app2", PRODUCTION, blue=OLD)}
    assert what_is_live(PRODUCTION, "app2", Color.BLUE, peers).release_id == NEW


@pytest.mark.parametrize("second", [OLD, None])
def test_peers_that_do_not_tell_one_release_refuse(second: str | None) -> None:
    peers = {"app1": host("app1", PRODUCTION, blue=NEW if second else None)}
    if second:
        peers["app3"] = host("app3", PRODUCTION, blue=second)
    with pytest.raises(RestoreRefusedError, match="the other hosts of blue"):
        what_is_live(PRODUCTION, "app2", Color.BLUE, peers)


def test_the_newest_good_set_is_taken() -> None:
    newest, older = archive_set(days=1, sha256="b" * 64), archive_set(days=2)
    assert chosen_set([newest, older], "app1", "") is newest
    assert chosen_set([newest, older], "app1", "", {newest.label}) is older
    assert chosen_set([newest, older], "app1", older.label) is older


@pytest.mark.parametrize(("label", "said"), [("", "no good backup"), ("20200101T000000Z-00000000", "has no backup")])
def test_without_a_set_nothing_is_touched(label: str, said: str) -> None:
    with pytest.raises(RestoreRefusedError, match=f"{said}.*othing was touched"):
        chosen_set([], "app1", label)


def test_a_damaged_set_is_refused_by_name_too() -> None:
    damaged = archive_set()
    with pytest.raises(RestoreRefusedError, match="is damaged"):
        chosen_set([damaged], "app1", damaged.label, {damaged.label})
