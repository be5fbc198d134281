"""The provider's PagerDuty hook, with the two things that it lacks.

Its address is fixed to the US service region, and its client retries for minutes by itself, without end on
a rate limit, which would hold up every message behind it. Imported only where a message is sent.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import pagerduty
from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsHook, prepare_event_data

_RETRIED_BY_OUTBOX = (429, 500, 502, 503, 504)


class OneAttemptClient(pagerduty.EventsApiV2Client):
    """A client that asks once and tells what came of it."""

    # Below zero: the client compares the attempts made so far with "greater than".
    max_http_attempts = -1
    max_network_attempts = 0

    def __init__(self, routing_key: str, base_url: str | None, timeout_seconds: int) -> None:
        super().__init__(routing_key, base_url=base_url)
        self.timeout = timeout_seconds
        self.retry.update(dict.fromkeys(_RETRIED_BY_OUTBOX, 1))

    @property
    def url(self) -> str:
        """The API's address: HTTPS, or HTTP within this machine."""
        return self._address

    @url.setter
    def url(self, base_url: str) -> None:
        if not base_url.startswith("https://") and not _is_loopback(base_url):
            raise pagerduty.UrlError(
                f"PagerDuty's address must be https:// as the integration key travels in it, not {base_url}; "
                "correct the host of the connection"
            )
        self._address = base_url


class RegionalPagerdutyEventsHook(PagerdutyEventsHook):
    """The provider's hook with the API's address from the connection's host, and no retries of its own."""

    def __init__(self, pagerduty_events_conn_id: str, timeout_seconds: int) -> None:
        super().__init__(pagerduty_events_conn_id=pagerduty_events_conn_id)
        self._base_url = _address(self.get_connection(pagerduty_events_conn_id).host)
        self._timeout_seconds = timeout_seconds

    def send_event(self, *args: Any, **kwargs: Any) -> str:
        """Send one event, as the provider's hook does; returns its dedup key. Raises pagerduty.Error."""
        data = prepare_event_data(*args, **kwargs)
        client = OneAttemptClient(self.integration_key, self._base_url, self._timeout_seconds)
        dedup_key: str = client.send_event(**data)
        return dedup_key


def _address(host: str | None) -> str | None:
    if not host:
        return None
    return host.rstrip("/") if "://" in host else f"https://{host}"


def _is_loopback(url: str) -> bool:
    hostname = urlsplit(url).hostname or ""
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
