"""Changing application hosts inside the live color: out of rotation, another release, proven, back in rotation.

The load balancers themselves keep the minimum in rotation: each refuses a drain that would go below it. What is changed
has no traffic meanwhile, so that nothing a user sent is lost.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.observe import unknown
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl
from sebenza_ops.environments.env_file import ApplicationSecrets, render_env_file
from sebenza_ops.environments.models import BlueGreenPolicy, Color, Environment, Role
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancerState, ServerState
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import HostSession, on_hosts, raise_first_error

POLL_SECONDS = 0.3
# HAProxy calls a server up after two good checks, a second apart; the release has answered already by then.
UP_DEADLINE_SECONDS = 20.0


class HostsNotChangedError(Exception):
    """Hosts could not be brought to a release. The message says which, why, and whether they are in rotation."""


def servers_of(state: LoadBalancerState, environment: Environment, color: Color) -> tuple[ServerState, ...]:
    """The color's servers on a load balancer; none where it has no such backend."""
    backend = state.backends.get(environment.application.colors[color].backend)
    return backend.servers if backend is not None else ()


def drained_hosts(environment: Environment, color: Color, states: LoadBalancerStates) -> frozenset[str]:
    """The color's servers that some load balancer has drained: an earlier change may have left them so."""
    return frozenset(
        server.name
        for state in states.values()
        if isinstance(state, LoadBalancerState)
        for server in servers_of(state, environment, color)
        if server.is_drained
    )


def too_few_in_rotation(
    environment: Environment, color: Color, states: LoadBalancerStates, out: Collection[str], minimum: int
) -> list[str]:
    """Load balancers on which fewer than `minimum` servers serve besides those that are out, in words."""
    found = []
    for name, state in states.items():
        if not isinstance(state, LoadBalancerState):
            continue
        serving = [s.name for s in servers_of(state, environment, color) if s.is_up and s.name not in out]
        if len(serving) < minimum:
            found.append(f"{name} has only {len(serving)} of {minimum} others in rotation")
    return found


class Rotation:
    """Takes hosts of the live color out of rotation and brings them back with another release.

    Args:
        run: The run's hold on the environment, with this attempt's fence.
        plan: The rolling deployment's plan.
        control: The environment's load balancers.
        policy: The numbers of health and drain.
    """

    def __init__(self, run: ChangeRun, plan: DeploymentPlan, control: TrafficControl, policy: BlueGreenPolicy) -> None:
        self.run, self.plan, self.control, self.policy = run, plan, control, policy
        self.environment = run.environment
        self.color = plan.to_color
        self._secrets: ApplicationSecrets | None = None
        self._process_ids: dict[str, int] = {}

    def take_out(self, hosts: Sequence[str], *, despite_unreachable: bool = False) -> None:
        """Drain hosts at every load balancer, and wait for their last sessions.

        Args:
            hosts: The hosts.
            despite_unreachable: Go on when a load balancer can't be told, which then still sends to them.

        Raises HostsNotChangedError when a load balancer could not be told, or too few others would serve; then a part
        of the load balancers may have drained them.
        """
        self._drain(hosts, despite_unreachable)
        shown = ", ".join(hosts)
        began = time.monotonic()
        until = began + self.policy.drain_timeout_seconds
        while True:
            states = self.control.states(PATIENT_TIMEOUT_SECONDS)
            self._keep_out(hosts, states)
            few = too_few_in_rotation(self.environment, self.color, states, hosts, self.plan.minimum_in_rotation)
            if few:
                raise HostsNotChangedError(f"{shown} was drained, but {'; '.join(few)}")
            left = self._sessions(hosts, states)
            if not left and not [s for s in states.values() if isinstance(s, OutsideSystemError)]:
                self.run.note(f"{shown} is out of rotation, drained in {time.monotonic() - began:.1f} s")
                return
            if time.monotonic() >= until:
                rest = "; ".join([*left, *unknown(self.environment, self.color, states)])
                self.run.note(f"{shown} still has sessions after the drain ({rest}); it ends them itself", "warning")
                return
            time.sleep(POLL_SECONDS)

    def restart(self, releases: Mapping[str, str]) -> None:
        """Configure and start hosts with a release each (host → release id). Raises the hosts' errors."""
        secrets = self._secrets = self._secrets or resolve_secrets(self.environment)

        def restart(session: HostSession) -> None:
            release_id = releases[session.host.name]
            host = ApplicationHost(self.environment, session)
            text = render_env_file(self.environment, self.color, session.host, release_id, secrets)
            host.configure(self.run.fence, self.color, release_id, text)
            host.start(self.run.fence, self.color)

        hosts = [self.environment.host(name) for name in releases]
        raise_first_error(on_hosts(hosts, self.environment.ssh_conn_id, restart))

    def await_healthy(self, releases: Mapping[str, str]) -> None:
        """Wait until hosts are healthy with exactly their release, seen from every load balancer.

        Raises HostsNotChangedError.
        """
        hosts = tuple(releases)
        until = time.monotonic() + self.policy.health_timeout_seconds
        while True:
            missing = self._missing(releases)
            states = self.control.states(PATIENT_TIMEOUT_SECONDS)
            self._keep_out(hosts, states)
            if not missing:
                missing = self._not_passing(hosts, states)
            if not missing:
                self.run.note(f"{_shown(releases)}: healthy, seen from every load balancer", "success")
                return
            if time.monotonic() >= until:
                raise HostsNotChangedError(
                    f"{_shown(releases)} did not become healthy within {self.policy.health_timeout_seconds} s: "
                    f"{'; '.join(missing)}. Look at {self.environment.application.log_dir}/{self.color}-error.log there"
                )
            time.sleep(POLL_SECONDS)

    def warm_up(self, hosts: Sequence[str]) -> None:
        """Fill pools and caches before users come. Raises HostsNotChangedError when too many requests fail."""
        urls = [self._base(name) + path for name in hosts for path in self.environment.application.warm_up_paths]
        for name, result in self.control.warm_up(urls, self.policy.warm_up_requests).items():
            if isinstance(result, OutsideSystemError):
                raise HostsNotChangedError(f"{', '.join(hosts)} could not be warmed up: {result}")
            answered, failed = result
            if failed > answered * self.policy.error_ratio_threshold:
                raise HostsNotChangedError(
                    f"{failed} of {answered + failed} warm-up requests from {name} to {', '.join(hosts)} failed"
                )

    def put_back(self, hosts: Sequence[str], *, despite_unreachable: bool = False) -> None:
        """Put hosts back into rotation at every load balancer, and wait until each sends to them.

        Raises HostsNotChangedError with the load balancers that do not.
        """
        self._tell(hosts, in_rotation=True, despite_unreachable=despite_unreachable)
        until = time.monotonic() + UP_DEADLINE_SECONDS
        while True:
            states = self.control.states(PATIENT_TIMEOUT_SECONDS)
            missing = [
                f"{name} says {server.status} of {server.name}"
                for name, state in states.items()
                if isinstance(state, LoadBalancerState)
                for server in servers_of(state, self.environment, self.color)
                if server.name in hosts and not server.is_up
            ]
            if not missing:
                self.run.note(f"{', '.join(hosts)} is back in rotation")
                return
            if time.monotonic() >= until:
                raise HostsNotChangedError(f"{', '.join(hosts)} is not back in rotation: {'; '.join(missing)}")
            time.sleep(POLL_SECONDS)

    def _drain(self, hosts: Sequence[str], despite_unreachable: bool) -> None:
        states = self.control.states(PATIENT_TIMEOUT_SECONDS)
        self._process_ids = {n: s.process_id for n, s in states.items() if isinstance(s, LoadBalancerState)}
        self._tell(hosts, in_rotation=False, despite_unreachable=despite_unreachable)

    def _tell(self, hosts: Sequence[str], *, in_rotation: bool, despite_unreachable: bool) -> None:
        results = self.control.rotate(
            self.color,
            hosts,
            in_rotation=in_rotation,
            minimum=self.plan.minimum_in_rotation,
            fence=self.run.fence,
        )
        errors = [error for error in results.values() if error is not None]
        for error in errors:
            if isinstance(error, FencedOffError):
                raise error
        fatal = [e for e in errors if not (despite_unreachable and isinstance(e, HostUnreachableError))]
        if fatal:
            what = "put back into rotation" if in_rotation else "taken out of rotation"
            raise HostsNotChangedError(f"{', '.join(hosts)} could not be {what}: {'; '.join(map(str, fatal))}")
        for error in errors:
            self.run.note(f"going on without it, it still sends as before: {error}", "warning")

    def _keep_out(self, hosts: Sequence[str], states: LoadBalancerStates) -> None:
        """A HAProxy that was reloaded or restarted has forgotten the drain: tell it again, before it sends users."""
        now = {name: state.process_id for name, state in states.items() if isinstance(state, LoadBalancerState)}
        changed = [name for name, pid in now.items() if self._process_ids.get(name, pid) != pid]
        self._process_ids.update(now)
        if changed:
            self.run.note(f"{', '.join(changed)} was reloaded, draining {', '.join(hosts)} there anew", "warning")
            self._tell(hosts, in_rotation=False, despite_unreachable=True)

    def _sessions(self, hosts: Sequence[str], states: LoadBalancerStates) -> list[str]:
        return [
            f"{name} has {server.sessions_current} sessions left on {server.name}"
            for name, state in states.items()
            if isinstance(state, LoadBalancerState)
            for server in servers_of(state, self.environment, self.color)
            if server.name in hosts and server.sessions_current
        ]

    def _missing(self, releases: Mapping[str, str]) -> list[str]:
        application = self.environment.application
        version = {name: self._base(name) + application.version_path for name in releases}
        health = {name: self._base(name) + application.health_path for name in releases}
        answers = self.control.probe([*version.values(), *health.values()])
        missing: list[str] = []
        for release_id in sorted(set(releases.values())):
            mine = {name for name, wanted in releases.items() if wanted == release_id}
            missing += missing_healthy_release(
                answers,
                version_urls={name: url for name, url in version.items() if name in mine},
                health_urls=health,
                release_id=release_id,
            )
        return missing

    def _not_passing(self, hosts: Sequence[str], states: LoadBalancerStates) -> list[str]:
        """Load balancers whose own checks of drained hosts do not pass yet: put back, they would get no traffic."""
        return [
            f"{name} says {server.status} of {server.name}"
            for name, state in states.items()
            if isinstance(state, LoadBalancerState)
            for server in servers_of(state, self.environment, self.color)
            if server.name in hosts and not (server.is_up or server.is_drained)
        ]

    def _base(self, host_name: str) -> str:
        port = self.environment.application.colors[self.color].port
        return f"http://{self.environment.host(host_name).address}:{port}"


def restore_rotation(run: ChangeRun, control: TrafficControl, color: Color, hosts: Sequence[str]) -> None:
    """Put hosts back that an earlier rolling deployment left drained, before their color gets traffic. Notes problems.

    Servers in maintenance were taken out by people, and stay so.
    """
    left = sorted(drained_hosts(run.environment, color, control.states(PATIENT_TIMEOUT_SECONDS)) & set(hosts))
    if not left:
        return
    results = control.rotate(color, left, in_rotation=True, minimum=0, fence=run.fence)
    for name, error in results.items():
        if isinstance(error, FencedOffError):
            raise error
        if error is not None:
            run.note(f"{', '.join(left)} could not be put back into rotation: {error}", "warning", host=name)
    run.note(f"{', '.join(left)} of {color} was out of rotation, put back", "warning")


def all_application_hosts(environment: Environment) -> tuple[str, ...]:
    """The names of the application hosts that are no spares."""
    return tuple(host.name for host in environment.hosts_with_role(Role.APPLICATION))


def _shown(releases: Mapping[str, str]) -> str:
    return ", ".join(f"{release_id} on {name}" for name, release_id in releases.items())
