"""One broken thing, one finding that names it, with the change that mends it; and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from sebenza_ops.environments.models import Color
from sebenza_ops.estate.findings import Verdict
from sebenza_ops.estate.gathered import ClockReading, EstateReading, LedgerReading, ServiceReading
from sebenza_ops.systems.errors import HostUnreachableError
from tests.estate.readings import NOW, broken, healthy, report

WARNING, MISSING, NO_DATA = Verdict.WARNING, Verdict.MISSING, Verdict.NO_DATA


def test_a_healthy_estate_has_nothing_to_mend() -> None:
    found = report(healthy())

    assert [finding for finding in found.findings if finding.verdict is not Verdict.OK] == []
    assert found.is_ready
    assert len(found.findings) > 100


@dataclass(frozen=True)
class Case:
    """A part of one host's answers that is replaced, and what must come of it."""

    host: str
    script: str
    part: str
    text: str
    check: str
    verdict: Verdict
    fix: str

    def __str__(self) -> str:
        return f"{self.host}-{self.check}-{self.text[:20]}"


APPLICATION, BALANCER, HOST, BUILD = "check_application", "check_load_balancer", "check_host", "check_build"
MAP_LINE = "use_backend %[str(active),map(/etc/haproxy/maps/color.map,bk_none)]"
FRONTEND = "frontend fe_https\n    bind :443\n"

CASES = [
    Case("app1", HOST, "identity", "deploy deploy", "login", MISSING, "login sebenza"),
    Case("lb1", HOST, "sync", "no", "sync", MISSING, "apt-get install -y coreutils"),
    Case("app1", HOST, "temporary", "/tmp no", "temporary files", MISSING, "chmod 1777 /tmp"),
    Case("app2", HOST, "fence", "garbage", "fence", MISSING, "rm /var/lib/sebenza/fence-production"),
    Case("app2", HOST, "fence", "", "fence", MISSING, "rm /var/lib/sebenza/fence-production"),
    Case("app1", APPLICATION, "pm2", "", "PM2", MISSING, "npm install -g pm2"),
    Case("app1", APPLICATION, "pm2", "4.5.6", "PM2", MISSING, "npm install -g pm2"),
    Case("app1", APPLICATION, "daemon", "900 root yes", "PM2 daemon", MISSING, "sudo -u root"),
    Case("app1", APPLICATION, "daemon", "900 sebenza no", "PM2 daemon", MISSING, "chown -R sebenza:"),
    Case("app1", APPLICATION, "marker", "green", "marker", WARNING, "'%s\\n' blue >/var/deployment/current-color"),
    Case("app1", APPLICATION, "marker", "!missing", "marker", WARNING, "current-color"),
    Case("app1", APPLICATION, "env_files", "blue sebenza 644", "secrecy of blue's settings", MISSING, "chmod 600"),
    Case("app1", APPLICATION, "saved", "!none", "pm2 save", WARNING, "save --force"),
    Case("app1", "check_transfer", "transfer", "6 000 none\ncurl: (6) no host", "fetch a release", MISSING, "curl"),
    Case("app1", "check_transfer", "transfer", "0 403 none", "fetch a release", MISSING, "clock"),
    Case("app1", "check_transfer", "transfer", f"0 200 {'b' * 64}", "fetch a release", MISSING, "proxy"),
    Case("lb1", BALANCER, "socket", "!missing", "admin socket", MISSING, "level admin"),
    Case("lb1", BALANCER, "socket", "no root:root 600", "admin socket", MISSING, "group sebenza level admin"),
    Case("lb1", BALANCER, "level", "operator", "admin socket", MISSING, "haproxy -c -f"),
    Case("lb1", BALANCER, "info", "Version: 2.2.9", "HAProxy version", MISSING, "apt-get"),
    Case("lb1", BALANCER, "config", FRONTEND, "map in configuration", MISSING, MAP_LINE),
    Case("lb1", BALANCER, "config", "frontend www\n", "map in configuration", MISSING, MAP_LINE),
    Case("lb1", BALANCER, "config", "!unreadable", "map in configuration", WARNING, "chmod o+r"),
    Case(
        "lb1",
        BALANCER,
        "config",
        FRONTEND + "    use_backend %[str(active),map(/etc/haproxy/maps/color.map,bk_blue)]\n",
        "map in configuration",
        WARNING,
        MAP_LINE,
    ),
    Case("lb1", BALANCER, "file", "active bk_green", "map", MISSING, "'active bk_blue' | sudo tee"),
    Case("lb1", BALANCER, "file", "!missing", "map", MISSING, "'active bk_blue' | sudo tee"),
    Case("lb1", BALANCER, "map", "0x1 active bk_typo", "map", MISSING, "add map"),
    Case("lb1", BALANCER, "maps", "", "map", MISSING, MAP_LINE),
    Case("lb1", BALANCER, "marker", "", "marker", WARNING, "current-color"),
    Case("build", BUILD, "repository", "!error fatal: not a git repository", "repository", MISSING, "clone --bare"),
    Case("build", BUILD, "repository", "tags 0", "repository", WARNING, "--tags"),
    Case("build", BUILD, "node", "v20.1.0", "Node.js", WARNING, "nodejs"),
    Case("build", BUILD, "npm", "!missing", "npm", MISSING, "nodejs npm"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_part_is_found(case: Case) -> None:
    reading = healthy()
    host = reading.hosts[case.host]
    assert host.texts[case.script][case.part] != case.text
    host.texts[case.script][case.part] = case.text

    found = broken(reading)

    assert [(finding.host, finding.check, finding.verdict) for finding in found] == [
        (case.host, case.check, case.verdict)
    ]
    assert case.fix in found[0].fix
    assert found[0].needed


def _replaced(host: str, script: str, part: str, old: str, new: str) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        text = reading.hosts[host].texts[script][part]
        assert old in text
        reading.hosts[host].texts[script][part] = text.replace(old, new)

    return change


def _set(name: str, **fields: object) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        setattr(reading, name, replace(getattr(reading, name), **fields))

    return change


def _tls(**fields: object) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        reading.tls[0] = replace(reading.tls[0], **fields)  # type: ignore[arg-type]

    return change


def _clock(skew: float, unsure: float) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        for host in reading.hosts.values():
            host.clock = ClockReading(skew, unsure)

    return change


def _service(**fields: object) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        services = reading.hosts["lb1"].services
        services[0] = replace(services[0], **fields)  # type: ignore[arg-type]

    return change


def _answer(status: int) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        reading.hosts["lb2"].answers["http://192.0.2.21:8001/health"] = (status, "")

    return change


def _connection(kind: str | None) -> Callable[[EstateReading], None]:
    def change(reading: EstateReading) -> None:
        reading.connections["sebenza_slack"] = kind

    return change


OLD_TLS = {"TLS 1.0": False, "TLS 1.1": True, "TLS 1.2": True, "TLS 1.3": True}
CHANGES = [
    (_replaced("app1", APPLICATION, "node", "v18", "v16"), "Node.js", MISSING, "node_bin_dir"),
    (
        _replaced("app1", APPLICATION, "daemon", "900 sebenza yes", "!none"),
        "PM2 daemon",
        MISSING,
        "pm2-sebenza.service",
    ),
    (
        _replaced("app1", HOST, "programs", "flock\t/usr/bin/flock", "flock\t!missing"),
        "programs",
        MISSING,
        "util-linux",
    ),
    (_replaced("lb2", HOST, "programs", "socat\t/usr/bin/socat", "socat\t!missing"), "programs", MISSING, "socat"),
    (_replaced("cache", HOST, "programs", "age\t/usr/bin/age", "age\t!missing"), "programs", MISSING, "age"),
    (
        _replaced("lb1", HOST, "directories", "maps\t/etc/haproxy/maps\tyes", "maps\t/etc/haproxy/maps\tno"),
        "write /etc/haproxy/maps",
        MISSING,
        "install -d -o sebenza",
    ),
    (
        _replaced("lb1", HOST, "directories", "maps\t/etc/haproxy/maps\tyes", "maps\t/etc/haproxy\tyes"),
        "write /etc/haproxy/maps",
        MISSING,
        "/etc/haproxy/maps",
    ),
    (_replaced("db1", HOST, "disk", "9876543 29153296 /", "35000000 4000000 /"), "disk", WARNING, "du -xh"),
    (_replaced("app1", APPLICATION, "releases", "81920", "19000000"), "space for releases", MISSING, "ls -lt"),
    (_replaced("app1", APPLICATION, "processes", "online", "stopped"), "processes", MISSING, "ecosystem.config.js"),
    (
        _replaced("app1", APPLICATION, "reach", "database answered S", "database refused"),
        "reach the database",
        MISSING,
        "nc",
    ),
    (
        _replaced("app1", APPLICATION, "reach", "cache answered -NOAUTH", "cache closed"),
        "reach the cache",
        MISSING,
        "nc",
    ),
    (_replaced("app1", APPLICATION, "reach", "3001 open", "3001 refused"), "port 3001 (blue)", MISSING, "logs"),
    (_replaced("app1", APPLICATION, "reach", "3002 refused", "3002 open"), "port 3002 (green)", MISSING, "ss -ltnp"),
    (
        _replaced("app1", APPLICATION, "daemons", "    900", "    77 root  PM2 v5.4.2: God Daemon (/opt/pm2)\n    900"),
        "other PM2 daemons",
        WARNING,
        "sudo kill 77",
    ),
    (
        _replaced("lb1", BALANCER, "servers", "app2 192.0.2.22 8002", "app2 192.0.2.29 8002"),
        "backend bk_green",
        MISSING,
        "",
    ),
    (
        _replaced("lb1", BALANCER, "stat", "bk_green,app2,DOWN", "bk_green,app9,DOWN"),
        "backend bk_green",
        MISSING,
        "app2",
    ),
    (
        _replaced("lb1", BALANCER, "stat", "bk_green,app2,DOWN", "bk_green,app2,no check"),
        "backend bk_green",
        MISSING,
        "check",
    ),
    (
        _replaced("lb1", BALANCER, "stat", "bk_blue,app2,UP", "bk_blue,app2,MAINT"),
        "backend bk_blue",
        WARNING,
        "state ready",
    ),
    (_tls(versions=OLD_TLS), "TLS versions", MISSING, "ssl-min-ver TLSv1.2"),
    (_tls(reachable=False, error="refused"), "HTTPS", MISSING, "ss -ltnp"),
    (_tls(error="not trusted: self-signed"), "certificate", MISSING, "ca_file"),
    (_tls(expires_at=NOW + timedelta(days=20)), "certificate", WARNING, "certbot"),
    (_tls(expires_at=NOW + timedelta(days=2)), "certificate", MISSING, "certbot"),
    (_tls(redirect="HTTP 200"), "HTTP", WARNING, "redirect scheme https"),
    (_service(state="inactive"), "service haproxy", MISSING, "systemctl start haproxy.service"),
    (_service(at_boot="disabled"), "service haproxy", WARNING, "systemctl enable haproxy.service"),
    (_service(may_move=False), "service haproxy", WARNING, "/usr/bin/systemctl reload haproxy.service"),
    (_answer(0), "port 8001 (blue) from lb2", MISSING, "listen 192.0.2.21:8001"),
    (_answer(503), "port 8001 (blue) from lb2", MISSING, "logs sebenza-blue"),
    (_connection(None), "connection sebenza_slack", MISSING, "airflow connections add sebenza_slack"),
    (_connection("slack"), "connection sebenza_slack", MISSING, "airflow connections delete"),
    (_set("database", in_recovery=True), "primary", MISSING, "db.sebenza.com:5432"),
    (_set("database", version=140011), "PostgreSQL version", MISSING, "major_version: 14"),
    (_set("database", replicas=0), "replicas", MISSING, "pg_stat_replication"),
    (_set("database", max_connections=100), "database connections", WARNING, "max_connections = 170"),
    (_set("database", may_create=False), "migrations", MISSING, "GRANT CREATE ON SCHEMA public"),
    (_set("database", unfinished_migrations=1), "schema", MISSING, "finished_at IS NULL"),
    (_set("database", error="refused", is_reachable=False), "database", NO_DATA, "psql"),
    (_set("storage", is_tls=False, endpoint="http://s3"), "TLS", MISSING, "https://"),
    (_set("storage", steps={"write": "AccessDenied"}), "write", MISSING, "s3:PutObject"),
    (_set("metrics", error="no answer"), "Prometheus", MISSING, "http://HOST:9090"),
    (_set("metrics", series={}), "series (blue)", MISSING, 'targets: ["192.0.2.21:8001"]'),
    (_set("metrics", series={"blue": ("",)}), "series (blue)", MISSING, "environment: production"),
    (_set("metrics", age_seconds={"blue": 41.0}), "series (blue)", MISSING, "up{"),
    (_set("metrics", load_balancer_series=0), "series of load balancers", WARNING, '"192.0.2.11:8404"'),
    (_set("ledger", error="no such table"), "ledger", MISSING, "sebenza_ops.ledger migrate"),
    (
        lambda reading: setattr(reading, "ledger", LedgerReading(change="a run")),
        "change in progress",
        WARNING,
        "trigger",
    ),
]


@pytest.mark.parametrize(
    ("change", "check", "verdict", "fix"), CHANGES, ids=[f"{n}-{c[1]}" for n, c in enumerate(CHANGES)]
)
def test_a_change_is_found(change: Callable[[EstateReading], None], check: str, verdict: Verdict, fix: str) -> None:
    reading = healthy()
    change(reading)

    found = broken(reading)

    assert (check, verdict) in [(finding.check, finding.verdict) for finding in found]
    assert fix in next(finding.fix for finding in found if finding.check == check)


@pytest.mark.parametrize(
    ("skew", "unsure", "expected"),
    [
        (0.9, 0.0, None),
        (1.1, 0.0, WARNING),
        (-1.1, 0.0, WARNING),
        (1.1, 0.2, None),
        (5.1, 0.0, MISSING),
        (60.0, 3.0, MISSING),
    ],
)
def test_a_clock_is_blamed_for_what_was_measured_for_certain(
    skew: float, unsure: float, expected: Verdict | None
) -> None:
    reading = healthy()
    _clock(skew, unsure)(reading)

    verdicts = {finding.verdict for finding in broken(reading)}

    assert verdicts == ({expected} if expected else set())


def test_clocks_that_are_apart_from_each_other_are_found() -> None:
    reading = healthy()
    reading.hosts["app1"].clock = ClockReading(-0.8, 0.0)
    reading.hosts["app2"].clock = ClockReading(0.8, 0.0)

    assert [(finding.host, finding.check) for finding in broken(reading)] == [("production", "clocks")]


def test_an_unreachable_host_is_one_finding() -> None:
    reading = healthy()
    host = reading.hosts["db1"]
    host.error, host.texts, host.services, host.clock = HostUnreachableError("timed out", host="db1"), {}, [], None

    found = broken(reading)

    assert [(finding.host, finding.check, finding.verdict) for finding in found] == [("db1", "access", MISSING)]


def test_a_changed_host_key_is_shown_and_never_taken() -> None:
    reading = healthy()
    host = reading.hosts["db1"]
    host.error, host.presented_key = HostUnreachableError("not the one", host="db1"), "ssh-ed25519 AAAAother"
    host.texts, host.services, host.clock = {}, [], None

    (finding,) = broken(reading)

    assert finding.check == "host key"
    assert "ssh-keygen -lf" in finding.fix
    assert "host_key: ssh-ed25519 AAAAother" in finding.fix


def test_disagreeing_load_balancers_are_found() -> None:
    reading = healthy()
    balancer = reading.hosts["lb2"].texts[BALANCER]
    balancer |= {"map": "0x1 active bk_green", "file": "active bk_green", "marker": "green"}

    found = broken(reading)

    assert [(finding.host, finding.check, finding.verdict) for finding in found] == [
        ("production", "live color", MISSING)
    ]
    assert "set map" in found[0].fix


def test_drift_names_the_setting_and_shows_no_secret() -> None:
    reading = healthy()
    text = reading.hosts["app1"].env_files[Color.BLUE]
    reading.hosts["app1"].env_files[Color.BLUE] = text.replace("LOG_LEVEL=info", "LOG_LEVEL=debug").replace(
        "correct-horse-battery", "other-horse-battery"
    )

    (finding,) = broken(reading)

    assert finding.verdict is WARNING
    assert "LOG_LEVEL: is 'debug', expected 'info'" in finding.found
    assert "DATABASE_URL: differs (secret" in finding.found
    assert "horse-battery" not in report(reading).model_dump_json()


def test_a_missing_ssh_connection_leaves_every_host_untried() -> None:
    reading = healthy()
    reading.connections["sebenza_production_ssh"] = None
    reading.hosts = {"build": reading.hosts["build"]}

    found = broken(reading)

    assert ("connection sebenza_production_ssh", MISSING) in [(finding.check, finding.verdict) for finding in found]
    assert {finding.host for finding in found if finding.check == "access"} == {
        "lb1", "lb2", "app1", "app2", "app3", "db1", "db2", "dbendpoint", "cache",
        "lb3", "app4", "db3", "dbendpoint2", "cache2",
    }  # fmt: skip


def test_a_service_that_nobody_knows_is_no_data() -> None:
    reading = healthy()
    reading.hosts["cache"].services = [ServiceReading("redis", "redis-server.service", "unknown")]

    assert [(finding.check, finding.verdict) for finding in broken(reading)] == [("service redis", NO_DATA)]


def test_processes_of_an_estate_that_is_adopted_are_named() -> None:
    reading = healthy()
    text = reading.hosts["app1"].texts[APPLICATION]
    text["processes"] = text["processes"].replace("sebenza-blue", "logistics")
    text["saved"] = text["saved"].replace("sebenza-blue", "logistics")

    found = {finding.check: finding for finding in broken(reading)}

    assert found["processes"].verdict is MISSING
    assert "deploy_blue_green" in found["processes"].fix
    assert "logistics" in found["other processes"].found
    assert found["port 3001 (blue)"].verdict is MISSING
