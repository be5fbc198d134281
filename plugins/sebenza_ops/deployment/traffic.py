"""All load balancers of an environment at once: what they do, and moving traffic on every one of them.

A control keeps one SSH session for each load balancer open, so that a switch is one command away, and asks them in
parallel, so that one that hangs keeps nobody waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from sebenza_ops.deployment.reconcile import LoadBalancerStates, color_of_backend
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancer, LoadBalancerState
from sebenza_ops.systems.ssh import Fence, HostSession, give_back, take_session

# A load balancer that takes longer than this to answer has not answered (its command may still arrive).
ANSWER_TIMEOUT_SECONDS = 4.0
# Outside of a bake there is time: a first answer includes the login.
PATIENT_TIMEOUT_SECONDS = 20.0
# Sessions are open when a switch is sent. A load balancer that does not answer by then is taken as not switched, and
# the others go back: traffic must not stay divided while somebody waits.
SWITCH_TIMEOUT_SECONDS = 5.0
PERSIST_TIMEOUT_SECONDS = 30.0
PROBE_TIMEOUT_SECONDS = 12.0
ABANDON_AFTER_SECONDS = 20.0
RETRY_PAUSE_SECONDS = 0.5

Result = TypeVar("Result")


class SplitTrafficError(OutsideSystemError):
    """Load balancers send traffic to different colors, or one can't tell, and it could not be mended from here."""


@dataclass(frozen=True)
class _Pending:
    what: str
    future: Future[Any]
    since: float


class TrafficControl:
    """The load balancers of one environment. A context manager: it connects on entry as far as it can.

    Args:
        environment: The inventory's environment.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        hosts = environment.hosts_with_role(Role.LOAD_BALANCER)
        self._balancers = {
            host.name: LoadBalancer(environment, take_session(host, environment.ssh_conn_id)) for host in hosts
        }
        # One thread each: a session serves one command at a time, and a hanging one blocks only its own thread.
        self._threads = {name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) for name in self._balancers}
        self._pending: dict[str, _Pending] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for executor in self._threads.values():
            executor.shutdown(wait=False, cancel_futures=True)
        for name, balancer in self._balancers.items():
            pending = self._pending.get(name)
            if pending is not None and not pending.future.done():
                # It hangs: nobody else is to wait behind it.
                balancer.session.close()
            else:
                give_back(balancer.session, self.environment.ssh_conn_id)

    @property
    def names(self) -> tuple[str, ...]:
        """The load balancers' host names."""
        return tuple(self._balancers)

    def states(self, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> LoadBalancerStates:
        """Every load balancer's state, or why there is none, within `timeout_seconds`."""
        return self._on_all("state", lambda balancer: balancer.state(), timeout_seconds)

    def switch(
        self, color: Color, fence: Fence, names: Iterable[str] | None = None
    ) -> Mapping[str, OutsideSystemError | None]:
        """Send new requests to `color` on all load balancers (or those named) at once; what went wrong, by name."""
        return self._on_all("switch", lambda balancer: balancer.switch(color, fence), SWITCH_TIMEOUT_SECONDS, names)

    def persist(self, color: Color, fence: Fence) -> Mapping[str, OutsideSystemError | None]:
        """Make `color` survive a reload on all load balancers: map file, then marker."""
        return self._on_all("persist", lambda balancer: balancer.persist(color, fence), PERSIST_TIMEOUT_SECONDS)

    def rotate(
        self, color: Color, servers: Sequence[str], *, in_rotation: bool, minimum: int, fence: Fence
    ) -> Mapping[str, OutsideSystemError | None]:
        """Put servers of a color into rotation, or drain them, on all load balancers at once; what went wrong, by name.

        Each load balancer itself refuses a drain that would leave fewer than `minimum` other servers in rotation.
        """
        return self._on_all(
            "rotate",
            lambda balancer: balancer.rotate(color, servers, in_rotation=in_rotation, minimum=minimum, fence=fence),
            SWITCH_TIMEOUT_SECONDS,
        )

    def probe(self, urls: Sequence[str]) -> dict[str, str | None]:
        """Ask URLs from every load balancer's place: the answers as the waits judge them, None without one."""
        answers = self._on_all("probe", lambda balancer: balancer.probe_text(urls, 2.0), PROBE_TIMEOUT_SECONDS)
        return {name: answer if isinstance(answer, str) else None for name, answer in answers.items()}

    def warm_up(self, urls: list[str], requests_each: int) -> Mapping[str, tuple[int, int] | OutsideSystemError]:
        """Ask the idle color from every load balancer's place: (answered, failed) by load balancer."""
        return self._on_all("warm-up", lambda balancer: balancer.warm_up(urls, requests_each), 90.0)

    def settle(self, color: Color, fence: Fence, deadline_seconds: float) -> dict[str, str]:
        """Bring all load balancers to `color`, trying again until the deadline.

        Returns: the load balancers that are not known to send to `color`, each with the reason; empty when all do.

        Raises:
            FencedOffError: A later change holds the environment; what it does is its own affair.
        """
        until = time.monotonic() + deadline_seconds
        backend = self.environment.application.colors[color].backend
        missing = dict.fromkeys(self._balancers, "not asked yet")
        while True:
            results = self.switch(color, fence, missing)
            for name, result in results.items():
                if isinstance(result, FencedOffError):
                    raise result
                if result is None:
                    missing.pop(name, None)
                else:
                    missing[name] = str(result)
            if not missing:
                states = self.states()
                missing = {
                    name: ""
                    if isinstance(state, OutsideSystemError)
                    else f"{name}: its map says {state.runtime_backend}"
                    for name, state in states.items()
                    if not (isinstance(state, LoadBalancerState) and state.runtime_backend == backend)
                } | {name: str(state) for name, state in states.items() if isinstance(state, OutsideSystemError)}
                if not missing:
                    return {}
            if time.monotonic() >= until:
                return missing
            time.sleep(RETRY_PAUSE_SECONDS)

    def _on_all(
        self,
        what: str,
        action: Callable[[LoadBalancer], Result],
        timeout_seconds: float,
        names: Iterable[str] | None = None,
    ) -> dict[str, Result | OutsideSystemError]:
        futures: dict[str, Future[Result]] = {}
        for name in list(self._balancers if names is None else names):
            pending = self._pending.get(name)
            if pending is not None and not pending.future.done():
                # A question that is still under way will be answered; a command must not wait behind it.
                if pending.what == what == "state" and time.monotonic() - pending.since < ABANDON_AFTER_SECONDS:
                    futures[name] = pending.future
                    continue
                self._abandon(name)
            futures[name] = self._threads[name].submit(action, self._balancers[name])
            self._pending[name] = _Pending(what, futures[name], time.monotonic())
        wait(futures.values(), timeout=timeout_seconds)
        return {name: self._outcome(name, future, timeout_seconds) for name, future in futures.items()}

    def _outcome(self, name: str, future: Future[Any], timeout_seconds: float) -> Any:
        if not future.done():
            return HostUnreachableError(f"no answer within {timeout_seconds:g} s", host=name)
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, OutsideSystemError):
            return error
        raise error

    def _abandon(self, name: str) -> None:
        """Give up a command that hangs: its connection is closed and a new one is made in a new thread."""
        host = self._balancers[name].session.host
        self._balancers[name].session.close()
        self._threads[name].shutdown(wait=False, cancel_futures=True)
        self._threads[name] = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._balancers[name] = LoadBalancer(self.environment, HostSession(host, self.environment.ssh_conn_id))


def colors_now(environment: Environment, states: LoadBalancerStates) -> dict[str, Color | None]:
    """The color that each load balancer sends to; None where it can't be told."""
    return {
        name: color_of_backend(environment.application, state.runtime_backend)
        if isinstance(state, LoadBalancerState)
        else None
        for name, state in states.items()
    }
