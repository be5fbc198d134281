"""Whether application hosts answer healthily, and with the release that they should, by what others hear from them.

Answers come by the name of the host that asked; None: it could not be asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sebenza_ops.systems.haproxy import parse_probe

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


def _short(text: str) -> str:
    return " ".join(text.split())[:160]
