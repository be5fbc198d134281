"""Services of a host: what the managers' answers mean, and moving one for real under the lab's supervisor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.waiting import accepts_connections
from sebenza_ops.environments.components import Service
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.systems.errors import FencedOffError, NoDataError
from sebenza_ops.systems.services import (
    Services,
    ServiceState,
    ServiceStateError,
    parse_supervisor,
    parse_systemd,
    services_of,
)
from sebenza_ops.systems.ssh import Fence, open_session


@pytest.mark.parametrize(
    ("load", "active", "expected"),
    [
        ("loaded", "active", ServiceState.RUNNING),
        ("loaded", "reloading", ServiceState.RUNNING),
        ("loaded", "inactive", ServiceState.STOPPED),
        ("loaded", "failed", ServiceState.FAILED),
        ("loaded", "activating", ServiceState.CHANGING),
        ("loaded", "deactivating", ServiceState.CHANGING),
        ("masked", "inactive", ServiceState.FENCED),
        ("masked", "failed", ServiceState.FENCED),
        # Masked while it ran: it is no fence as long as it works.
        ("masked", "active", ServiceState.RUNNING),
    ],
)
def test_what_systemd_says(load: str, active: str, expected: ServiceState) -> None:
    text = f"MainPID=12\nLoadState={load}\nActiveState={active}\nSubState=x\n"

    assert parse_systemd("app1", "nginx.service", text).state is expected
    assert parse_systemd("app1", "nginx.service", text).pid == 12


@pytest.mark.parametrize("text", ["", "LoadState=not-found\nActiveState=inactive\n", "ActiveState=odd\n"])
def test_a_unit_that_systemd_does_not_know_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match=r"app1: systemd does not know nginx\.service"):
        parse_systemd("app1", "nginx.service", text)


@pytest.mark.parametrize(
    ("text", "state", "pid"),
    [
        ("nginx RUNNING   pid 77, uptime 0:00:10", ServiceState.RUNNING, 77),
        ("nginx STOPPED   Nov 25 03:00 PM", ServiceState.STOPPED, 0),
        ("nginx FATAL     Exited too quickly", ServiceState.FAILED, 0),
        ("nginx BACKOFF   Exited too quickly", ServiceState.CHANGING, 0),
        ("nginx: ERROR (no such process)", ServiceState.FENCED, 0),
    ],
)
def test_what_supervisor_says(text: str, state: ServiceState, pid: int) -> None:
    status = parse_supervisor("app1", "nginx", text)

    assert (status.state, status.pid) == (state, pid)


@pytest.mark.parametrize("text", ["", "unix:///run/x refused connection", "redis RUNNING pid 1", "nginx ODD"])
def test_what_is_no_answer_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match="app1: supervisor gives no state of nginx"):
        parse_supervisor("app1", "nginx", text)


@pytest.fixture
def spare(estate: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The services of app3, which serves nobody."""
    environment = load_inventory(estate.environments_dir).environments["production"]
    connection = json.dumps(estate.connections[environment.ssh_conn_id])
    monkeypatch.setenv(f"AIRFLOW_CONN_{environment.ssh_conn_id.upper()}", connection)
    with open_session(environment.host("app3"), environment.ssh_conn_id) as session:
        yield services_of(session, environment)


# An environment of its own, so that no deployment of the lab is fenced off by these tokens.
def _fence(token: int) -> Fence:
    return Fence("services-test", token, "tests/services")


@pytest.mark.lab
def test_a_service_is_moved_and_repeating_it_is_harmless(spare: Services, estate: Any) -> None:
    fence = _fence(10)
    first = spare.start(Service.NGINX, fence)
    assert first.state is ServiceState.RUNNING

    assert spare.reload(Service.NGINX, fence).pid == first.pid
    assert spare.restart(Service.NGINX, fence).pid not in (0, first.pid)
    for _ in range(2):
        assert spare.stop(Service.NGINX, fence).state is ServiceState.STOPPED
        assert not accepts_connections(estate.address("app3"), 8001)
    for _ in range(2):
        assert spare.start(Service.NGINX, fence).state is ServiceState.RUNNING


@pytest.mark.lab
def test_a_fenced_service_stays_down_until_the_fence_is_lifted(spare: Services) -> None:
    fence = _fence(11)
    try:
        for _ in range(2):
            assert spare.fence(Service.NGINX, fence).state is ServiceState.FENCED
        with pytest.raises(ServiceStateError, match="nginx is fenced, it was not started"):
            spare.start(Service.NGINX, fence)
    finally:
        lifted = spare.lift_fence(Service.NGINX, fence)
        started = spare.start(Service.NGINX, fence)

    assert lifted.state is not ServiceState.FENCED
    assert started.state is ServiceState.RUNNING


@pytest.mark.lab
def test_a_superseded_run_moves_nothing(spare: Services) -> None:
    before = spare.start(Service.NGINX, _fence(20))

    with pytest.raises(FencedOffError):
        spare.stop(Service.NGINX, _fence(19))

    assert spare.status(Service.NGINX).pid == before.pid


@pytest.mark.lab
def test_what_can_not_reload_says_so_and_goes_on(spare: Services) -> None:
    before = spare.status(Service.PM2)

    with pytest.raises(ServiceStateError, match="restart it"):
        spare.reload(Service.PM2, _fence(30))

    assert spare.status(Service.PM2).pid == before.pid
