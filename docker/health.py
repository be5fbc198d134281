"""Whether the process of this container does its work: exit code 0, or 1 with one line that says what is missing.

Asks what everybody else relies on: the API server's own answer, the heartbeat in the metadata database, the worker's
answer over the broker. Without importing Airflow, which takes seconds of a processor each time.

    health.py api | worker | SchedulerJob | DagProcessorJob | TriggererJob
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from pathlib import Path

# Airflow's own thresholds are shorter; a container is started again for nothing less than this.
HEARTBEAT_SECONDS = 60
ANSWER_SECONDS = 5.0


def secret(name: str) -> str:
    """The content of a secret file."""
    return Path(f"/run/secrets/{name}").read_text().strip()


def api() -> str:
    """The API server answers, and reaches its database."""
    port = os.environ.get("AIRFLOW__API__PORT", "8080")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=ANSWER_SECONDS) as answer:
        text = answer.read().decode()
    return "" if '"metadatabase":{"status":"healthy"}' in text.replace(" ", "") else f"it says {text[:300]}"


def worker() -> str:
    """The Celery worker of this container answers over the broker."""
    from celery import Celery

    name = f"celery@{socket.gethostname()}"
    with Celery(broker=secret("broker_url")) as application:
        answers = application.control.ping(destination=[name], timeout=ANSWER_SECONDS)
    return "" if answers else f"{name} does not answer over the broker"


def job(kind: str) -> str:
    """The newest job of this kind on this host has had a heartbeat not long ago."""
    import psycopg2

    connection = psycopg2.connect(secret("metadata_url").replace("+psycopg2", ""), connect_timeout=int(ANSWER_SECONDS))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM now() - latest_heartbeat) FROM job"
            " WHERE job_type = %s AND hostname = %s AND state = 'running' ORDER BY latest_heartbeat DESC LIMIT 1",
            (kind, socket.gethostname()),
        )
        row = cursor.fetchone()
    connection.close()
    if row is None:
        return f"no running {kind} of {socket.gethostname()} in the metadata database"
    return "" if row[0] <= HEARTBEAT_SECONDS else f"the last heartbeat of {kind} is {row[0]:.0f} s old"


def main() -> int:
    """Ask, and say what is wrong."""
    kind = sys.argv[1]
    checks = {"api": api, "worker": worker}
    try:
        problem = checks[kind]() if kind in checks else job(kind)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
