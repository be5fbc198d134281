"""What is live by the systems themselves, and the plan that follows from it."""

from dataclasses import replace

import pytest

from sebenza_ops.deployment.plan import AlreadyLiveError, DeploymentConflictError, make_plan
from sebenza_ops.deployment.reconcile import Reconciliation, reconcile
from sebenza_ops.deployment.release import Release
from sebenza_ops.environments.models import Color
from sebenza_ops.systems.errors import HostUnreachableError
from tests.deployment.estate import NEW, OLD, balancer, host, production

ENVIRONMENT = production()
RELEASE = Release(
    version="v1.1.0",
    sha="b" * 40,
    release_id=NEW,
    sha256="c" * 64,
    size_bytes=1000,
    node_version="20.0.0",
    schema_revision=2,
)


def found(balancers=None, hosts=None, converge_to=None) -> Reconciliation:
    balancers = balancers or {name: balancer(name) for name in ("lb1", "lb2")}
    hosts = hosts or {name: host(name, ENVIRONMENT, blue=OLD) for name in ("app1", "app2")}
    return reconcile(ENVIRONMENT.application, balancers, hosts, converge_to)


def plan(reconciliation: Reconciliation):
    return make_plan(ENVIRONMENT, RELEASE, reconciliation, bake_seconds=10, keep_warm_seconds=60)


def test_everything_agrees():
    result = found()
    assert (result.live_color, result.live_release, result.idle_release) == (Color.BLUE, OLD, None)
    assert not result.conflicts
    assert not result.repairs


@pytest.mark.parametrize(
    ("marker", "shown"), [(None, "no file"), ("", "empty"), ("garbage\x00", "garbage"), ("green", "green")]
)
def test_a_marker_that_lies_is_repaired_from_the_load_balancers(marker, shown):
    """The manual's script takes a missing marker for green and deploys to blue, which is live."""
    result = found({"lb1": balancer("lb1", marker=marker), "lb2": balancer("lb2")})
    assert result.live_color is Color.BLUE
    assert shown in result.repairs["lb1"]
    assert plan(result).to_color is Color.GREEN


@pytest.mark.parametrize("marker", [None, "", "garbage", "green"])
def test_an_application_hosts_marker_that_lies_is_repaired_too(marker):
    hosts = {
        "app1": replace(host("app1", ENVIRONMENT, blue=OLD), marker=marker),
        "app2": host("app2", ENVIRONMENT, blue=OLD),
    }
    made = plan(found(hosts=hosts))
    assert list(made.repairs) == ["app1"]
    assert any(step.host == "app1" and "repair" in step.action for step in made.steps)


def test_a_wrong_marker_is_no_reason_to_deploy_what_is_live():
    hosts = {name: replace(host(name, ENVIRONMENT, blue=NEW), marker=None) for name in ("app1", "app2")}
    with pytest.raises(AlreadyLiveError):
        plan(found(hosts=hosts))


def test_hosts_that_remember_different_last_good_releases_are_named():
    hosts = {
        "app1": host("app1", ENVIRONMENT, blue=OLD),
        "app2": replace(host("app2", ENVIRONMENT, blue=OLD), last_good_release=None),
    }
    assert any("app2 says nothing" in warning for warning in plan(found(hosts=hosts)).warnings)


def test_a_map_file_ahead_of_the_running_process_is_repaired():
    result = found({"lb1": balancer("lb1", file_backend="bk_green"), "lb2": balancer("lb2")})
    assert "the map file says bk_green" in result.repairs["lb1"]


def test_load_balancers_that_disagree_stop_everything():
    result = found({"lb1": balancer("lb1"), "lb2": balancer("lb2", "bk_green")})
    assert result.live_color is None
    with pytest.raises(DeploymentConflictError, match=r"disagree.*converge_to"):
        plan(result)


def test_an_operator_may_choose_the_color_to_keep():
    balancers = {"lb1": balancer("lb1"), "lb2": balancer("lb2", "bk_green")}
    result = found(balancers, converge_to=Color.BLUE)
    assert result.live_color is Color.BLUE
    assert "the running HAProxy sends to bk_green" in result.repairs["lb2"]


def test_the_choice_means_nothing_while_load_balancers_agree():
    assert found(converge_to=Color.GREEN).live_color is Color.BLUE


@pytest.mark.parametrize("backend", ["bk_gone", None])
def test_a_backend_that_is_no_color_stops_everything(backend):
    result = found({"lb1": balancer("lb1", backend), "lb2": balancer("lb2")})
    assert result.live_color is None
    assert "names no color's backend" in result.conflicts[0]


def test_an_unreachable_load_balancer_is_a_conflict_that_names_it():
    result = found({"lb1": balancer("lb1"), "lb2": HostUnreachableError("timed out", host="lb2")})
    with pytest.raises(DeploymentConflictError, match="lb2: timed out"):
        plan(result)


def test_a_host_without_pm2_is_a_conflict():
    dead = host("app2", ENVIRONMENT)
    dead = type(dead)("app2", None, (), 0, None, None)
    result = found(hosts={"app1": host("app1", ENVIRONMENT, blue=OLD), "app2": dead})
    assert any("app2: PM2's daemon does not run" in conflict for conflict in result.conflicts)


def test_hosts_of_the_live_color_with_different_releases_are_a_conflict():
    result = found(hosts={"app1": host("app1", ENVIRONMENT, blue=OLD), "app2": host("app2", ENVIRONMENT, blue=NEW)})
    assert any("different releases" in conflict for conflict in result.conflicts)


def test_a_host_whose_live_color_is_down_is_a_warning():
    result = found(hosts={"app1": host("app1", ENVIRONMENT, blue=OLD), "app2": host("app2", ENVIRONMENT)})
    assert not result.conflicts
    assert any("app2" in warning for warning in result.warnings)


def test_a_release_that_is_live_is_nothing_to_do():
    live = found(hosts={name: host(name, ENVIRONMENT, blue=NEW) for name in ("app1", "app2")})
    with pytest.raises(AlreadyLiveError, match="already"):
        plan(live)


def test_the_plan_names_every_host_and_leaves_the_spare_alone():
    steps = plan(found(hosts={name: host(name, ENVIRONMENT, blue=OLD, green="v0.9.0-x") for name in ("app1", "app2")}))
    by_host = {step.host for step in steps.steps}
    assert by_host == {"app1", "app2", "lb1", "lb2"}
    assert "in place of v0.9.0-x" in steps.text()
    assert "bk_green in place of bk_blue" in steps.text()
