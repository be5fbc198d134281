"""The contract of every DAG, as rules: each takes a DAG and says what is wrong with it.

The tests apply all rules to all DAGs that are found; nothing is listed by hand. `test_contract_rules.py`
shows for each rule a DAG that breaks it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.serialization.serialized_objects import DagSerialization

from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.environments.queues import DEFAULT_QUEUE
from sebenza_ops.notify.callbacks import on_procedure_failure, on_procedure_success
from sebenza_ops.procedures import EXECUTION_TIMEOUT, OWNERS, check_first_task

HEADINGS = ("When to run", "What it changes", "How it undoes itself", "What can't run beside it")
# Work on this project's own records (sending what is to be sent): it changes no environment, and its own
# failure can't be told by itself.
HOUSEKEEPING = "housekeeping"
_DAG_ID = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9-]*)?")

Rule = Callable[[Any], Iterator[str]]


def violations(dag: Any, rules: tuple[Rule, ...] | None = None) -> list[str]:
    """Everything that is wrong with a DAG, each line with its id."""
    return [f"{dag.dag_id}: {text}" for rule in rules or RULES for text in rule(dag)]


def page(dag: Any) -> Iterator[str]:
    """The page an operator reads before pressing the button."""
    text = dag.doc_md or ""
    titles = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
    if not titles:
        yield "doc_md has no title; use doc_md=__doc__"
    for heading in HEADINGS:
        if heading not in titles:
            yield f"doc_md lacks the heading {heading!r}"


def name(dag: Any) -> Iterator[str]:
    """`<procedure>.<environment>`, or `<procedure>`; the file is called like the procedure."""
    if not _DAG_ID.fullmatch(dag.dag_id):
        yield "the id is not <procedure> or <procedure>.<environment>"
    procedure = dag.dag_id.partition(".")[0]
    if Path(dag.fileloc).stem != procedure:
        yield f"its file is called {Path(dag.fileloc).name}, expected {procedure}.py"


def tags(dag: Any) -> Iterator[str]:
    """Chapter (the file's folder), environment, and how it starts."""
    chapter = Path(dag.fileloc).parent.name
    environment = dag.dag_id.partition(".")[2] or "all-environments"
    start = "on-demand" if dag.schedule is None else "scheduled"
    if chapter not in OWNERS:
        yield f"it lies in {chapter}, which is no chapter"
    for wanted in (chapter, environment, start):
        if wanted not in dag.tags:
            yield f"the tag {wanted!r} is missing; it has {sorted(dag.tags)}"


def owner(dag: Any) -> Iterator[str]:
    """Every task belongs to the chapter's team."""
    wanted = OWNERS.get(Path(dag.fileloc).parent.name)
    for task in dag.tasks:
        if task.owner != wanted:
            yield f"task {task.task_id} belongs to {task.owner!r}, expected {wanted!r}"


def queue(dag: Any) -> Iterator[str]:
    """Every task waits in the queue of its DAG's environment, or of the one that it works on: there are credentials."""
    wanted = dag.dag_id.partition(".")[2] or DEFAULT_QUEUE
    for task in dag.tasks:
        if task.queue not in {wanted, getattr(task, "environment", wanted)}:
            yield f"task {task.task_id} waits in the queue {task.queue!r}, expected {wanted!r}"


def schedule(dag: Any) -> Iterator[str]:
    """Static start, no catch-up, no back-fill, and a second run that starts and is refused instead of waiting."""
    if dag.start_date is None or dag.start_date.utcoffset() != UTC.utcoffset(None):
        yield "start_date is not in UTC"
    if dag.catchup:
        yield "it catches up"
    if dag.max_active_runs < 2 and HOUSEKEEPING not in dag.tags:
        yield "max_active_runs is 1: a second run would wait silently behind a hung one"
    if dag.dagrun_timeout is None:
        yield "dagrun_timeout is missing"
    if dag.allowed_run_types is None or "backfill" in {str(kind.value) for kind in dag.allowed_run_types}:
        yield "it can be back-filled"


def timeouts(dag: Any) -> Iterator[str]:
    """Every task ends: a question by its response_timeout, everything else by its execution_timeout."""
    for task in dag.tasks:
        if _is_kind_of(task, HITLOperator):
            limit, kind = getattr(task, "response_timeout", None), "response_timeout"
            if limit == EXECUTION_TIMEOUT:
                yield f"task {task.task_id} takes the default execution_timeout for its response_timeout; say how long"
        else:
            limit, kind = task.execution_timeout, "execution_timeout"
        if limit is None:
            yield f"task {task.task_id} has no {kind}"
        elif dag.dagrun_timeout is not None and limit > dag.dagrun_timeout:
            yield f"task {task.task_id}: {kind} {limit} exceeds the run's {dag.dagrun_timeout}"


def retries(dag: Any) -> Iterator[str]:
    """Only what says that it may be repeated is; what is parked must be (facts of Airflow's resume race)."""
    for task in dag.tasks:
        operator = _operator_class(task)
        safe = bool(getattr(operator, "safe_to_retry", False))
        if task.retries and not safe:
            yield f"task {task.task_id} is retried, but {operator.__name__} is not marked safe_to_retry"
        if not task.retries and (getattr(task, "deferrable", False) or _is_kind_of(task, HITLOperator)):
            yield f"task {task.task_id} is parked and resumed, so it needs retries (and safe_to_retry)"


def callbacks(dag: Any) -> Iterator[str]:
    """People hear of a failure, and a page is resolved by a success."""
    if HOUSEKEEPING in dag.tags:
        return
    for kind, wanted in (
        ("on_failure_callback", on_procedure_failure),
        ("on_success_callback", on_procedure_success),
    ):
        found = getattr(dag, kind)
        if wanted not in (found if isinstance(found, list) else [found]):
            yield f"{kind} is not {wanted.__name__}"


def conf_check(dag: Any) -> Iterator[str]:
    """The first tasks refuse a conf with unknown keys."""
    for task in dag.roots:
        if task._pre_execute_hook is not check_first_task:
            yield f"task {task.task_id} runs first and does not check the conf"


def conclusion(dag: Any) -> Iterator[str]:
    """A run ends in one task, which says what happened; one that may only plan shows its plan.

    That the task returns what it declares is mypy's to check.
    """
    last = [task for task in dag.tasks if not task.downstream_task_ids]
    if len(last) != 1:
        yield f"it ends in {sorted(task.task_id for task in last)}, and one task must say how it ended"
    for task in last:
        if _returns(task) != "str":
            yield f"task {task.task_id} ends it and is not declared to return the run's sentence (-> str)"
    if "plan_only" in dag.params and not any(_is_kind_of(task, PlanOperator) for task in dag.tasks):
        yield "it has the parameter plan_only, and no task that ends with the plan (PlanOperator)"


def _returns(task: Any) -> str:
    """What a task's code is declared to return, as it is written."""
    operator: Any = _operator_class(task)
    code = getattr(task, "python_callable", None) or operator.execute
    declared = inspect.unwrap(code).__annotations__.get("return", "nothing")
    return declared if isinstance(declared, str) else declared.__name__


def parameters(dag: Any) -> Iterator[str]:
    """Every parameter has a type and a description, and nothing that may stay empty keeps a form from being sent.

    An argument of the function under `@dag` is a parameter too, which the form then shows to people.
    """
    for key in dag.params:
        parameter = dag.params.get_param(key)
        if not {"type", "enum", "const"} & set(parameter.schema):
            yield f"parameter {key} has no type"
        if not parameter.description:
            yield f"parameter {key} has no description"
        if _blocks_its_form(parameter):
            yield f"parameter {key} is empty and may not be null: Airflow's form can't be sent; use optional_text_param"
    for task in dag.tasks:
        if _is_kind_of(task, HITLOperator):
            for key in task.params:
                if _blocks_its_form(task.params.get_param(key)):
                    yield f"task {task.task_id} asks for {key}, which is empty and may not be null"


def _blocks_its_form(parameter: Any) -> bool:
    # As the form itself judges: what has a type without null must have a value, and "" is none.
    kind = parameter.schema.get("type") or "null"
    return parameter.value == "" and "null" not in ([kind] if isinstance(kind, str) else kind)


def serialization(dag: Any) -> Iterator[str]:
    """What the scheduler gets is what the file says."""
    encoded = DagSerialization.to_dict(dag)
    DagSerialization.validate_schema(encoded)
    decoded = DagSerialization.from_dict(json.loads(json.dumps(encoded)))
    if decoded.dag_id != dag.dag_id or set(decoded.task_dict) != set(dag.task_dict):
        yield "tasks change when it is serialized"
    for task_id, task in dag.task_dict.items():
        if decoded.task_dict[task_id].downstream_task_ids != task.downstream_task_ids:
            yield f"what follows task {task_id} changes when it is serialized"


RULES: tuple[Rule, ...] = (
    page,
    name,
    tags,
    owner,
    queue,
    schedule,
    timeouts,
    retries,
    callbacks,
    conf_check,
    conclusion,
    parameters,
    serialization,
)


def _operator_class(task: Any) -> type:
    mapped: type | None = getattr(task, "operator_class", None)
    return mapped if mapped is not None else type(task)


def _is_kind_of(task: Any, kind: type) -> bool:
    return issubclass(_operator_class(task), kind)
