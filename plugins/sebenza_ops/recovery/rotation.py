"""One application host out of rotation at every load balancer, and back in, as each of them sees it."""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Color, Role
from sebenza_ops.recovery.restore_rules import LoadBalancerStates, RestoreRefusedError, servers_of, serving
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancer, LoadBalancerState
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import HostSession, kept_sessions, on_hosts, raise_first_error

POLL_SECONDS = 0.5
# HAProxy calls a server up after two good checks, a second apart; the release has answered already by then.
UP_DEADLINE_SECONDS = 20.0


class HostRotation:
    """The host's place in the load balancers' rotation.

    Args:
        run: The run's hold on the environment, with this attempt's fence.
        host: The host's name.
        color: The live color.
    """

    def __init__(self, run: ChangeRun, host: str, color: Color) -> None:
        self.run, self.host, self.color = run, host, color
        self.environment = run.environment
        self._balancers = self.environment.hosts_with_role(Role.LOAD_BALANCER)

    def states(self) -> LoadBalancerStates:
        """What every load balancer does now."""
        return on_hosts(
            self._balancers,
            self.environment.ssh_conn_id,
            lambda session: LoadBalancer(self.environment, session).state(),
        )

    def is_serving(self) -> bool:
        """Whether any load balancer sends to it."""
        return bool(serving(self.environment, self.host, self.color, self.states()))

    def take_out(self) -> bool:
        """Drain it at every load balancer, so that nobody gets it before it is proven. False: it is in no rotation.

        Raises the load balancers' errors.
        """
        states = self.states()
        raise_first_error(dict(states))
        if not any(servers_of(self.environment, self.host, states).values()):
            return False
        self._tell(in_rotation=False)
        return True

    @kept_sessions()
    def await_healthy(self, release_id: str, timeout_seconds: float, *, keep_out: bool = True) -> None:
        """Wait until it answers healthily and with the release, to itself and to every load balancer.

        With `keep_out`, a load balancer that was reloaded and has forgotten the drain is told again.
        Raises RestoreRefusedError.
        """
        application = self.environment.application
        machine = self.environment.host(self.host)
        base = f"http://{machine.address}:{application.colors[self.color].port}"
        version, health = base + application.version_path, base + application.health_path

        def ask(session: HostSession) -> str:
            arguments = ["2", self.environment.public_hostname, version, health]
            return session.run_script("lb_probe", arguments, timeout_seconds=15).stdout

        until = time.monotonic() + timeout_seconds
        while True:
            answers = on_hosts((*self._balancers, machine), self.environment.ssh_conn_id, ask)
            missing = missing_healthy_release(
                {name: answer if isinstance(answer, str) else None for name, answer in answers.items()},
                version_urls={self.host: version},
                health_urls={self.host: health},
                release_id=release_id,
            )
            if keep_out and self.is_serving():
                self.run.note("a load balancer has forgotten that it is out, told again", "warning", host=self.host)
                self._tell(in_rotation=False)
            if not missing:
                return
            if time.monotonic() >= until:
                raise RestoreRefusedError(
                    f"{self.host} did not become healthy with {release_id} within {timeout_seconds:g} s: "
                    f"{'; '.join(missing)}. It stays out of rotation. Look at "
                    f"{application.log_dir}/{self.color}-error.log there, then clear this run"
                )
            time.sleep(POLL_SECONDS)

    @kept_sessions()
    def put_back(self) -> None:
        """Put it back at every load balancer, and wait until each sends to it. Raises RestoreRefusedError."""
        self._tell(in_rotation=True)
        until = time.monotonic() + UP_DEADLINE_SECONDS
        while True:
            states = self.states()
            missing = [str(state) for state in states.values() if isinstance(state, OutsideSystemError)]
            up = serving(self.environment, self.host, self.color, states)
            with_it = [name for name, servers in servers_of(self.environment, self.host, states).items() if servers]
            missing += [name for name in with_it if not any(text.startswith(f"{name} ") for text in up)]
            if not missing:
                return
            if time.monotonic() >= until:
                raise RestoreRefusedError(f"{self.host} is not back in rotation: {'; '.join(missing)}")
            time.sleep(POLL_SECONDS)

    def _tell(self, *, in_rotation: bool) -> None:
        def tell(session: HostSession) -> None:
            # It serves nobody now, so that taking it out leaves as many as before.
            LoadBalancer(self.environment, session).rotate(
                self.color, [self.host], in_rotation=in_rotation, minimum=0, fence=self.run.fence
            )

        with_it = [
            name
            for name, state in self.states().items()
            if isinstance(state, LoadBalancerState) and servers_of(self.environment, self.host, {name: state})[name]
        ]
        balancers = [host for host in self._balancers if host.name in with_it]
        raise_first_error(dict(on_hosts(balancers, self.environment.ssh_conn_id, tell)))
