"""Smoke tests: the policy's list of requests, made as a user would, on a release that was just deployed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sebenza_ops.deployment.proof import trusted_context
from sebenza_ops.environments.models import Environment, Host, Role, SmokeTest


class SmokeTestsFailedError(Exception):
    """At least one smoke test did not pass; the message names each and what came back."""


@dataclass(frozen=True)
class SmokeResult:
    """One smoke test through one load balancer. `problem` is empty when it passed."""

    name: str
    load_balancer: str
    seconds: float
    problem: str = ""

    @property
    def text(self) -> str:
        """The result in a line."""
        return f"{self.name} through {self.load_balancer}: {self.problem or 'passed'} ({self.seconds * 1000:.0f} ms)"


def judge_answer(test: SmokeTest, release_id: str, status: int, release: str | None, text: str, seconds: float) -> str:
    """What is wrong with an answer, or an empty text.

    Args:
        test: What was asked, and what must come back.
        release_id: The release that must answer.
        status: HTTP status of the answer.
        release: Its X-Release, if it has one.
        text: Its body.
        seconds: How long it took.
    """
    if release is not None and release != release_id:
        return f"{release} answered, not {release_id}"
    if status != test.status:
        return f"HTTP {status}, expected {test.status}"
    missing = [part for part in test.contains if part not in text]
    if missing:
        return f"the answer has no {', '.join(map(repr, missing))}"
    if seconds > test.maximum_seconds:
        return f"took {seconds:.1f} s, more than {test.maximum_seconds:g} s"
    return ""


def run_smoke_tests(environment: Environment, release_id: str) -> list[SmokeResult]:
    """Make every request of the policy through every load balancer.

    Raises SmokeTestsFailedError when one did not pass, and when the policy has none.
    """
    policy = environment.policies.deployment
    if policy is None or not policy.smoke_tests:
        raise SmokeTestsFailedError(
            f"{environment.name} has no smoke tests: list them in its policies.deployment.smoke_tests"
        )
    headers = _headers(environment, policy.smoke_conn_id)
    results = [
        _try(environment, host, test, release_id, headers)
        for host in environment.hosts_with_role(Role.LOAD_BALANCER)
        for test in policy.smoke_tests
    ]
    failed = [result.text for result in results if result.problem]
    if failed:
        raise SmokeTestsFailedError(f"{len(failed)} of {len(results)} smoke tests failed: {'; '.join(failed)}")
    return results


def _headers(environment: Environment, conn_id: str | None) -> dict[str, str]:
    headers = {"Host": environment.public_hostname}
    if conn_id is not None:
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            headers["Authorization"] = f"Bearer {BaseHook.get_connection(conn_id).password}"
        except AirflowNotFoundException as error:
            raise SmokeTestsFailedError(f"there is no connection {conn_id} with the smoke tests' token") from error
    return headers


def _try(
    environment: Environment, host: Host, test: SmokeTest, release_id: str, headers: Mapping[str, str]
) -> SmokeResult:
    import httpx

    name = environment.public_hostname
    url = f"https://{host.address}:{environment.load_balancing.https_port}{test.path}"
    began = time.monotonic()
    try:
        with httpx.Client(
            verify=trusted_context(environment), timeout=test.maximum_seconds + 5, trust_env=False
        ) as client:
            answer = client.request(
                test.method, url, json=test.body, headers=headers, extensions={"sni_hostname": name}
            )
    except httpx.HTTPError as error:
        return SmokeResult(test.name, host.name, time.monotonic() - began, f"{type(error).__name__}: {error}")
    took = time.monotonic() - began
    release = answer.headers.get("x-release")
    return SmokeResult(
        test.name, host.name, took, judge_answer(test, release_id, answer.status_code, release, answer.text, took)
    )
