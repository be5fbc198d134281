"""What deployments wait for, as pure rules over the answers of host scripts.

Each takes the answers by host name (None: the host could not be asked) and returns what is still missing, in words;
an empty list ends the wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sebenza_ops.systems.build_host import parse_status
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import parse_probe, parse_state

Answers = Mapping[str, str | None]


def missing_healthy_release(
    answers: Answers, *, version_urls: Mapping[str, str], health_urls: Mapping[str, str], release_id: str
) -> list[str]:
    """What is missing until every application host is healthy with this release, seen from every load balancer.

    Args:
        answers: Output of lb_probe.sh by load balancer.
        version_urls: By application host, its idle color's version page.
        health_urls: By application host, its idle color's health check.
        release_id: The release that must answer: a healthy process of another one is a trap.
    """
    missing: list[str] = []
    for balancer, text in answers.items():
        if text is None:
            missing.append(f"{balancer} can't be asked")
            continue
        probed = parse_probe(text)
        for host in version_urls:
            status, body = probed.get(health_urls[host], (0, ""))
            problem = _wrong_release(probed.get(version_urls[host], (0, "")), release_id)
            if problem is None and status != 200:
                problem = f"health check answers {status or 'nothing'} {_short(body)}".rstrip()
            if problem is not None:
                missing.append(f"{host} seen from {balancer}: {problem}")
    return missing


def _wrong_release(answer: tuple[int, str], release_id: str) -> str | None:
    status, body = answer
    if status != 200:
        return f"version page answers {status or 'nothing'}"
    try:
        found = json.loads(body).get("release_id")
    except (ValueError, AttributeError):
        return f"version page is no JSON object: {_short(body)}"
    return None if found == release_id else f"it says it is {found}, not {release_id}"


def missing_drained_sessions(answers: Answers, *, backend: str, key: str) -> list[str]:
    """What is missing until no load balancer has a session left on a backend."""
    missing: list[str] = []
    for balancer, text in answers.items():
        try:
            if text is None:
                raise NoDataError("it can't be asked", host=balancer)
            sessions = parse_state(balancer, text, key, datetime.now(UTC)).backend(backend).sessions_current
        except NoDataError as error:
            missing.append(str(error))
            continue
        if sessions:
            missing.append(f"{balancer} has {sessions} sessions left on {backend}")
    return missing


def missing_build(answers: Answers) -> list[str]:
    """What is missing until a build has ended, well or badly."""
    missing: list[str] = []
    for host, text in answers.items():
        if text is None:
            missing.append(f"{host} can't be asked")
            continue
        try:
            status = parse_status(text, host)
        except NoDataError as error:
            missing.append(str(error))
            continue
        if status.state == "running":
            missing.append(f"the build runs: {status.log_tail[-200:]}")
    return missing


def _short(text: str) -> str:
    return " ".join(text.split())[:160]


JUDGES: Mapping[str, Callable[..., list[str]]] = {
    judge.__name__: judge for judge in (missing_healthy_release, missing_drained_sessions, missing_build)
}
"""The rules by name, for a trigger that carries only the name. Values take the answers and keyword arguments."""
