"""Waits until an estate has forgotten a load: no request is open, no server is down, no alert of it is on."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from lab import application_hosts, haproxy
from lab.addresses import PROMETHEUS_PORT, endpoint
from lab.configuration import color_backend
from lab.waiting import LabError, until

CALM_SECONDS: Final = 60.0


def await_calm(load_balancers: Sequence[str], since: float) -> None:
    """Wait until the live servers are up and idle and no alert about the application has begun since then (epoch).

    An alert that is on its way counts: its condition is true already, and a deployment would find it firing.
    Raises LabError that says what is still going on.
    """
    _await_none(lambda: [host for host in load_balancers if haproxy.sessions(host)], "requests are still open on")
    for host in load_balancers:
        color = application_hosts.live_color(host)
        if color is None:
            raise LabError(f"{host} has no live color: `python -m lab mend`, or `python -m lab reset production`")
        haproxy.await_servers(host, color_backend(color), CALM_SECONDS)
    await_no_alerts(since)


def _await_none(found: Callable[[], list[str]], what: str) -> None:
    try:
        until(lambda: not found(), what, CALM_SECONDS)
    except LabError:
        raise LabError(f"{what} {', '.join(found())}, {CALM_SECONDS:g} s after the last load") from None


def await_no_alerts(since: float = 0.0) -> None:
    """Wait until no alert about the application is on that has begun since then (epoch); raises LabError."""
    _await_none(lambda: _alerts(since), "alerts about the application are still on:")


def _alerts(since: float) -> list[str]:
    """Alerts about a color whose condition has been true since then or later, firing or not yet."""
    with urllib.request.urlopen(f"http://{endpoint('monitoring', PROMETHEUS_PORT)}/api/v1/alerts", timeout=5) as answer:
        alerts: list[dict[str, Any]] = json.load(answer)["data"]["alerts"]
    return [
        alert["labels"]["alertname"]
        for alert in alerts
        if "color" in alert["labels"] and datetime.fromisoformat(alert["activeAt"]).timestamp() >= since
    ]
