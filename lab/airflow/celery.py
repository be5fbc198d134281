"""Airflow on one machine as a team installs it on several: PostgreSQL, Redis, and workers of their own for each queue.

The same components as in docker-compose.yaml, without containers, so that the tests can kill them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A deployment holds one slot while it bakes and two while it deploys to hosts in parallel.
WORKER_CONCURRENCY: Final = 4

#: What CeleryExecutor needs, beside addresses. docker-compose.yaml says the same, and a test compares them.
CELERY_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "celery": {
        # A task is taken when there is a process for it: what waits stays where another worker can get it.
        "worker_prefetch_multiplier": "1",
        "worker_concurrency": str(WORKER_CONCURRENCY),
        # Loaded once, before the worker forks: see plugins/sebenza_ops/preloaded.py.
        "extra_celery_config": json.dumps({"imports": ["sebenza_ops.preloaded"]}),
    },
    # Longer than any task may take. A killed worker's task is found by its missing heartbeat, far sooner.
    "celery_broker_transport_options": {"visibility_timeout": "86400"},
    # Only the local executor rests in the scheduler's place.
    "scheduler": {"scheduler_idle_sleep_time": "0.2"},
    # A trigger has its environment's credentials, so it runs where they are.
    "triggerer": {"queues_enabled": "True"},
}


@dataclass(frozen=True)
class Queue:
    """A queue with one worker and one triggerer.

    Args:
        name: the environment's name, or `default`.
        connections_file: what its worker and its triggerer know; nobody else reads it.
    """

    name: str
    connections_file: Path


@dataclass(frozen=True)
class CelerySettings:
    """What CeleryExecutor needs.

    Args:
        database_url: SQLAlchemy URL of the metadata, on PostgreSQL.
        broker_url: Redis.
        queues: one worker and one triggerer for each.
    """

    database_url: str
    broker_url: str
    queues: tuple[Queue, ...]

    def sections(self) -> dict[str, dict[str, str]]:
        """Sections of airflow.cfg that differ from the local Airflow's."""
        addresses = {
            "core": {"executor": "CeleryExecutor"},
            "database": {"sql_alchemy_conn": self.database_url},
            "celery": {"broker_url": self.broker_url},
        }
        return {
            section: {**addresses.get(section, {}), **CELERY_SETTINGS.get(section, {})}
            for section in {**addresses, **CELERY_SETTINGS}
        }
