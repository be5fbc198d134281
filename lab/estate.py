"""Bringing the whole lab up and down."""

from __future__ import annotations

import contextlib
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lab import (
    application_hosts,
    backups,
    configuration,
    emptying,
    haproxy,
    inventory,
    kernel,
    monitoring,
    object_copy,
    paths,
    postgres,
    preflight,
    releases,
    secondary_site,
    storage,
    supervision,
    tools,
)
from lab.accounts import write_as
from lab.addresses import ALERTMANAGER_PORT, ALL_HOST_NAMES, PROMETHEUS_PORT, SECONDARY_HOST_NAMES, endpoint
from lab.configuration import color_backend
from lab.hosts import ENVIRONMENTS, SERVICES, LabEnvironment, has_secondary_site, present_hosts
from lab.waiting import LabError, until

_T = TypeVar("_T")

# A load test writes this much within minutes; the one before it is kept.
_LONG_LOG_BYTES = 20 * 2**20
# Started in their turn, because they need another host.
_LATE_SERVICES = {"postgresql", "pm2"}

Report = Callable[[str], None]


def _in_parallel(action: Callable[[_T], object], items: Iterable[_T]) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        for future in [pool.submit(action, item) for item in items]:
            future.result()


class Progress:
    """Prints what happens now, with the seconds since the start."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_at

    def __call__(self, message: str) -> None:
        """Print one line."""
        print(f"lab: {self.seconds:5.1f} s  {message}", flush=True)


def is_up() -> bool:
    """Whether every host of the lab has its service manager running."""
    return all(supervision.is_up(host) for host in present_hosts())


def up(report: Report) -> None:
    """Bring the whole estate up, or complete it; returns when every part is healthy.

    Raises `LabError` that names the part which is not, with its last log lines.
    """
    preflight.check()
    hosts = present_hosts()
    if not any(supervision.is_up(host) for host in ALL_HOST_NAMES):
        _clear_faults()
        if killed := supervision.end_leftovers():
            report(f"ended {killed} processes that an unclean end had left")
        preflight.prepare_machine()
    preflight.check_ports()
    tools.copy_tools()
    report("writing configuration, keys and certificates")
    configuration.write_all()
    inventory.write_all()
    monitoring.render(paths.LAB_DIR)
    _migrate_ledger()
    report("starting hosts: " + ", ".join(hosts))
    _in_parallel(power_on, hosts)
    with ThreadPoolExecutor(max_workers=1) as background:
        artifact = background.submit(_prepare_artifact, report)
        report("databases: db1, db2, staging")
        _start_databases()
        if has_secondary_site():
            report(f"secondary site: {secondary_site.STANDBY} follows the primary")
            secondary_site.start_standby(report)
        report("services: awaiting that each listens")
        _in_parallel(_await_early_services, hosts)
        built = artifact.result()
    report(f"application: {built.release_id} ready; starting PM2")
    _in_parallel(lambda host: supervision.start(host, "pm2"), _pm2_hosts())
    missing = [each for each in ENVIRONMENTS.values() if _installed(each) != built.release_id]
    if missing:
        report(f"installing {built.release_id} in blue: {', '.join(each.name for each in missing)}")
        _in_parallel(lambda environment: install(environment, built), missing)
    if has_secondary_site() and not secondary_site.is_prepared():
        report(f"secondary site: {built.release_id} is laid out, nothing runs there")
        secondary_site.prepare_hosts(built)
    report("health of every part")
    check_health()


def _migrate_ledger() -> None:
    """Bring a ledger that an older version has left to this one's tables, as an upgrade of an installation does."""
    from sebenza_ops.ledger import Ledger

    if paths.LEDGER_FILE.exists():
        Ledger.open(f"sqlite:///{paths.LEDGER_FILE}").migrate()


def _clear_faults() -> None:
    """Forget all faults, of a lab that is down: what they broke starts anew."""
    kernel.clear()
    paths.FAULTS_FILE.unlink(missing_ok=True)
    if paths.FAULTS_DIR.exists():
        for entry in paths.FAULTS_DIR.iterdir():
            # Never recursively: a mount that could not be taken off leads to a host's files.
            entry.rmdir() if entry.is_dir() else entry.unlink()


def power_on(host: str) -> None:
    """Start a host's service manager unless it runs, and what starts by itself there."""
    if not supervision.is_up(host):
        postgres.remove_stale_lock(host)
        _set_long_logs_aside(host)
    supervision.power_on(host)


def _set_long_logs_aside(host: str) -> None:
    logs = paths.host_files(host) / "var/log"
    for log in [each for each in logs.rglob("*.log") if each.is_file() and each.stat().st_size > _LONG_LOG_BYTES]:
        log.replace(log.with_name(f"{log.name}.1"))


def _prepare_artifact(report: Report) -> releases.Artifact:
    releases.ensure_repository()
    report(f"build: artifact of {releases.FIRST_VERSION} (the first build takes its packages from npm)")
    return releases.first_artifact()


def _start_databases() -> None:
    _in_parallel(lambda start: start(), (postgres.settle_pair, lambda: postgres.start_primary("staging")))
    _in_parallel(backups.ensure_stanza, (postgres.primary_of_production(), "staging"))


def _await_early_services(host: str) -> None:
    for service in SERVICES[host]:
        if service not in _LATE_SERVICES:
            supervision.start(host, service)


def _pm2_hosts() -> list[str]:
    return [host for host in present_hosts() if "pm2" in SERVICES[host]]


def _installed_file(environment: LabEnvironment) -> Path:
    return paths.LAB_DIR / "installed" / environment.name


def _installed(environment: LabEnvironment) -> str | None:
    """The release that the lab itself installed, whatever procedures have deployed since."""
    file = _installed_file(environment)
    return file.read_text().strip() if file.exists() else None


def install(environment: LabEnvironment, artifact: releases.Artifact, color: str = "blue") -> None:
    """Make a release live in one color of an environment, the way the estate starts out."""
    _in_parallel(lambda host: application_hosts.unpack(host, artifact), environment.application_hosts)
    for host in environment.application_hosts:
        application_hosts.configure(environment, host, color, artifact.release_id)
    first = environment.application_hosts[0]
    application_hosts.migrate_and_seed(environment, first, color, artifact.release_id)
    _in_parallel(lambda host: _ensure_color(host, color, artifact.release_id), environment.application_hosts)
    for host in environment.application_hosts:
        application_hosts.await_color(host, color, artifact.release_id)
    application_hosts.make_live(environment, color, artifact.release_id)
    write_as(_installed_file(environment), f"{artifact.release_id}\n")


def _ensure_color(host: str, color: str, release_id: str) -> None:
    answer = application_hosts.version_answer(host, color)
    if answer is None or answer.get("release_id") != release_id or not application_hosts.is_healthy(host, color):
        application_hosts.start_color(host, color)


def start_host(host: str) -> None:
    """Start a host that is down, or what is down on it, in the order its services need; await that each listens."""
    power_on(host)
    for service in SERVICES[host]:
        start_service(host, service)


def start_service(host: str, service: str) -> None:
    """Start a service of a host that is up, and wait until it listens."""
    if service == "postgresql" and not supervision.state(host, service).pid:
        postgres.remove_stale_lock(host)
    supervision.start(host, service)


def check_health() -> None:
    """Await that every part of the estate does its work; `LabError` names the first that does not."""
    _in_parallel(_await_services, present_hosts())
    _check_database_endpoint()
    _in_parallel(check_environment_health, ENVIRONMENTS.values())
    _await_http(f"http://{endpoint('monitoring', PROMETHEUS_PORT)}/-/ready", "monitoring: Prometheus is ready")
    _await_http(f"http://{endpoint('monitoring', ALERTMANAGER_PORT)}/-/ready", "monitoring: Alertmanager is ready")
    until(
        storage.answers,
        f"storage: the bucket {storage.BUCKET} can be listed",
        # The copying of gigabytes to the secondary site takes the same disk.
        progress=object_copy.copied if has_secondary_site() else None,
    )
    if has_secondary_site():
        secondary_site.check_health()


def _await_services(host: str) -> None:
    for service in SERVICES[host]:
        supervision.await_listening(host, service)


def _check_database_endpoint() -> None:
    environment = ENVIRONMENTS["production"]

    def writable() -> bool:
        return postgres.application_can_write(environment)

    until(writable, "dbendpoint: leads to a database that takes writes", 20)


def check_environment_health(environment: LabEnvironment) -> None:
    """Await that every load balancer of an environment has one live color, the same, with all servers up."""
    colors = {host: application_hosts.live_color(host) for host in environment.load_balancers}
    live = set(colors.values())
    if len(live) != 1 or None in live:
        raise LabError(
            f"{environment.name}: the load balancers do not agree on one live color: {colors} "
            f"(python -m lab reset {environment.name} puts v1.0.0 into blue)"
        )
    backend = color_backend(str(live.pop()))
    for host in environment.load_balancers:
        haproxy.await_servers(host, backend)


def _await_http(url: str, what: str) -> None:
    def answers() -> bool:
        with urllib.request.urlopen(url, timeout=3) as response:
            return bool(response.status == 200)

    until(answers, f"{what} ({url})", 30)


def reset(names: Iterable[str], report: Report) -> None:
    """Put environments back to how the lab starts out: v1.0.0 in blue, nothing in green.

    Fences stay: the ledger's tokens go on from where they are.
    """
    environments = [application_hosts.environment_named(name) for name in names]
    artifact = releases.first_artifact()
    for environment in environments:
        if len(environment.database_hosts) > 1:
            postgres.settle_pair()
        report(f"{environment.name}: {artifact.release_id} in blue, green empty")
        if postgres.start_over_if_contracted(environment):
            report(f"{environment.name}: its database is made anew, contract migrations had been applied")
        for host in (*environment.application_hosts, *environment.spare_hosts):
            if emptying.is_emptied(host):
                report(f"{host}: its files were gone, it is set up anew")
                emptying.furnish(host)
        install(environment, artifact)
        for host in (*environment.application_hosts, *environment.spare_hosts):
            application_hosts.stop_color(host, "green")
        check_environment_health(environment)
        if environment.name == "production" and has_secondary_site():
            secondary_site.reset(artifact, report)


def down(report: Report, *, forget: bool = False) -> None:
    """Stop everything; nothing of the lab runs afterwards. With `forget`, its state is removed too.

    Built artifacts and downloaded packages are kept either way.
    """
    if (other := preflight.other_lab()) is not None:
        report(f"nothing of this lab runs; another one runs from {other}")
        return
    if any(supervision.is_up(host) for host in ALL_HOST_NAMES):
        report("stopping hosts")
    # Load balancers and applications first, so that no process reports a lost database; the storage after the
    # databases, which do not end before their last WAL is archived.
    waves = (
        [host for host in ALL_HOST_NAMES if host.startswith("lb")],
        [host for host in ALL_HOST_NAMES if "pm2" in SERVICES[host]],
        [host for host in ALL_HOST_NAMES if "postgresql" in SERVICES[host]],
        list(ALL_HOST_NAMES),
    )
    for wave in waves:
        _in_parallel(supervision.power_off, wave)
    if killed := supervision.end_leftovers():
        report(f"ended {killed} processes that were left")
    _clear_faults()
    for host in ALL_HOST_NAMES:
        link = paths.host_root(host)
        if link.is_symlink() and link.readlink() == paths.host_files(host):
            link.unlink()
    with contextlib.suppress(OSError):
        # Another lab's links may be in it still.
        paths.RUN_DIR.rmdir()
    if forget:
        report("removing the state of the lab")
        _forget()


def down_secondary_site(report: Report) -> None:
    """Stop the secondary site and DNS only; from now on this lab is without them. What they hold is kept."""
    report("stopping hosts: " + ", ".join(SECONDARY_HOST_NAMES))
    _in_parallel(supervision.power_off, SECONDARY_HOST_NAMES)
    paths.SECONDARY_SITE_FILE.unlink(missing_ok=True)
    if is_up():
        inventory.write_all()


def _forget() -> None:
    # The ledger goes with the hosts: its fencing tokens and the hosts' fences must be of one age.
    for name in (
        "hosts",
        "installed",
        "environments",
        "ledger",
        "journal",
        "break-glass",
        "ca",
        "keys",
        "faults",
        "secondary",
    ):
        shutil.rmtree(paths.LAB_DIR / name, ignore_errors=True)
    files = (paths.CONNECTIONS_FILE, paths.LAB_FILE, paths.SECRETS_FILE, paths.CAPACITY_FILE, paths.SECONDARY_SITE_FILE)
    for file in files:
        file.unlink(missing_ok=True)
