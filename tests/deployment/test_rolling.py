"""Rolling deployments: the plan, what counts as in rotation, and which servers are judged."""

from dataclasses import replace

import pytest

from sebenza_ops.deployment.observe import TrafficHistory
from sebenza_ops.deployment.plan import (
    AlreadyLiveError,
    DeploymentConflictError,
    DeploymentPlan,
    ReleaseRefusedError,
    make_rolling_plan,
)
from sebenza_ops.deployment.reconcile import reconcile
from sebenza_ops.deployment.rotation import drained_hosts, too_few_in_rotation
from sebenza_ops.environments.models import Color
from sebenza_ops.systems.errors import HostUnreachableError
from sebenza_ops.systems.haproxy import BackendState, ServerState
from tests.deployment.estate import NEW, OLD, balancer, host, production
from tests.deployment.test_reconcile_and_plan import RELEASE

ENVIRONMENT = production()


def plan(hosts=None, balancers=None, **changes) -> DeploymentPlan:
    balancers = balancers or {name: balancer(name) for name in ("lb1", "lb2")}
    hosts = hosts or {name: host(name, ENVIRONMENT, blue=OLD) for name in ("app1", "app2")}
    found = reconcile(ENVIRONMENT.application, balancers, hosts, allow_mixed=True)
    values = {"batch_size": 1, "minimum_in_rotation": 1, "watch_seconds": 30, "bake_seconds": 300, **changes}
    return make_rolling_plan(ENVIRONMENT, RELEASE, found, **values)


def servers(**statuses: str) -> BackendState:
    found = tuple(ServerState(name, status, 0) for name, status in statuses.items())
    return BackendState("bk_blue", 0, 0, 0, 0, 0, found)


def with_servers(name: str, **statuses: str):
    return balancer(name, backends={"bk_blue": servers(**statuses), "bk_green": servers(**statuses)})


def test_hosts_are_changed_inside_the_live_color_one_after_another():
    made = plan()
    assert (made.from_color, made.to_color, made.strategy) == (Color.BLUE, Color.BLUE, "rolling")
    assert made.batches == (("app1",), ("app2",))
    assert made.previous == {"app1": OLD, "app2": OLD}
    assert [step.host for step in made.steps] == ["app1", "app2"]
    assert "the hosts that have it go back to" in made.way_back


@pytest.mark.parametrize(("size", "minimum"), [(2, 1), (1, 2), (3, 1)])
def test_too_few_hosts_for_the_minimum_are_refused(size, minimum):
    with pytest.raises(ReleaseRefusedError, match=f"batch_size {size}: of 2 application hosts only"):
        plan(batch_size=size, minimum_in_rotation=minimum)


def test_a_rollout_that_could_not_go_back_is_no_obstacle():
    mixed = {"app1": host("app1", ENVIRONMENT, blue=NEW), "app2": host("app2", ENVIRONMENT, blue=OLD)}
    made = plan(mixed)
    assert made.previous == {"app1": OLD, "app2": OLD}, "app1 would go back to the release that is deployed"
    assert any("different releases" in text for text in made.warnings)


def test_each_host_goes_back_to_what_it_ran():
    other = "v0.9.0-cccccccccccc"
    mixed = {"app1": host("app1", ENVIRONMENT, blue=other), "app2": host("app2", ENVIRONMENT, blue=OLD)}
    assert plan(mixed).previous == {"app1": other, "app2": OLD}


def test_what_runs_everywhere_is_nothing_to_do():
    with pytest.raises(AlreadyLiveError):
        plan({name: host(name, ENVIRONMENT, blue=NEW) for name in ("app1", "app2")})


def test_without_a_release_to_go_back_to_there_is_no_plan():
    with pytest.raises(DeploymentConflictError, match="could be gone back to"):
        plan({name: host(name, ENVIRONMENT) for name in ("app1", "app2")})


def test_a_host_without_traffic_is_changed_first():
    assert plan(out_of_rotation={"app2"}).hosts == ("app2", "app1")


def test_a_host_that_can_not_be_asked_is_a_conflict():
    lost = {"app1": host("app1", ENVIRONMENT, blue=OLD), "app2": HostUnreachableError("no connection", host="app2")}
    with pytest.raises(DeploymentConflictError, match="app2"):
        plan(lost)


def test_drained_on_one_load_balancer_is_drained():
    states = {"lb1": with_servers("lb1", app1="UP", app2="UP"), "lb2": with_servers("lb2", app1="DRAIN", app2="UP")}
    assert drained_hosts(ENVIRONMENT, Color.BLUE, states) == {"app1"}


@pytest.mark.parametrize(
    ("status", "few"), [("UP", False), ("UP 1/2", False), ("DOWN", True), ("DRAIN", True), ("MAINT", True)]
)
def test_only_servers_that_get_requests_count_for_the_minimum(status, few):
    states = {
        "lb1": with_servers("lb1", app1="DRAIN", app2="UP"),
        "lb2": with_servers("lb2", app1="DRAIN", app2=status),
    }
    found = too_few_in_rotation(ENVIRONMENT, Color.BLUE, states, {"app1"}, 1)
    assert bool(found) is few
    assert all("lb2" in text for text in found)


def test_only_the_hosts_that_have_the_release_are_judged():
    def seen(app1: tuple[int, int], app2: tuple[int, int]):
        found = tuple(
            ServerState(name, "UP", 0, requests_total=requests, responses_5xx=errors)
            for name, (requests, errors) in {"app1": app1, "app2": app2}.items()
        )
        total = BackendState("bk_blue", app1[0] + app2[0], app1[1] + app2[1], 0, 0, 0, found)
        return {"lb1": balancer("lb1", backends={"bk_blue": total, "bk_green": servers()})}

    history = TrafficHistory(ENVIRONMENT, servers=frozenset({"app1"}))
    history.add(seen((10, 0), (10, 5)), Color.BLUE, 1.0)
    history.add(seen((14, 1), (30, 9)), Color.BLUE, 2.0)
    assert (history.deltas[-1].requests, history.deltas[-1].errors) == (4, 1)
    history.servers = frozenset({"app1", "app2"})
    history.add(seen((15, 1), (32, 9)), Color.BLUE, 3.0)
    assert (history.deltas[-1].requests, history.deltas[-1].errors) == (3, 0)
    # HAProxy was restarted: what it shows is what came since.
    restarted = seen((2, 1), (3, 0))
    restarted["lb1"] = replace(restarted["lb1"], process_id=2)
    history.add(restarted, Color.BLUE, 4.0)
    assert (history.deltas[-1].requests, history.deltas[-1].errors) == (5, 1)
