"""The application at the site that takes over: its services, the right release on the new primary, its entry."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.components import Service
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Color, Environment, Host, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.ledger import LedgerUnavailable
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import save_progress
from sebenza_ops.recovery.disaster_rules import DisasterType
from sebenza_ops.systems.application_cache import forget_cached_rows
from sebenza_ops.systems.application_hosts import ApplicationHost, ApplicationHostState
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancer, LoadBalancerState
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.services import ServiceState, services_of
from sebenza_ops.systems.ssh import HostSession, kept_sessions, on_hosts, raise_first_error

SERVICES: Mapping[Role, tuple[Service, ...]] = {
    Role.CACHE: (Service.REDIS,),
    Role.APPLICATION: (Service.PM2, Service.NGINX),
    Role.LOAD_BALANCER: (Service.HAPROXY,),
}
DAEMON_SECONDS = 20.0
POLL_SECONDS = 0.3


def choose_release(run: ChangeRun, to_site: str) -> tuple[str, str]:
    """The release that must run there, and whose word that is: the ledger's, or else the site's own hosts'.

    Empty when nobody knows one: then the run is refused later, unless it is named.
    """
    environment = run.environment
    try:
        good = run.ledger.releases.last_known_good(environment.name)
    except LedgerUnavailable:
        good = None
    if good is not None:
        return good.release_id, "the last known good one, by the ledger"
    states = [each for each in _host_states(environment.at_site(to_site)).values() if not isinstance(each, Exception)]
    for state in states:
        for found, basis in ((state.good_releases, "good there"), (state.releases, "the newest that is installed")):
            if found:
                return found[0], f"{basis}, by {state.host}; the ledger has none"
    return "", ""


def _host_states(placed: Environment) -> dict[str, ApplicationHostState | OutsideSystemError]:
    return on_hosts(
        placed.hosts_with_role(Role.APPLICATION),
        placed.ssh_conn_id,
        lambda session: ApplicationHost(placed, session).state(),
    )


@kept_sessions()
def serve_release(run: ChangeRun, plan: DisasterPlan, release_id: str) -> str:
    """Have the release answer on every application host of the site, through every load balancer there.

    Raises:
        DisasterRefusedError: No release is known, or it does not become healthy.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host of the site failed; a retry goes on.
    """
    if not release_id:
        raise DisasterRefusedError(
            f"nobody knows which release {plan.environment} ran: start a run with `release_id`; the database at "
            f"{plan.to_site} takes writes already, so that run goes on from there"
        )
    placed = run.environment.at_site(plan.to_site)
    start_services(run, placed, first_services(placed, plan))
    color = site_color(placed)
    applications = placed.hosts_with_role(Role.APPLICATION)
    secrets = resolve_secrets(placed)

    def start(session: HostSession) -> str:
        host = ApplicationHost(placed, session)
        await_daemon(host)
        state = host.state()
        text = render_env_file(placed, color, session.host, release_id, secrets)
        as_wanted = host.read_file(host.env_file(color)) == text
        if as_wanted and state.release_of(placed.application.process_name(color)) == release_id:
            return "runs already"
        done = "was installed"
        if release_id not in state.releases:
            install_release(run, placed, host, release_id)
            done = "is installed"
        host.configure(run.fence, color, release_id, text)
        host.start(run.fence, color)
        return f"{done}, started"

    answers = on_hosts(applications, placed.ssh_conn_id, start)
    raise_first_error(dict(answers))
    for name, how in answers.items():
        run.note(f"{release_id} on {color}: {how}", host=name)
    _await_healthy(placed, color, applications, release_id)
    _lead_balancers(run, placed, color)
    _forget_cache(run, placed, applications[0])
    names = ", ".join(host.name for host in applications)
    detail = f"{release_id} is healthy on {names}, seen from every load balancer of {plan.to_site}"
    run.record([GateFact.model_validate({"name": "application", "verdict": "pass", "detail": detail, "at": utc_now()})])
    run.note(detail, "success")
    save_progress(run, release_id=release_id, color=color.value)
    return detail


def first_services(placed: Environment, plan: DisasterPlan) -> frozenset[Service] | None:
    """The services that come first; None: all of them."""
    policy = placed.policies.disaster_recovery
    is_partial = plan.kind is DisasterType.PARTIAL and policy is not None
    return frozenset(policy.critical_services) if is_partial and policy is not None else None


def start_services(run: ChangeRun, placed: Environment, only: frozenset[Service] | None = None) -> None:
    """Start what of the site's services, or of some of them, does not run. Raises the hosts' errors.

    A cache that can't be started is said so: the application's health decides whether it serves without.
    """
    for role, every in SERVICES.items():
        services = tuple(each for each in every if only is None or each in only)

        def start(session: HostSession, wanted: tuple[Service, ...] = services) -> None:
            manager = services_of(session, placed)
            for service in wanted:
                if manager.status(service).state is not ServiceState.RUNNING:
                    manager.start(service, run.fence)

        answers = on_hosts(placed.hosts_with_role(role), placed.ssh_conn_id, start)
        if role is not Role.CACHE:
            raise_first_error(dict(answers))
        for name, answer in answers.items():
            if isinstance(answer, OutsideSystemError):
                run.note(f"the cache could not be started: {answer}", "warning", host=name)


def await_daemon(host: ApplicationHost) -> None:
    """Wait until PM2's daemon answers. Raises OutsideSystemError."""
    give_up_at = time.monotonic() + DAEMON_SECONDS
    while host.state().processes is None:
        if time.monotonic() >= give_up_at:
            raise OutsideSystemError(f"PM2's daemon does not answer within {DAEMON_SECONDS:g} s", host=host.name)
        time.sleep(POLL_SECONDS)


def site_color(placed: Environment) -> Color:
    """The color that the site's load balancers send to; nobody is served there yet, so it may be restarted."""
    states = on_hosts(
        placed.hosts_with_role(Role.LOAD_BALANCER),
        placed.ssh_conn_id,
        lambda session: LoadBalancer(placed, session).state(),
    )
    raise_first_error(dict(states))
    colors = {entry.backend: color for color, entry in placed.application.colors.items()}
    for state in states.values():
        if isinstance(state, LoadBalancerState) and state.runtime_backend in colors:
            return colors[state.runtime_backend]
    return Color.BLUE


def install_release(run: ChangeRun, placed: Environment, host: ApplicationHost, release_id: str) -> None:
    """Fetch a release from the site's own object storage, by its SHA-256. Raises DisasterRefusedError."""
    storage = ObjectStorage(placed.object_store)
    sha = release_id.rpartition("-")[2]
    manifests = [key for key in storage.keys(f"releases/{sha}") if key.endswith("/manifest.json")]
    found = storage.get_json(manifests[0]) if len(manifests) == 1 else None
    if not isinstance(found, dict) or found.get("release_id") != release_id:
        raise DisasterRefusedError(
            f"{release_id} is not on {host.name}, and the site's object storage has no manifest of it: name another "
            "release with `release_id`"
        )
    key = manifests[0].removesuffix("manifest.json") + "artifact.tar.gz"
    host.install(run.fence, release_id, str(found["sha256"]), int(found["size_bytes"]), storage.transfer_source(key))


def _await_healthy(placed: Environment, color: Color, applications: tuple[Host, ...], release_id: str) -> None:
    application, policy = placed.application, placed.policies.disaster_recovery
    seconds = float(policy.health_timeout_seconds) if policy is not None else 120.0
    bases = {host.name: f"http://{host.address}:{application.colors[color].port}" for host in applications}
    versions = {name: base + application.version_path for name, base in bases.items()}
    healths = {name: base + application.health_path for name, base in bases.items()}
    urls = [*versions.values(), *healths.values()]
    give_up_at = time.monotonic() + seconds
    while True:
        answers = on_hosts(
            placed.hosts_with_role(Role.LOAD_BALANCER),
            placed.ssh_conn_id,
            lambda session: LoadBalancer(placed, session).probe_text(urls),
        )
        missing = missing_healthy_release(
            {name: answer if isinstance(answer, str) else None for name, answer in answers.items()},
            version_urls=versions,
            health_urls=healths,
            release_id=release_id,
        )
        if not missing:
            return
        if time.monotonic() >= give_up_at:
            raise DisasterRefusedError(
                f"{release_id} does not become healthy within {seconds:g} s: {'; '.join(missing)}. Users are led "
                "nowhere new; see the application's log there, and clear this task"
            )
        time.sleep(POLL_SECONDS)


def _lead_balancers(run: ChangeRun, placed: Environment, color: Color) -> None:
    def lead(session: HostSession) -> None:
        balancer = LoadBalancer(placed, session)
        if balancer.state().runtime_backend != balancer.backend_of(color):
            balancer.switch(color, run.fence)
        balancer.persist(color, run.fence)

    raise_first_error(dict(on_hosts(placed.hosts_with_role(Role.LOAD_BALANCER), placed.ssh_conn_id, lead)))


def _forget_cache(run: ChangeRun, placed: Environment, host: Host) -> None:
    """Rows that the site's cache has of another time must not be shown."""

    def forget(session: HostSession) -> int:
        return forget_cached_rows(ApplicationHost(placed, session), run.fence, placed.cache.rows_pattern)

    for name, answer in on_hosts([host], placed.ssh_conn_id, forget).items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"the site's cache could not be emptied: {answer}", "warning", host=name)
        elif answer:
            run.note(f"{answer} cached rows of another time are removed", host=name)
