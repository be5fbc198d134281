"""What every procedure has in common: its DAG arguments, and the check of a run's conf.

A DAG file says what is particular to its procedure and takes the rest from `procedure_defaults`, so
that owner, tags, time-outs, callbacks and concurrency are decided in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.conf_keys import unknown_conf_message
from sebenza_ops.environments.queues import queue_of

if TYPE_CHECKING:
    from sebenza_ops.environments.models import Environment

#: Chapter → the team that runs it. Manual, Team Responsibilities.
OWNERS: Final[Mapping[str, str]] = {
    "environments": "devops",
    "deployment": "devops",
    "backup": "devops",
    "recovery": "devops",
    "monitoring": "devops",
    "performance": "development",
    "maintenance": "devops",
    "incidents": "support",
    "capacity": "devops",
}

# The tag of what `make break-glass` runs: it goes on with the ledger down, and needs no Airflow service.
EMERGENCY: Final = "emergency"

# Static, as Airflow asks: a start date that moves makes a new DAG version at each parse.
START_DATE: Final = datetime(2025, 1, 1, tzinfo=UTC)

EXECUTION_TIMEOUT: Final = timedelta(minutes=10)
DAGRUN_TIMEOUT: Final = timedelta(hours=2)

# One active run is the lease's rule: with max_active_runs=1 a second run would wait silently behind a hung one
# instead of being refused at once with the holder's name. More than a handful is a mistake of a client.
MAX_ACTIVE_RUNS: Final = 4
MAX_ACTIVE_TASKS: Final = 16

# A back-fill would repeat a change for dates that are over.
RUN_TYPES: Final = ("manual", "scheduled", "operator_triggered", "asset_triggered", "asset_materialization")


# Text for people, of any alphabet. Control characters but line feeds and tabs have no place in logs and messages, and
# PostgreSQL keeps neither NUL nor half of a surrogate pair.
REASON_PATTERN: Final = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff]*$"


def procedure_id(procedure: str, environment: Environment | None) -> str:
    """The DAG id of a procedure: `<procedure>.<environment>`, or its name alone when it serves all environments."""
    return procedure if environment is None else f"{procedure}.{environment.name}"


def procedure_defaults(
    environment: Environment | None,
    chapter: str,
    *,
    schedule: Any = None,
    params: Mapping[str, Param] | None = None,
    execution_timeout: timedelta = EXECUTION_TIMEOUT,
    dagrun_timeout: timedelta = DAGRUN_TIMEOUT,
    **overrides: Any,
) -> dict[str, Any]:
    """Arguments of `@dag` for a procedure.

    A scheduled procedure starts paused, so that a new installation changes nothing by itself; one on demand
    is ready to be pressed. Tasks are not retried unless their operator says that it may be
    (`safe_to_retry`), which then sets its own retries.
    A conf with unknown keys is refused before the first task. Tasks wait in the queue of their environment, so that
    an installation with several workers can keep its credentials on some of them; LocalExecutor has no queues.

    Args:
        environment: whom the procedure changes; None for a procedure that serves all.
        chapter: the manual's chapter, a key of `OWNERS`.
        schedule: anything that Airflow takes; None for on demand.
        params: the parameters of a run, with schema and description.
        execution_timeout: of each task that sets none of its own.
        dagrun_timeout: of the run, waiting for people included.
        overrides: further arguments of `@dag`; they win. `tags` and `default_args` are added to the common ones.

    Raises:
        ValueError: there is no such chapter.
    """
    if chapter not in OWNERS:
        raise ValueError(f"no chapter {chapter!r}; there are {', '.join(OWNERS)}")
    # Here, so that operators that only check a conf do not load the notifications.
    from sebenza_ops.notify.callbacks import on_procedure_failure, on_procedure_success, on_task_failure

    tags = {chapter, environment.name if environment else "all-environments"}
    tags.add("on-demand" if schedule is None else "scheduled")
    default_args = {
        "owner": OWNERS[chapter],
        "queue": queue_of(environment),
        "retries": 0,
        "execution_timeout": execution_timeout,
        "pre_execute": check_first_task,
        "on_failure_callback": on_task_failure,
    }
    return {
        "schedule": schedule,
        "start_date": START_DATE,
        "catchup": False,
        "max_active_runs": MAX_ACTIVE_RUNS,
        "max_active_tasks": MAX_ACTIVE_TASKS,
        "dagrun_timeout": dagrun_timeout,
        "is_paused_upon_creation": schedule is not None,
        "allowed_run_types": RUN_TYPES,
        "params": dict(params or {}),
        "on_failure_callback": on_procedure_failure,
        "on_success_callback": on_procedure_success,
        **overrides,
        "tags": sorted(tags | set(overrides.get("tags", ()))),
        "default_args": default_args | overrides.get("default_args", {}),
    }


def reason_param(description: str, *, required: bool = False) -> Param:
    """A parameter for the reason of an unusual request: free text for people, kept in the audit, never executed."""
    if required:
        return Param(type="string", minLength=10, maxLength=500, pattern=REASON_PATTERN, description=description)
    return optional_text_param(description, maxLength=500, pattern=REASON_PATTERN)


def optional_text_param(description: str, **schema: Any) -> Param:
    """A parameter for text that may stay empty: then it is "", or None where a form was emptied again.

    Nullable, as Airflow's form can't be sent while text that may not be null is empty, whatever its default is.

    Args:
        description: What the form says.
        schema: Further keys of its JSON schema.
    """
    return Param("", type=["null", "string"], description=description, **schema)


def plan_only_param() -> Param:
    """The parameter that stops a procedure after its plan."""
    return Param(False, type="boolean", description="Show what would change, on which host, and stop there.")


def refuse_unknown_conf(context: Mapping[str, Any]) -> None:
    """Refuse a run whose conf has keys that its DAG has no parameter for.

    Airflow accepts and ignores such keys, so that a mistyped `plan_onyl` would run for real.

    Args:
        context: the task's context.

    Raises:
        AirflowFailException: names the keys; the task is not retried.
    """
    message = unknown_conf_message(list(context["dag_run"].conf or {}), list(context["dag"].params))
    if message is not None:
        raise AirflowFailException(f"refused, nothing was changed: {message}")


def check_first_task(context: Mapping[str, Any]) -> None:
    """Check the conf before a run's first tasks; `procedure_defaults` puts it before every task of every procedure."""
    if not context["task"].upstream_task_ids:
        refuse_unknown_conf(context)
