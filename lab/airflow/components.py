"""Which processes make up an Airflow: four for the local one; with Celery, a worker and a triggerer for each queue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.airflow.celery import WORKER_CONCURRENCY, Queue
from lab.airflow.settings import ADDRESS

if TYPE_CHECKING:
    from lab.airflow.settings import AirflowSettings


@dataclass(frozen=True)
class Component:
    """One process of Airflow, with its children.

    Args:
        name: what the supervisor calls it.
        arguments: of the `airflow` command.
        environment: what it is told besides the common environment.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def components(settings: AirflowSettings) -> tuple[Component, ...]:
    """The components of an Airflow, in the order in which they start."""
    # Task logs are on this machine's disk; no second server for them, and none beyond loopback.
    common = (
        Component("api-server", ("api-server", "--host", ADDRESS, "--port", str(settings.port))),
        Component("scheduler", ("scheduler", "--skip-serve-logs")),
        Component("dag-processor", ("dag-processor",)),
    )
    if settings.celery is None:
        return (*common, Component("triggerer", ("triggerer", "--skip-serve-logs")))
    workers = [component for queue in settings.celery.queues for component in _of_queue(settings, queue)]
    return (*common, *workers)


def _of_queue(settings: AirflowSettings, queue: Queue) -> tuple[Component, Component]:
    worker, triggerer = worker_name(queue.name), f"triggerer-{queue.name}"
    secrets = {
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(queue.connections_file)}),
    }
    work = ("celery", "worker", "--skip-serve-logs", "--queues", queue.name, "--concurrency", str(WORKER_CONCURRENCY))
    # Other workers' gossip is for clusters that elect; without it a worker is ready a second earlier.
    work += ("--without-gossip", "--without-mingle", "--celery-hostname", worker)
    work += ("--pid", str(settings.home / f"{worker}.pid"))
    return (
        Component(worker, work, secrets),
        Component(triggerer, ("triggerer", "--skip-serve-logs", "--queues", queue.name), secrets),
    )


def worker_name(queue: str) -> str:
    """The component that works for a queue."""
    return f"worker-{queue}"
