"""The two-source proof that all traffic goes to one color: answers to our requests, and the balancers' counters."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING

from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.environments.models import Application, Color, Environment, Host, Role
from sebenza_ops.evidence.facts import CounterSnapshot, ProofFact
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import LoadBalancerState

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 5.0
# Requests without an answer are sent again for so long. Nothing else is watched meanwhile, so that it is short; the
# bake goes on asking.
ANSWER_DEADLINE_SECONDS = 8.0
SHORTEST_TIMEOUT_SECONDS = 1.0
ASK_AGAIN_SECONDS = 0.2
# A second, for each load balancer: the shortest window of response times is 10 s, and 20 requests are the least there.
SYNTHETIC_REQUESTS = 5
# One wrong answer fails the proof; a few tell what is wrong. A load balancer that hangs would take minutes else.
ENOUGH_WRONG_ANSWERS = 3


class TrustError(Exception):
    """The certificate authority of an environment's load balancers can't be read on this worker."""


@dataclass(frozen=True)
class RequestProof:
    """Answers to requests through one load balancer.

    Args:
        fresh: Requests sent, each on a connection of its own.
        keep_alive: Requests sent on one kept connection.
        matched: Of all these, answered by the expected color and release.
        others: What was answered by another one, or with a failure, in words. One disproves.
        missing: Requests that got no answer until the deadline, in words. These prove nothing, neither way.
    """

    fresh: int
    keep_alive: int
    matched: int
    others: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def answered_wrongly(self) -> bool:
        """Whether an answer came from elsewhere, or said that it failed; no answer at all is not meant."""
        return bool(self.others)

    @property
    def passed(self) -> bool:
        """Whether every single one matched."""
        return self.matched == self.fresh + self.keep_alive > 0


def trusted_context(environment: Environment) -> ssl.SSLContext:
    """What requests through the load balancers trust. Raises TrustError when the environment's CA file is no use."""
    ca_file = environment.load_balancing.ca_file
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrustError(
            f"the CA file of {environment.name}, load_balancing.ca_file {ca_file!r}, can't be used on this worker "
            f"({reason}): without it no request through a load balancer can be proven"
        ) from error


def prove_by_requests(
    environment: Environment,
    color: Color,
    release_id: str | None,
    requests_each: int,
    deadline_seconds: float = ANSWER_DEADLINE_SECONDS,
) -> dict[str, RequestProof]:
    """Send requests as a user would through every load balancer: `requests_each` fresh, as many on one connection.

    A request matches when it is answered below 500 with the X-Color (and, unless `release_id` is None, the X-Release)
    that is expected. One that gets no answer is sent again: once in any case, and on until `deadline_seconds` after the
    beginning; then it is missing, and no more are sent.
    """
    hosts = environment.hosts_with_role(Role.LOAD_BALANCER)
    context = trusted_context(environment)

    def prove(host: Host) -> RequestProof:
        return _Prover(environment, host, context, color, release_id, deadline_seconds).prove(requests_each)

    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        return dict(zip((host.name for host in hosts), pool.map(prove, hosts), strict=True))


class _Prover:
    """Asks one load balancer."""

    def __init__(
        self,
        environment: Environment,
        host: Host,
        context: ssl.SSLContext,
        color: Color,
        release_id: str | None,
        deadline_seconds: float,
    ) -> None:
        self._context, self._color, self._release_id = context, color, release_id
        self._host, self._name = host.name, environment.public_hostname
        port, path = environment.load_balancing.https_port, environment.application.version_path
        self._url = f"https://{host.address}:{port}{path}"
        self._until = time.monotonic() + deadline_seconds
        self._matched = 0
        self._others: list[str] = []
        self._missing: list[str] = []

    def prove(self, requests_each: int) -> RequestProof:
        """Ask on fresh connections, then on one that is kept."""
        fresh = keep_alive = 0
        while fresh < requests_each and not self._is_decided:
            with self._client() as client:
                self._ask(client)
            fresh += 1
        with self._client() as client:
            while keep_alive < requests_each and not self._is_decided:
                self._ask(client)
                keep_alive += 1
        return RequestProof(fresh, keep_alive, self._matched, tuple(self._others), tuple(self._missing))

    @property
    def _is_decided(self) -> bool:
        return len(self._others) >= ENOUGH_WRONG_ANSWERS or bool(self._missing)

    def _client(self) -> httpx.Client:
        import httpx

        return httpx.Client(verify=self._context, trust_env=False)

    def _ask(self, client: httpx.Client) -> None:
        import httpx

        tries = 0
        while True:
            tries += 1
            left = self._until - time.monotonic()
            try:
                # The name is checked against the certificate; the address picks the load balancer.
                answer = client.get(
                    self._url,
                    headers={"Host": self._name},
                    extensions={"sni_hostname": self._name},
                    timeout=min(REQUEST_TIMEOUT_SECONDS, max(left, SHORTEST_TIMEOUT_SECONDS)),
                )
            except httpx.HTTPError as error:
                log.info("%s did not answer (%s)", self._host, type(error).__name__)
                # What is disproven already needs no more answers.
                if tries > 1 and (self._others or time.monotonic() >= self._until):
                    self._missing.append(f"{type(error).__name__}: {error}".rstrip(": "))
                    return
                time.sleep(ASK_AGAIN_SECONDS)
                continue
            self._take(answer)
            return

    def _take(self, answer: httpx.Response) -> None:
        seen = (answer.headers.get("x-color"), answer.headers.get("x-release"))
        if answer.status_code < 500 and seen[0] == self._color.value and self._release_id in (None, seen[1]):
            self._matched += 1
        else:
            self._others.append(f"HTTP {answer.status_code} from {seen[0]} {seen[1]}")


@dataclass(frozen=True)
class CounterProof:
    """What one load balancer's counters grew by between two moments, for the color that was left and the one in use."""

    old_delta: int | None
    new_delta: int | None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the old color got nothing, and the new one something."""
        return self.old_delta == 0 and self.new_delta is not None and self.new_delta > 0


def prove_by_counters(
    environment: Environment, color: Color, before: LoadBalancerStates, after: LoadBalancerStates
) -> dict[str, CounterProof]:
    """Compare the counters of two moments that both lie after the switch."""
    return {
        host.name: _compare(environment, color, before.get(host.name), after.get(host.name))
        for host in environment.hosts_with_role(Role.LOAD_BALANCER)
    }


def _compare(environment: Environment, color: Color, before: object, after: object) -> CounterProof:
    for state in (before, after):
        if not isinstance(state, LoadBalancerState):
            return CounterProof(None, None, f"its counters could not be read ({state or 'not asked'})")
    assert isinstance(before, LoadBalancerState)
    assert isinstance(after, LoadBalancerState)
    if before.process_id != after.process_id:
        return CounterProof(None, None, "HAProxy was reloaded or restarted in between, its counters began anew")
    colors = environment.application.colors
    old, new = colors[color.other].backend, colors[color].backend
    try:
        old_delta = after.backend(old).requests_total - before.backend(old).requests_total
        new_delta = after.backend(new).requests_total - before.backend(new).requests_total
    except NoDataError as error:
        return CounterProof(None, None, str(error))
    if old_delta < 0 or new_delta < 0:
        return CounterProof(None, None, "its counters were cleared in between")
    if old_delta == new_delta == 0:
        return CounterProof(0, 0, "it has counted no request in between")
    return CounterProof(old_delta, new_delta)


def proof_facts(
    color: Color, requests: Mapping[str, RequestProof], counters: Mapping[str, CounterProof], step: str
) -> list[ProofFact]:
    """Both sources' answers as evidence."""
    now = datetime.now(UTC)
    facts = [
        ProofFact(
            source="requests",
            load_balancer=name,
            passed=proof.passed,
            expected_color=color.value,
            detail={
                "fresh": proof.fresh,
                "keep_alive": proof.keep_alive,
                "matched": proof.matched,
                **({"others": list(proof.others)} if proof.others else {}),
                **({"no answer": list(proof.missing)} if proof.missing else {}),
            },
            step=step,
            at=now,
        )
        for name, proof in requests.items()
    ]
    facts += [
        ProofFact(
            source="load_balancer_counters",
            load_balancer=name,
            passed=proof.passed,
            expected_color=color.value,
            detail={
                "old_delta": proof.old_delta,
                "new_delta": proof.new_delta,
                **({"reason": proof.reason} if proof.reason else {}),
            },
            step=step,
            at=now,
        )
        for name, proof in counters.items()
    ]
    return facts


def counter_snapshots(environment: Environment, states: LoadBalancerStates, label: str) -> list[CounterSnapshot]:
    """Every load balancer's counters of both colors at this moment, as evidence."""
    now = datetime.now(UTC)
    return [
        CounterSnapshot(
            at=now,
            label=label,
            load_balancer=state.host,
            backend=ports.backend,
            color=color.value,
            requests_total=state.backend(ports.backend).requests_total,
            responses_5xx=state.backend(ports.backend).responses_5xx,
            sessions_current=state.backend(ports.backend).sessions_current,
        )
        for state in states.values()
        if isinstance(state, LoadBalancerState)
        for color, ports in environment.application.colors.items()
    ]


def wrong_answers(
    color: Color, release_id: str | None, requests: Mapping[str, RequestProof], counters: Mapping[str, CounterProof]
) -> list[str]:
    """What contradicts it that all traffic goes to a color's release, by either source, in words.

    Answers that are missing and counters that could not be compared (a reload in between) prove nothing wrong.
    """
    wrong = [
        f"{name}: {len(proof.others)} of {proof.fresh + proof.keep_alive} answers did not come from {color} "
        f"{release_id or ''} ({', '.join(proof.others[:2])})"
        for name, proof in requests.items()
        if proof.others
    ]
    return wrong + [
        f"{name}: its counters show {proof.old_delta} requests to {color.other} and {proof.new_delta} to {color}"
        for name, proof in counters.items()
        if not proof.passed and not proof.reason
    ]


def missing_answers(requests: Mapping[str, RequestProof]) -> list[str]:
    """Which load balancers have left requests without an answer, so that nothing is proven yet, in words."""
    return [
        f"{name} does not answer the proof's requests ({proof.missing[0]})"
        if proof.missing
        else f"{name} was sent no request"
        for name, proof in requests.items()
        if not proof.passed and not proof.others
    ]


def synthetic_paths(application: Application) -> list[str]:
    """The warm-up paths that count as users' requests, over and over, as many as a judgement a second needs."""
    own = application.measured_paths
    return list(islice(cycle(own), max(len(own), SYNTHETIC_REQUESTS))) if own else []


def send_synthetic_requests(environment: Environment) -> None:
    """Ask the warm-up paths through every load balancer, so that an environment without users can be judged.

    What comes back is judged where all traffic is: at the load balancers' counters and in Prometheus.
    """
    import httpx

    context = trusted_context(environment)
    name = environment.public_hostname
    with httpx.Client(verify=context, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False) as client:
        for host in environment.hosts_with_role(Role.LOAD_BALANCER):
            base = f"https://{host.address}:{environment.load_balancing.https_port}"
            for path in synthetic_paths(environment.application):
                try:
                    client.get(base + path, headers={"Host": name}, extensions={"sni_hostname": name})
                except httpx.HTTPError as error:
                    log.info("synthetic request %s through %s: %s", path, host.name, error)
