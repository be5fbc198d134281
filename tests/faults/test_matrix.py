"""The scenarios themselves: complete, told apart, and documented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from lab import paths
from lab.chaos.__main__ import keep
from lab.chaos.catalog import SCENARIOS, SELECTED, chosen
from lab.chaos.matrix import PAGE, page
from lab.chaos.moments import BACKUP_STEPS, STEPS
from lab.chaos.scenario import Result

DAG_FILE = paths.CHECKOUT / "dags/deployment/deploy_blue_green.py"
BACKUP_FILE = paths.CHECKOUT / "dags/backup/backup_database.py"


def test_the_page_is_what_the_scenarios_say():
    assert PAGE.read_text() == page(), "stale: write it with `python -m lab.chaos.matrix`"


def test_names_are_unique():
    names = [scenario.name for scenario in SCENARIOS]

    assert len(names) == len(set(names))


def test_faults_strike_at_every_step_of_the_dag(monkeypatch: pytest.MonkeyPatch):
    """As in the lab's production, which demands no gates at its start."""
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(paths.CHECKOUT / "include/environments"))
    bag = DagBag(dag_folder=DAG_FILE)

    assert set(bag.dags["deploy_blue_green.development"].task_dict) == set(STEPS)


def test_faults_strike_at_every_step_of_a_backup(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(paths.CHECKOUT / "include/environments"))
    dag = DagBag(dag_folder=BACKUP_FILE).dags["backup_database.production"]

    assert tuple(task.task_id for task in dag.topological_sort()) == BACKUP_STEPS
    for fault in ("task-killed", "worker-killed", "marked-failed"):
        for step in BACKUP_STEPS:
            assert chosen([f"backup-{fault}-{step.replace('_', '-')}"])


@pytest.mark.parametrize("fault", ["task-killed", "worker-killed", "marked-failed", "cleared"])
@pytest.mark.parametrize("moment", [*STEPS, "inside-the-switch", "between-the-load-balancers", "inside-the-bake"])
def test_each_of_them_strikes_everywhere(fault: str, moment: str):
    assert chosen([f"{fault}-{moment.replace('_', '-')}"])


def test_the_selection_is_of_existing_scenarios():
    assert [scenario.name for scenario in chosen(list(SELECTED))] == list(SELECTED)


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="no scenario matches 'market-garbage'"):
        chosen(["market-garbage"])


def test_a_result_replaces_its_own_earlier_one(tmp_path: Path):
    file = tmp_path / "chaos.json"
    for name, outcome in (("a", "unsafe"), ("b", "safe"), ("a", "safe")):
        keep(Result(name, "deploy", "fault", outcome, ""), file)

    assert {row["name"]: row["outcome"] for row in json.loads(file.read_text())} == {"a": "safe", "b": "safe"}
