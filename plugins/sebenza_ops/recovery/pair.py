"""The two database servers and the endpoint before them, as the steps of a switch use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sebenza_ops.environments.models import Environment, Host, Role, Service
from sebenza_ops.recovery.sites import on_sites
from sebenza_ops.recovery.switch_plan import EndpointStates, ServerStates, SwitchPlan
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.database_endpoint import DatabaseEndpoint, EndpointState
from sebenza_ops.systems.database_server import DatabaseServer, ServerState
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.fencing import changed_hosts, raise_tokens
from sebenza_ops.systems.services import Services, services_of
from sebenza_ops.systems.ssh import Fence, raise_first_error

Result = TypeVar("Result")

POLL_SECONDS = 0.05
# After its start HAProxy takes a server for up until two checks, one a second, have failed (database-endpoint.cfg.j2).
CHECKS_TIMEOUT_SECONDS = 10.0


class Pair:
    """The database servers and endpoints of one environment.

    Args:
        environment: The environment; its policy and connections for a switch are there (the inventory checks that).
        sites: The sites whose servers and endpoints belong to it; none: those of the active site.
        endpoint_site: The site whose endpoints alone belong to it; none: those of all these sites.

    Within `kept_sessions` all calls share one login for each host.
    """

    def __init__(self, environment: Environment, sites: Sequence[str] = (), endpoint_site: str = "") -> None:
        self.environment = environment
        places = tuple(sites) or (environment.active_site,)
        endpoint_places = (endpoint_site,) if endpoint_site else places
        self.hosts = tuple(host for site in places for host in environment.hosts_with_role(Role.DATABASE, site=site))
        self.endpoint_hosts = tuple(
            host for site in endpoint_places for host in environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=site)
        )
        database, policy = environment.database, environment.policies.database_switch
        if database.ssh_conn_id is None or database.replication_conn_id is None or policy is None:
            raise ValueError(f"{environment.name} has no policy for switching its database's primary")
        self._replication_conn_id = database.replication_conn_id
        self.policy = policy

    def host(self, name: str) -> Host:
        """A database host."""
        return self.environment.host(name)

    def replication_login(self) -> DatabaseLogin:
        """Whom replicas connect as."""
        return DatabaseLogin.from_connection(self._replication_conn_id)

    def application_login(self) -> DatabaseLogin:
        """Whom the application connects as."""
        return DatabaseLogin.from_connection(self.environment.database.conn_id)

    def states(self) -> ServerStates:
        """Every server, or why it can't be asked."""
        return self._on_servers(self.hosts, lambda server: server.state())

    def endpoint_states(self) -> EndpointStates:
        """Every endpoint, or why it can't be asked."""
        return self._on_endpoints(lambda endpoint: endpoint.state())

    def settled_endpoint_states(self) -> EndpointStates:
        """Every endpoint when each leads to one server, or after ten seconds as it is then.

        HAProxy takes every server for up until its first checks have ended, after a start or a reload.
        """
        give_up_at = time.monotonic() + CHECKS_TIMEOUT_SECONDS
        while True:
            states = self.endpoint_states()
            unsettled = any(len(state.leads_to) != 1 for state in endpoints_that_answer(states))
            if not unsettled or time.monotonic() > give_up_at:
                return states
            time.sleep(POLL_SECONDS)

    def on_server(self, name: str, action: Callable[[DatabaseServer], Result]) -> Result:
        """Do something on one server. Raises OutsideSystemError."""
        return _result(self._on_servers([self.host(name)], action)[name])

    def on_services(self, name: str, action: Callable[[Services], Result]) -> Result:
        """Do something with the services of a database host. Raises OutsideSystemError."""
        answers = on_sites(
            self.environment, [self.host(name)], lambda placed, session: action(services_of(session, placed))
        )
        return _result(answers[name])

    def on_endpoints(self, action: Callable[[DatabaseEndpoint], Result]) -> dict[str, Result]:
        """Do something on all endpoints. Raises OutsideSystemError, after it was tried on every one."""
        answers = self.try_endpoints(action)
        raise_first_error(answers)
        return {name: answer for name, answer in answers.items() if not isinstance(answer, OutsideSystemError)}

    def try_endpoints(self, action: Callable[[DatabaseEndpoint], Result]) -> dict[str, Result | OutsideSystemError]:
        """Do something on all endpoints; errors are returned. Raises FencedOffError."""
        answers = self._on_endpoints(action)
        for answer in answers.values():
            if isinstance(answer, FencedOffError):
                raise answer
        return answers

    def state_of(self, name: str) -> ServerState:
        """One server. Raises OutsideSystemError."""
        return self.on_server(name, lambda server: server.state())

    def await_state(
        self, name: str, condition: Callable[[ServerState], bool], what: str, timeout_seconds: float
    ) -> ServerState:
        """Wait until a server is as it should be. Raises OutsideSystemError that says how it is instead."""
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            state = self.state_of(name)
            if condition(state):
                return state
            if time.monotonic() > give_up_at:
                raise OutsideSystemError(f"{what}: not within {timeout_seconds:g} s, it is {state.words}", host=name)
            time.sleep(POLL_SECONDS)

    def fence_service(self, name: str, fence: Fence) -> None:
        """Stop a server, and keep it from being started by anybody; if it is, it is a replica of nobody."""
        self.on_server(name, lambda server: server.demote(fence))
        self.on_services(name, lambda services: services.fence(Service.POSTGRESQL, fence))

    def start_service(self, name: str, fence: Fence) -> None:
        """Let a server be started again, and start it."""

        def start(services: Services) -> None:
            services.lift_fence(Service.POSTGRESQL, fence)
            services.start(Service.POSTGRESQL, fence)

        self.on_services(name, start)

    def raise_all_tokens(self, fence: Fence) -> dict[str, OutsideSystemError]:
        """Make every host of the environment refuse lower tokens. Returns those that could not be told.

        Raises FencedOffError.
        """
        hosts = {host.name: host for host in (*changed_hosts(self.environment), *self.endpoint_hosts, *self.hosts)}
        answers: dict[str, object] = dict(raise_tokens(self.environment, hosts.values(), fence))
        told = self._on_servers(self.hosts, lambda server: server.raise_token(fence))
        answers |= {f"{name} (as the owner of its cluster)": answer for name, answer in told.items()}
        failed = {name: answer for name, answer in answers.items() if isinstance(answer, OutsideSystemError)}
        for error in failed.values():
            if isinstance(error, FencedOffError):
                raise error
        return failed

    def fence_off(self, fence: Fence, *needed: str) -> None:
        """Refuse from now on, on every host that answers, what an attempt that was given up may still do.

        Airflow starts a teardown while that attempt's process goes on for some seconds: whatever is read after this
        stays as it is. Raises OutsideSystemError when one of the `needed` servers can't be told, FencedOffError.
        """
        untold = self.raise_all_tokens(fence)
        raise_first_error({name: error for name, error in untold.items() if name.partition(" ")[0] in needed})

    def _on_servers(
        self, hosts: Iterable[Host], action: Callable[[DatabaseServer], Result]
    ) -> dict[str, Result | OutsideSystemError]:
        return on_sites(
            self.environment, hosts, lambda placed, session: action(DatabaseServer(placed, session)), as_owner=True
        )

    def _on_endpoints(self, action: Callable[[DatabaseEndpoint], Result]) -> dict[str, Result | OutsideSystemError]:
        return on_sites(
            self.environment,
            self.endpoint_hosts,
            lambda placed, session: action(DatabaseEndpoint(placed, session)),
        )


def pair_of(environment: Environment, plan: SwitchPlan) -> Pair:
    """The servers and endpoints that a plan is about."""
    return Pair(environment, plan.sites, plan.endpoint_site)


def endpoints_that_answer(states: EndpointStates) -> list[EndpointState]:
    """Without those that could not be asked."""
    return [state for state in states.values() if isinstance(state, EndpointState)]


def _result(answer: Result | OutsideSystemError) -> Result:
    if isinstance(answer, OutsideSystemError):
        raise answer
    return answer
