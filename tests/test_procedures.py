from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from lab import paths
from sebenza_ops.conf_keys import unknown_conf_message
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.procedures import check_first_task, procedure_defaults, procedure_id, refuse_unknown_conf

_STAGING = load_inventory(paths.CHECKOUT / "include" / "environments").environments["staging"]


def _context(conf: dict[str, Any] | None, upstream: set[str] | None = None) -> dict[str, Any]:
    return {
        "dag_run": SimpleNamespace(conf=conf),
        "dag": SimpleNamespace(params={"version": None, "plan_only": None}),
        "task": SimpleNamespace(upstream_task_ids=upstream or set()),
    }


def test_a_mistyped_key_is_refused_with_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(AirflowFailException) as refused:
        refuse_unknown_conf(_context({"plan_onyl": True}))

    assert str(refused.value) == (
        "refused, nothing was changed: unknown key in the run's conf: 'plan_onyl' (did you mean 'plan_only'?); "
        "known keys: plan_only, version"
    )


@pytest.mark.parametrize("conf", [None, {}, {"version": "v1"}, {"version": "v1", "plan_only": True}])
def test_known_keys_pass(conf: dict[str, Any] | None) -> None:
    refuse_unknown_conf(_context(conf))


def test_only_first_tasks_check() -> None:
    check_first_task(_context({"wrong": 1}, upstream={"acquire_lease"}))

    with pytest.raises(AirflowFailException):
        check_first_task(_context({"wrong": 1}))


def test_a_procedure_without_parameters_says_so() -> None:
    assert unknown_conf_message(["x"], []) == "unknown key in the run's conf: 'x'; known keys: none"


@given(st.sets(st.text(max_size=8)), st.sets(st.text(max_size=8)))
def test_message_exactly_when_a_key_is_unknown(keys: set[str], known: set[str]) -> None:
    message = unknown_conf_message(keys, known)

    assert (message is None) == (keys <= known)
    assert message is None or all(repr(key) in message for key in keys - known)


def test_scheduled_procedures_start_paused_and_others_ready() -> None:
    assert procedure_defaults(_STAGING, "backup", schedule="@daily")["is_paused_upon_creation"] is True
    assert procedure_defaults(_STAGING, "backup")["is_paused_upon_creation"] is False


def test_an_unknown_chapter_is_an_error() -> None:
    with pytest.raises(ValueError, match="no chapter 'deploymnet'"):
        procedure_defaults(_STAGING, "deploymnet")


def test_ids() -> None:
    assert procedure_id("rollback", _STAGING) == "rollback.staging"
    assert procedure_id("build_release", None) == "build_release"
