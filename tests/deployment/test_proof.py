"""The two-source proof: answers through a real HAProxy, and its counters."""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from sebenza_ops.deployment.proof import (
    RequestProof,
    TrustError,
    missing_answers,
    proof_facts,
    prove_by_counters,
    prove_by_requests,
    trusted_context,
    wrong_answers,
)
from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.systems.errors import HostUnreachableError
from sebenza_ops.systems.haproxy import LoadBalancerState
from tests.deployment.estate import backend_state, balancer
from tests.hosts.load_balancer import LoadBalancerUnderTest, load_balancer
from tests.systems.certificates import Authority
from tests.systems.estates import changed, shipped
from tests.systems.processes import LOOPBACK, free_port

PRODUCTION = shipped("production")


def counters(name: str, blue: int, green: int, pid: int = 1) -> LoadBalancerState:
    backends = {"bk_blue": backend_state("bk_blue", blue), "bk_green": backend_state("bk_green", green)}
    return balancer(name, "bk_green", backends=backends, process_id=pid)


GONE = HostUnreachableError("no answer", host="lb1")


@pytest.mark.parametrize(
    ("before", "after", "passed", "reason"),
    [
        (counters("lb1", 50, 10), counters("lb1", 50, 30), True, ""),
        (counters("lb1", 50, 10), counters("lb1", 51, 30), False, ""),
        (counters("lb1", 50, 10), counters("lb1", 50, 10), False, "counted no request"),
        (counters("lb1", 50, 10), counters("lb1", 50, 30, pid=2), False, "reloaded or restarted"),
        (counters("lb1", 50, 10), counters("lb1", 0, 5), False, "cleared"),
        (GONE, counters("lb1", 50, 30), False, "lb1: no answer"),
        (counters("lb1", 50, 10), GONE, False, "lb1: no answer"),
        (None, None, False, "not asked"),
        (counters("lb1", 50, 10), replace(counters("lb1", 50, 30), backends={}), False, "no backend"),
    ],
)
def test_counters_of_one_balancer(before: object, after: object, passed: bool, reason: str) -> None:
    good = {"lb2": counters("lb2", 1, 1)}
    first = {**good, **({"lb1": before} if before else {})}
    second = {"lb2": counters("lb2", 1, 9), **({"lb1": after} if after else {})}
    proofs = prove_by_counters(PRODUCTION, Color.GREEN, first, second)  # type: ignore[arg-type]
    assert proofs["lb2"].passed
    assert proofs["lb1"].passed is passed
    assert reason in proofs["lb1"].reason
    assert bool(reason) == bool(proofs["lb1"].reason), "counters that can't be compared must not read as a wrong color"


def test_no_request_at_all_proves_nothing() -> None:
    assert not RequestProof(0, 0, 0).passed


@pytest.fixture(scope="module")
def live_blue() -> Iterator[LoadBalancerUnderTest]:
    directory = Path(tempfile.mkdtemp(prefix="sebenza-"))
    with load_balancer(directory) as found:
        found.map_file.write_text("active bk_blue\n")
        with found.running():
            yield found
    shutil.rmtree(directory)


@contextmanager
def cutting_proxy(target_port: int, cut: Container[int]) -> Iterator[int]:
    """Passes connections on, but closes those whose number (from 1 on) is in `cut` at once. Yields its port."""
    numbers = count(1)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if next(numbers) in cut:
                return
            with socket.create_connection((LOOPBACK, target_port)) as upstream:
                back = threading.Thread(target=_pump, args=(upstream, self.request), daemon=True)
                back.start()
                _pump(self.request, upstream)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def environment(balancer_: LoadBalancerUnderTest, **load_balancing: object) -> Environment:
    """Production with the one load balancer that runs."""
    hosts = tuple(h.model_copy(update={"address": LOOPBACK}) for h in PRODUCTION.hosts if h.name != "lb2")
    ports = {"https_port": balancer_.https_port, "ca_file": str(balancer_.authority.ca_file)}
    return changed("production", hosts=hosts, load_balancing={**ports, **load_balancing})


@pytest.mark.integration
def test_answers_of_the_live_color_prove_it(live_blue: LoadBalancerUnderTest) -> None:
    before = live_blue.state()
    proof = prove_by_requests(environment(live_blue), Color.BLUE, None, 5)["lb1"]
    assert proof == RequestProof(5, 5, 10)
    assert proof.passed
    grown = live_blue.state().backend("bk_blue").requests_total - before.backend("bk_blue").requests_total
    assert grown == 10, "the load balancer has not seen what was counted"


@pytest.mark.integration
@pytest.mark.parametrize(("color", "release"), [(Color.GREEN, None), (Color.BLUE, "v9.9.9-000000000000")])
def test_another_color_or_release_fails_the_proof_soon(
    live_blue: LoadBalancerUnderTest, color: Color, release: str | None
) -> None:
    proof = prove_by_requests(environment(live_blue), color, release, 50)["lb1"]
    assert not proof.passed
    assert proof.answered_wrongly
    assert proof.matched == 0
    assert proof.fresh + proof.keep_alive < 10, "a proof that has failed goes on and keeps traffic on a wrong color"
    assert proof.others[0].startswith("HTTP 200 from blue")


@pytest.mark.integration
def test_a_balancer_that_does_not_answer_is_not_a_wrong_answer(live_blue: LoadBalancerUnderTest) -> None:
    closed = environment(live_blue, https_port=free_port())
    proof = prove_by_requests(closed, Color.BLUE, None, 50, deadline_seconds=0)["lb1"]
    assert not proof.passed
    assert not proof.answered_wrongly
    assert proof.fresh + proof.keep_alive == 1, "what does not answer was asked on and on"
    assert "ConnectError" in proof.missing[0]


@pytest.mark.integration
def test_a_certificate_of_somebody_else_is_no_answer(live_blue: LoadBalancerUnderTest, tmp_path: Path) -> None:
    other = environment(live_blue, ca_file=str(Authority(tmp_path).ca_file))
    proof = prove_by_requests(other, Color.BLUE, None, 2, deadline_seconds=0)["lb1"]
    assert proof.matched == 0, "anybody may answer for the load balancer"
    assert "certificate" in proof.missing[0].lower()


@pytest.mark.integration
def test_an_answer_that_is_missing_is_asked_for_again(live_blue: LoadBalancerUnderTest) -> None:
    """Connections that are cut: a few of the requests, on a good release."""
    with cutting_proxy(live_blue.https_port, cut={2, 5, 7}) as port:
        proof = prove_by_requests(environment(live_blue, https_port=port), Color.BLUE, None, 5, 30)["lb1"]
    assert proof == RequestProof(5, 5, 10), "a missing answer was counted as one"


@pytest.mark.integration
def test_answers_that_stay_missing_are_neither_wrong_nor_a_proof(live_blue: LoadBalancerUnderTest) -> None:
    with cutting_proxy(live_blue.https_port, cut=range(3, 10_000)) as port:
        requests = prove_by_requests(environment(live_blue, https_port=port), Color.BLUE, None, 5, 1)
    assert not requests["lb1"].passed
    assert wrong_answers(Color.BLUE, None, requests, {}) == []
    assert "lb1 does not answer" in missing_answers(requests)[0]


@pytest.mark.integration
def test_a_wrong_answer_is_not_waited_for(live_blue: LoadBalancerUnderTest) -> None:
    """What is disproven needs no more answers: the next one that is missing ends it, long before the deadline."""
    with cutting_proxy(live_blue.https_port, cut=range(2, 10_000)) as port:
        proof = prove_by_requests(environment(live_blue, https_port=port), Color.GREEN, None, 50, 3600)["lb1"]
    assert proof.answered_wrongly
    assert wrong_answers(Color.GREEN, None, {"lb1": proof}, {})


@pytest.mark.integration
def test_both_sources_become_evidence(live_blue: LoadBalancerUnderTest) -> None:
    env = environment(live_blue)
    before = {"lb1": live_blue.state()}
    requests = prove_by_requests(env, Color.BLUE, None, 2)
    proofs = prove_by_counters(env, Color.BLUE, before, {"lb1": live_blue.state()})
    facts = proof_facts(Color.BLUE, requests, proofs, "switch")
    assert [(fact.source, fact.passed) for fact in facts] == [("requests", True), ("load_balancer_counters", True)]
    assert facts[1].detail["new_delta"] == 4


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_is_no_use_is_named(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    environment = changed("production", load_balancing={"ca_file": str(ca_file)})
    with pytest.raises(TrustError, match=r"CA file of production, load_balancing\.ca_file '.*ca\.pem'"):
        trusted_context(environment)
