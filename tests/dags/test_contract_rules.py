"""Each rule of the contract catches a DAG that breaks it, and lets a good one pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseOperator, Context, Param

from lab import paths
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.procedures import plan_only_param, procedure_defaults, procedure_id
from tests.dags import contract

_PAGE = """
# Sample
## When to run
Now.
## What it changes
Nothing.
## How it undoes itself
It need not.
## What can't run beside it
All can.
"""


class _SilentOperator(BaseOperator):
    def execute(self, context: Context) -> None:
        """Nothing is said."""


class _SayingOperator(BaseOperator):
    def execute(self, context: Context) -> str:
        return "staging: nothing to do"


class _SafeOperator(_SayingOperator):
    safe_to_retry = True


class _ParkedOperator(_SayingOperator):
    deferrable = True


def _sample(tasks: Callable[[], None] | None = None, **changes: Any) -> Any:
    """A DAG that keeps the contract, with changes."""
    environment = load_inventory(paths.CHECKOUT / "include" / "environments").environments["staging"]
    overrides: dict[str, Any] = {"doc_md": _PAGE, "params": {"version": _good_parameter()}} | changes
    default_args = overrides.pop("default_args", {})
    arguments = procedure_defaults(environment, "deployment", default_args=default_args, **overrides)
    with DAG(dag_id=procedure_id("sample", environment), schedule=arguments.pop("schedule"), **arguments) as dag:
        (tasks or _one_task)()
    dag.fileloc = "/dags/deployment/sample.py"
    return dag


def _good_parameter() -> Param:
    return Param("v1", type="string", description="What to deploy.")


def _one_task() -> None:
    _SayingOperator(task_id="only")


def _silent() -> None:
    _SilentOperator(task_id="silent")


def _two_ends() -> None:
    _SayingOperator(task_id="one")
    _SayingOperator(task_id="two")


def test_a_good_dag_breaks_no_rule() -> None:
    assert contract.violations(_sample()) == []
    assert contract.violations(_sample(_safely_retried)) == []


def _safely_retried() -> None:
    _SafeOperator(task_id="again", retries=2)


def _retried() -> None:
    EmptyOperator(task_id="again", retries=2)


def _parked() -> None:
    _ParkedOperator(task_id="parked")


def _too_long() -> None:
    EmptyOperator(task_id="long", execution_timeout=timedelta(hours=9))


def _endless_question() -> None:
    ApprovalOperator(task_id="ask", subject="Go?", response_timeout=None, retries=0)


def _unsendable_question() -> None:
    ApprovalOperator(
        task_id="ask", subject="Go?", response_timeout=timedelta(hours=1), params={"reason": Param("", type="string")}
    )


@pytest.mark.parametrize(
    ("rule", "tasks", "changes", "expected"),
    [
        (contract.page, None, {"doc_md": "no headings"}, "has no title"),
        (contract.page, None, {"doc_md": _PAGE.replace("## When to run", "")}, "'When to run'"),
        (contract.owner, None, {"default_args": {"owner": "airflow"}}, "belongs to 'airflow'"),
        (contract.queue, None, {"default_args": {"queue": "default"}}, "waits in the queue 'default'"),
        (contract.schedule, None, {"catchup": True, "schedule": "@daily"}, "catches up"),
        (contract.schedule, None, {"max_active_runs": 1}, "max_active_runs is 1"),
        (contract.schedule, None, {"dagrun_timeout": None}, "dagrun_timeout is missing"),
        (contract.schedule, None, {"allowed_run_types": None}, "back-filled"),
        (contract.timeouts, None, {"default_args": {"execution_timeout": None}}, "has no execution_timeout"),
        (contract.timeouts, _too_long, {}, "exceeds the run's"),
        (contract.timeouts, _endless_question, {}, "say how long"),
        (contract.retries, _retried, {}, "not marked safe_to_retry"),
        (contract.retries, _parked, {}, "needs retries"),
        (contract.callbacks, None, {"on_failure_callback": None}, "on_failure_callback is not"),
        (contract.callbacks, None, {"on_success_callback": None}, "on_success_callback is not"),
        (contract.conf_check, None, {"default_args": {"pre_execute": None}}, "does not check the conf"),
        (contract.conclusion, _silent, {}, "task silent ends it and is not declared to return"),
        (contract.conclusion, _two_ends, {}, "it ends in ['one', 'two']"),
        (contract.conclusion, None, {"params": {"plan_only": plan_only_param()}}, "no task that ends with the plan"),
        (contract.parameters, None, {"params": {"version": Param("x", description="d")}}, "has no type"),
        (contract.parameters, None, {"params": {"version": Param("x", type="string")}}, "has no description"),
        (contract.parameters, None, {"params": {"to": Param("", type="string")}}, "form can't be sent"),
        (contract.parameters, _unsendable_question, {}, "asks for reason, which is empty"),
    ],
)
def test_rule_catches(
    rule: contract.Rule, tasks: Callable[[], None] | None, changes: dict[str, Any], expected: str
) -> None:
    found = contract.violations(_sample(tasks, **changes), (rule,))

    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("dag_id", "file", "expected"),
    [
        ("Sample.staging", "/dags/deployment/Sample.py", "is not <procedure>"),
        ("other.staging", "/dags/deployment/sample.py", "expected other.py"),
    ],
)
def test_name_is_checked(dag_id: str, file: str, expected: str) -> None:
    dag = DAG(dag_id=dag_id, schedule=None)
    dag.fileloc = file

    assert any(expected in line for line in contract.name(dag))


def test_tags_are_checked() -> None:
    dag = _sample()
    dag.fileloc = "/dags/backup/sample.py"

    assert list(contract.tags(dag)) == ["the tag 'backup' is missing; it has ['deployment', 'on-demand', 'staging']"]


def test_a_tag_can_be_added() -> None:
    assert "canary" in _sample(tags=["canary"]).tags


def test_rules_work_on_what_a_dag_bag_loads(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from airflow.sdk import DAG\ndag = DAG(dag_id='bare', schedule=None)\n")

    bag = DagBag(dag_folder=tmp_path)

    assert contract.violations(bag.dags["bare"])
