"""An object of production's backups is spoiled in the lab: the verification names it, and restores all the same."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from tests.deployment.test_lease_procedures import ended
from tests.schedules import await_idle, switched_on

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

BACKUP, VERIFY = "backup_database.production", "verify_backups.production"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """Production has a new backup. Schedules that never ran begin at once, and are awaited."""
    with airflow.client("operator") as client, airflow.client("admin") as admin:
        for dag_id in (VERIFY, BACKUP):
            switched_on(client, admin, dag_id)
        assert ended(client, BACKUP, {"type": "full"})[0] == "success"
        yield client
        for dag_id in (VERIFY, BACKUP):
            admin.set_paused(dag_id, True)


def idle(client: AirflowClient) -> None:
    """No run holds the lease of backups any more: a backup sets its verification off."""
    for dag_id in (BACKUP, VERIFY):
        await_idle(client, dag_id)


def verified(client: AirflowClient) -> tuple[str, dict[str, str | None], str]:
    idle(client)
    return ended(client, VERIFY, {"repository": "yes"})


@pytest.mark.parametrize(
    ("kind", "how", "told"),
    [
        ("manifest-copy", "gone", "is right, its copy is gone or damaged"),
        ("dump", "cut", "is not what was sent: it was damaged, or cut"),
    ],
)
def test_what_is_damaged_is_named_and_the_set_restored(
    operator: AirflowClient, faults: ModuleType, kind: str, how: str, told: str
) -> None:
    with faults.damage_backup("production", kind, how):
        state, tasks, run_id = verified(operator)
        assert (state, tasks["restore_set"], tasks["conclude"]) == ("failed", "success", "failed"), tasks
        assert told in str(operator.xcom(VERIFY, run_id, "check_repository"))
    state, tasks, run_id = verified(operator)
    assert state == "success", tasks
    assert operator.xcom(VERIFY, run_id, "check_repository") == []
    outcome = operator.xcom(VERIFY, run_id, "restore_set")
    assert outcome["projected_restore_seconds"] is None
    assert "tell nothing of more" in str(outcome["projection_basis"])
