"""Prometheus through the http provider's connection: instant queries, and the alerts that are active."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sebenza_ops.systems.errors import NoDataError, OutsideSystemError

QUERY_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class Sample:
    """One series' value at one moment (seconds since the epoch)."""

    labels: dict[str, str]
    at: float
    value: float


@dataclass(frozen=True)
class ActiveAlert:
    """An alert that Prometheus holds as pending or firing, with the moment since when its condition is true.

    `color` is empty for one that is about no color.
    """

    name: str
    state: str
    severity: str
    environment: str
    active_since: datetime
    summary: str = ""
    color: str = ""


class Prometheus:
    """One Prometheus server.

    Args:
        conn_id: Airflow connection of type http.
    """

    def __init__(self, conn_id: str) -> None:
        from airflow.providers.http.hooks.http import HttpHook

        hook = HttpHook(method="GET", http_conn_id=conn_id)
        # The hook's session is kept: a bake asks several times a second, and `hook.run` connects anew each time.
        self._session = hook.get_conn()
        self._base_url = hook.base_url.rstrip("/")

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """An instant query's series, of this moment or of `at` (epoch seconds); NaN values are left out, as no data.

        Raises OutsideSystemError when Prometheus does not answer or refuses the query.
        """
        moment = {} if at is None else {"time": f"{at:.3f}"}
        data = self._get("/api/v1/query", {"query": expression, **moment})
        with _readable("/api/v1/query"):
            samples = [
                Sample(labels=item["metric"], at=float(item["value"][0]), value=float(item["value"][1]))
                for item in data["result"]
            ]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def scalar(self, expression: str) -> float:
        """The value of a query that gives one series. Raises NoDataError when it gives none."""
        samples = self.query(expression)
        if not samples:
            raise NoDataError(f"no data for {expression}", host="prometheus")
        return samples[0].value

    def alerts(self) -> list[ActiveAlert]:
        """The alerts that are pending or firing now."""
        data = self._get("/api/v1/alerts", {})
        with _readable("/api/v1/alerts"):
            return [
                ActiveAlert(
                    name=item["labels"].get("alertname", ""),
                    state=item["state"],
                    severity=item["labels"].get("severity", ""),
                    environment=item["labels"].get("environment", ""),
                    active_since=datetime.fromisoformat(item["activeAt"]),
                    summary=item.get("annotations", {}).get("summary", ""),
                    color=item["labels"].get("color", ""),
                )
                for item in data["alerts"]
            ]

    def _get(self, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        import requests

        try:
            answer = self._session.get(self._base_url + path, params=parameters, timeout=QUERY_TIMEOUT_SECONDS)
            body = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise OutsideSystemError(f"no answer ({type(error).__name__}: {error})", host="prometheus") from error
        with _readable(path):
            if body.get("status") != "success":
                said = body.get("error", answer.status_code)
                raise OutsideSystemError(f"it refused {path}: {said}", host="prometheus")
            data: dict[str, Any] = body["data"]
        return data


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns an answer of another shape (a proxy's, another server's) into an OutsideSystemError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise OutsideSystemError(
            f"its answer to {path} is not Prometheus' ({type(error).__name__}: {error}): what listens there?",
            host="prometheus",
        ) from error
