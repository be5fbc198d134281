"""Every kind of mistake in a file: is it found, at the right line and path, with what was expected?"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from sebenza_ops.environments.inventory import load_inventory
from tests.environments.inventory_files import SHIPPED


class Mistake(NamedTuple):
    """`old` becomes `new` in production.yaml; the problem must stand in the line that holds `line`."""

    old: str
    new: str
    line: str
    path: str
    found: str
    expected: str


_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"

MISTAKES = {
    "port out of range": Mistake(
        "https_port: 443", "https_port: 70000", "70000", "load_balancing.https_port", "70000", "less than or equal"
    ),
    "port as text": Mistake(
        "https_port: 443", 'https_port: "443"', '"443"', "load_balancing.https_port", '"443"', "valid integer"
    ),
    "port inside a list": Mistake(
        "      host_key", "      port: 0\n      host_key", "port: 0", "hosts[0].ssh.port", "0", "greater than or equal"
    ),
    "unknown field": Mistake(
        "ssh_conn_id:",
        "ssh_con_id: x\nssh_conn_id:",
        "ssh_con_id: x",
        "ssh_con_id",
        '"x"',
        "did you mean ssh_conn_id? known here: kind, name",
    ),
    "unknown nested field": Mistake(
        "    bake_seconds: 300",
        "    bake_second: 300",
        "bake_second:",
        "policies.blue_green.bake_second",
        "300",
        "did you mean bake_seconds?",
    ),
    "unknown field of a color": Mistake(
        "backend: bk_blue}",
        "backend: bk_blue, prot: 1}",
        "bk_blue",
        "application.colors.blue.prot",
        "1",
        "known here: port, process_port, backend",
    ),
    "unknown field of a channel": Mistake(
        "target: incidents,",
        "target: incidents, level: 1,",
        "incidents",
        "policies.channels.critical[0].level",
        "1",
        "expected no such field",
    ),
    "missing field": Mistake(
        "ssh_conn_id: sebenza_production_ssh",
        "",
        "kind: environment",
        "ssh_conn_id",
        "",
        "expected this field (Airflow connection",
    ),
    "field without a value": Mistake(
        "ssh_conn_id: sebenza_production_ssh", "ssh_conn_id:", "ssh_conn_id:", "ssh_conn_id", "null", "valid string"
    ),
    "missing field in a list": Mistake(
        "    address: 192.0.2.12\n", "", "- name: lb2", "hosts[1].address", "", "expected this field (Host name"
    ),
    "no URL": Mistake(
        "https://app.sebenza.com", "http://app.sebenza.com", "url:", "url", '"http://app', "https://<host name>"
    ),
    "URL with a path": Mistake(
        "https://app.sebenza.com", "https://app.sebenza.com/x", "url:", "url", '"https://app', "without a path"
    ),
    "unknown role": Mistake(
        "[application]", "[aplication]", "aplication", "hosts[2].roles[0]", '"aplication"', "'application'"
    ),
    "no role": Mistake("[application]", "[]", "[]", "hosts[2].roles", "a list", "at least 1 item"),
    "unknown site": Mistake(
        "    address: 192.0.2.21",
        "    site: tertiary\n    address: 192.0.2.21",
        "site: tertiary",
        "hosts[2].site",
        '"tertiary"',
        "expected the name of a site: primary, secondary",
    ),
    "host twice": Mistake(
        "- name: app2", "- name: app1", "- name: app1", "hosts[2].name", '"app1"', "no other host has"
    ),
    "address twice": Mistake(
        "192.0.2.22", "192.0.2.21", "192.0.2.21", "hosts[2].address", '"192.0.2.21"', "of one host only"
    ),
    "address with a port": Mistake(
        "address: 192.0.2.21", "address: 192.0.2.21:22", "192.0.2.21:22", "hosts[2].address", "", "without scheme"
    ),
    "address out of range": Mistake(
        "address: 192.0.2.21", "address: 192.0.2.321", "192.0.2.321", "hosts[2].address", "", "IPv4 address"
    ),
    "ports not distinct": Mistake(
        "port: 8002,", "port: 8001,", "bk_blue", "application.colors.blue.port", "8001", "neither color uses otherwise"
    ),
    "backends not distinct": Mistake(
        "backend: bk_green",
        "backend: bk_blue",
        "bk_blue",
        "application.colors.blue.backend",
        '"bk_blue"',
        "of its own",
    ),
    "one color only": Mistake(
        "    green: {port: 8002, process_port: 3002, backend: bk_green}\n",
        "",
        "colors:",
        "application.colors",
        "",
        "green is missing",
    ),
    "third color": Mistake(
        "    green: {", "    red: {", "red: {", "application.colors.red", "a mapping", "'blue' or 'green'"
    ),
    "relative path": Mistake(
        "  processes_per_host: 2",
        "  processes_per_host: 2\n  releases_dir: srv/x",
        "srv/x",
        "application.releases_dir",
        '"srv/x"',
        "an absolute path",
    ),
    "path with dots": Mistake(
        "  processes_per_host: 2",
        "  processes_per_host: 2\n  releases_dir: /srv/../etc",
        "/srv/../etc",
        "application.releases_dir",
        "",
        "without '..'",
    ),
    "host key of no known type": Mistake(
        _KEY, "ssh-dss AAAA", "ssh-dss", "hosts[0].ssh.host_key", "", "as `ssh-keyscan -t ed25519 HOST` prints it"
    ),
    "host key that is not base64": Mistake(
        _KEY, "ssh-ed25519 ???", "ssh-ed25519 ???", "hosts[0].ssh.host_key", "", "ssh-ed25519 AAAA..."
    ),
    "host key of another type than it says": Mistake(
        _KEY, "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAI", "ssh-rsa", "hosts[0].ssh.host_key", "", "not a key of type ssh-rsa"
    ),
    "endpoint without a port": Mistake(
        "db.sebenza.com:5432", "db.sebenza.com", "endpoint: db", "database.endpoint", "", "expected host:port"
    ),
    "ratio in percent": Mistake(
        "cpu_ratio: 0.80", "cpu_ratio: 80", "cpu_ratio: 80", "policies.thresholds.cpu_ratio", "80", "less than or"
    ),
    "yes is not true": Mistake(
        "exclude_author: true",
        "exclude_author: yes",
        "exclude_author: yes",
        "policies.approvals.exclude_author",
        '"yes"',
        "valid boolean",
    ),
    "unknown channel": Mistake(
        "{type: pagerduty", "{type: pager", "type: pager,", "policies.channels.critical[0]", "", "'slack', 'pagerduty'"
    ),
    "channel without its #": Mistake(
        '"#alerts-critical"',
        "alerts-critical",
        "target: alerts-critical",
        "policies.channels.critical[1].target",
        '"alerts-critical"',
        "expected text of the form ^#",
    ),
    "time without quotes": Mistake(
        'start: "02:00"',
        "start: 200",
        "start: 200",
        "policies.maintenance_windows.scheduled[0].start",
        "200",
        'for example "02:00"',
    ),
    "window that ends before it starts": Mistake(
        'end: "04:00"',
        'end: "01:30"',
        "01:30",
        "policies.maintenance_windows.scheduled[0].end",
        "",
        "a time after start",
    ),
    "hold notice too late": Mistake(
        "    bake_seconds: 300",
        "    notify_hold_after_seconds: 61",
        "61",
        "policies.blue_green.notify_hold_after_seconds",
        "61",
        "less than or equal to 60",
    ),
    "more replicas than hosts": Mistake(
        "replicas: 1", "replicas: 2", "replicas: 2", "database.replicas", "2", "3 hosts with role database, found 2"
    ),
    "scaling upside down": Mistake(
        "maximum_hosts: 6",
        "maximum_hosts: 1",
        "maximum_hosts: 1",
        "policies.scaling.maximum_hosts",
        "1",
        "at least minimum_hosts (2)",
    ),
    "full monitoring without Prometheus": Mistake(
        "  prometheus_conn_id: sebenza_prometheus\n",
        "",
        "monitoring:",
        "monitoring.prometheus_conn_id",
        "",
        "because level is full",
    ),
    "name differs from the file's": Mistake(
        "name: production", "name: staging", "name: staging", "name", '"staging"', "name of the file, production"
    ),
    "name that is no NODE_ENV": Mistake(
        "name: production", "name: qa", "settings:", "application.settings.environment", "", "production, staging"
    ),
    "wrong kind": Mistake("kind: environment", "kind: host", "kind: host", "kind", '"host"', "environment, build"),
    "no kind": Mistake("kind: environment\n", "", "", "kind", "nothing", "environment, build"),
    "duplicate key": Mistake(
        "  https_port: 443",
        "  https_port: 443\n  https_port: 8443",
        "8443",
        "load_balancing.https_port",
        "",
        "stands in line",
    ),
    "tab": Mistake("  https_port: 443", "\thttps_port: 443", "\thttps_port", "", "", "does not allow tabs"),
    "unclosed bracket": Mistake("roles: [application]", "roles: [application", "ssh:", "", "", "expected valid YAML"),
    "two documents": Mistake("sites:", "---\nsites:", "---", "", "", "expected valid YAML"),
    "code in YAML": Mistake(
        "name: production",
        "name: !!python/object:os.system production",
        "python/object",
        "name",
        "",
        "without the tag",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_where_it_stands(files, name):
    mistake = MISTAKES[name]
    file = files.edit("production", mistake.old, mistake.new)

    inventory = load_inventory(files.directory)

    assert list(inventory.errors) == [str(file)]
    assert sorted(inventory.environments) == ["development", "staging"]
    problems = inventory.errors[str(file)].problems
    matching = [problem for problem in problems if problem.path == mistake.path]
    assert len(matching) == 1, "\n".join(map(str, problems))
    problem = matching[0]
    assert mistake.line in file.read_text(encoding="utf-8").splitlines()[problem.line - 1]
    assert problem.value.startswith(mistake.found)
    assert mistake.expected in problem.expected
    assert f"{file}:{problem.line}:" in str(problem)


def test_every_mistake_of_a_file_is_reported_at_once(files):
    files.edit("production", "https_port: 443", "https_port: 0")
    files.edit("production", "cpu_ratio: 0.80", "cpu_ratio: 80")
    file = files.edit("production", "ssh_conn_id: sebenza_production_ssh", "")

    problems = load_inventory(files.directory).errors[str(file)].problems

    assert {problem.path for problem in problems} == {
        "ssh_conn_id",
        "load_balancing.https_port",
        "policies.thresholds.cpu_ratio",
    }
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)


def test_contradictions_are_all_reported(files):
    files.edit("production", "replicas: 1", "replicas: 2")
    file = files.edit("production", "- name: app2", "- name: app1")

    problems = load_inventory(files.directory).errors[str(file)].problems

    assert [problem.path for problem in problems] == ["hosts[2].name", "hosts[3].name", "database.replicas"]


@pytest.mark.parametrize("role", ["load_balancer", "application"])
def test_blue_green_needs_load_balancers_and_application_hosts(files, role):
    file = files.path("production")
    file.write_text(file.read_text(encoding="utf-8").replace(f"[{role}]", "[log]"), encoding="utf-8")

    problems = load_inventory(files.directory).errors[str(file)].problems

    assert {problem.path for problem in problems} <= {"hosts", *(f"sites[{n}].public_addresses" for n in (0, 1))}
    assert any(f"at least one host with role {role}" in problem.expected for problem in problems)
    assert any(f"a host with role {role} at site secondary" in problem.expected for problem in problems)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("https://app.sebenza.com", "https://ops:hunter2@app.sebenza.com", "url"),
        ("192.0.2.41:6379", "redis://:hunter2@192.0.2.41:6379", "cache.address"),
        ("db.sebenza.com:5432", "postgresql://u:hunter2@db.sebenza.com:5432/x", "database.endpoint"),
        ("warm_up_paths: [/health", 'warm_up_paths: ["http://u:hunter2@x/"', "application.warm_up_paths[0]"),
        ("description: What", "description: see https://u:hunter2@x/ What", "description"),
    ],
)
def test_credentials_are_refused_and_never_shown(files, old, new, path):
    file = files.edit("production", old, new)

    error = load_inventory(files.directory).errors[str(file)]

    assert [problem.path for problem in error.problems] == [path]
    assert "Airflow connection" in error.problems[0].expected
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("field", ["password", "db_password", "api_key", "auth_token", "client_secret"])
def test_a_field_for_a_secret_is_refused_and_its_value_never_shown(files, field):
    file = files.edit("production", "  data: live", f"  data: live\n  {field}: hunter2")

    error = load_inventory(files.directory).errors[str(file)]

    assert [problem.path for problem in error.problems] == [f"database.{field}"]
    assert "Airflow connection" in error.problems[0].expected
    assert "hunter2" not in str(error)


def test_a_syntax_error_in_a_secret_line_does_not_show_it(files):
    file = files.edit("production", "ssh_conn_id:", "password: hunter2: x\nssh_conn_id:")

    error = load_inventory(files.directory).errors[str(file)]

    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "begins with `kind: environment`"),
        (b"- a\n- b\n", "begins with `kind: environment`"),
        (b"kind: environment\nname: \xff\n", "expected UTF-8"),
        (b"kind: environment\nhosts: &a [*a]\n", "no alias to its own parent"),
        (b"kind: environment\n? [a]\n: b\n", "a plain name as key"),
    ],
)
def test_a_file_that_is_no_mapping_is_reported(files, content, expected):
    files.path("production").write_bytes(content)

    error = load_inventory(files.directory).errors[str(files.path("production"))]

    assert expected in str(error)


def test_a_file_that_would_be_overlooked_is_reported(files):
    file = files.path("production").rename(files.directory / "production.yml")

    inventory = load_inventory(files.directory)

    assert "ends in .yaml" in str(inventory.errors[str(file)])
    assert "production" not in inventory.environments


def test_the_only_wrong_item_of_a_list_is_one_mistake(files):
    file = files.edit("production", "[application]", "[aplication]")

    problems = load_inventory(files.directory).errors[str(file)].problems

    assert [problem.path for problem in problems] == ["hosts[2].roles[0]"]


def test_the_users_guide_shows_what_is_really_printed(files):
    files.edit("production", "replicas: 1", "replicas: one")
    files.edit("production", "https_port: 443", "https_port: 70000")
    file = files.edit("production", "bucket: sebenza\n\n", "buckets: sebenza\n\n")

    printed = str(load_inventory(files.directory).errors[str(file)])

    guide = (SHIPPED.parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    assert printed.replace(f"{files.directory}/", "include/environments/") in guide
