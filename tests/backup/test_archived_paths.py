"""What of a host is archived, by its roles and its service manager."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy, ArchivedPath
from sebenza_ops.environments.archived_paths import archived_paths, excluded_paths
from tests.systems.estates import changed, shipped

PRODUCTION = shipped("production")
POLICY = ApplicationBackupPolicy(ssh_conn_id="root", cipher_conn_id="key")


def paths(host: str, policy: ApplicationBackupPolicy = POLICY) -> dict[str, ArchivedPath]:
    return {each.path: each for each in archived_paths(PRODUCTION, PRODUCTION.host(host), policy)}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("lb1", {"/etc/haproxy", "/var/deployment", "/etc/systemd/system/haproxy.service"}),
        (
            "app1",
            {"/srv/sebenza/releases", "/srv/sebenza/colors", "/etc/nginx", "/etc/systemd/system/pm2-sebenza.service"},
        ),
        ("db1", {"/etc/postgresql", "/etc/pgbackrest.conf"}),
        ("dbendpoint", {"/etc/haproxy"}),
        ("cache", {"/etc/redis"}),
    ],
)
def test_each_role_has_its_places(host: str, expected: set[str]) -> None:
    assert expected <= paths(host).keys()


def test_logs_and_fences_are_places_without_content() -> None:
    found = paths("app1")
    assert not found["/var/log/sebenza"].content
    assert not found["/home/sebenza/.pm2"].content, "PM2's dump has every secret of every process"
    assert "/var/lib/sebenza/*" in excluded_paths(PRODUCTION), "a fence that comes back lets an old run in"


def test_the_inventory_adds_places_by_role() -> None:
    more = {"application": [{"path": "/etc/logrotate.d/sebenza*"}]}
    policy = ApplicationBackupPolicy.model_validate({**POLICY.model_dump(), "paths": more})
    assert "/etc/logrotate.d/sebenza*" in paths("app1", policy)
    assert "/etc/logrotate.d/sebenza*" not in paths("lb1", policy)


def test_the_labs_services_are_in_the_supervisors_configuration() -> None:
    lab = changed("production", service_manager={"kind": "supervisor"})
    found = [each.path for each in archived_paths(lab, lab.host("app1"), POLICY)]
    assert "/etc/supervisor" in found
    assert not [path for path in found if "systemd" in path]


@pytest.mark.parametrize("path", ["/etc/../root", "/etc/$(id)", "relative", "/etc/a b", "/etc/nginx/"])
def test_what_could_be_more_than_a_pattern_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        ArchivedPath(path=path)
