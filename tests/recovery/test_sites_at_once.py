"""Work on hosts of several sites: each with its own site's parts, and a site that is gone costs its time-out once."""

from __future__ import annotations

from typing import Any

import pytest

from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.recovery import sites
from sebenza_ops.recovery.sites import on_sites, remembered_silence
from sebenza_ops.systems.errors import HostUnreachableError, NoDataError
from sebenza_ops.systems.ssh import HostSession
from tests.systems.estates import changed


class Session:
    def __init__(self, host: Any) -> None:
        self.host = host


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which hosts were logged in to; those of the primary site do not answer."""
    found: list[str] = []

    def on_hosts(hosts: Any, conn_id: str, action: Any) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for host in hosts:
            found.append(host.name)
            silent = HostUnreachableError("timed out", host=host.name)
            answers[host.name] = silent if host.site == "primary" else action(Session(host))
        return answers

    monkeypatch.setattr(sites, "on_hosts", on_hosts)
    return found


def endpoint_of(placed: Environment, session: HostSession) -> str:
    return placed.database.endpoint


def test_every_host_is_met_as_its_own_site_has_it(tried: list[str]) -> None:
    environment = changed("production")
    hosts = [environment.host("db1"), environment.host("db3")]
    answers = on_sites(environment, hosts, endpoint_of)
    assert isinstance(answers["db1"], HostUnreachableError)
    assert answers["db3"] == "db.secondary.sebenza.com:5432"


def test_a_silent_host_is_tried_once_within_one_look_and_anew_in_the_next(tried: list[str]) -> None:
    environment = changed("production")
    hosts = [environment.host(name) for name in ("db1", "db2", "db3")]
    for _ in range(2):
        with remembered_silence():
            first, second = (on_sites(environment, hosts, endpoint_of, as_owner=True) for _ in range(2))
        assert {name: str(answer) for name, answer in first.items()} == {
            name: str(answer) for name, answer in second.items()
        }
    assert tried == ["db1", "db2", "db3", "db3"] * 2
    on_sites(environment, hosts, endpoint_of)
    assert tried[8:] == ["db1", "db2", "db3"], "outside of it nothing is remembered"


def test_a_host_that_answers_badly_is_asked_again(tried: list[str]) -> None:
    environment = changed("production")

    def bad(placed: Environment, session: HostSession) -> str:
        raise NoDataError("nonsense", host="db3")

    db3 = environment.hosts_with_role(Role.DATABASE, site="secondary")
    with remembered_silence():
        for _ in range(2):
            with pytest.raises(NoDataError):
                on_sites(environment, db3, bad)
    assert tried == ["db3", "db3"]
