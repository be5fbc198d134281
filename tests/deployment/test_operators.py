"""What the operators make of a refusal; the refusals themselves are the ledger's, and tested there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from sebenza_ops.change_operators import HOUSEKEEPING_RETRIES
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import SENTENCE
from sebenza_ops.deployment import steps
from sebenza_ops.deployment.operators import AcquireLeaseOperator
from sebenza_ops.ledger import Holder, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    found.migrate()
    return found


def outcome(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, *, housekeeping: bool, is_for_now: bool, try_number: int
) -> type:
    """The exception that a refused acquire_lease ends with in its n-th try."""

    def refuse(*_: Any, **__: Any) -> int:
        raise ChangeRefusedError("held by another run", is_for_now=is_for_now)

    monkeypatch.setattr(steps, "take_lease", refuse)
    policies = SimpleNamespace(blue_green=None)
    run = SimpleNamespace(
        environment=SimpleNamespace(policies=policies),
        holder=Holder("stop_idle_color.staging", "1", "thandi"),
        ledger=ledger,
    )
    monkeypatch.setattr(ChangeRun, "from_context", lambda *_, **__: run)
    operator = AcquireLeaseOperator(task_id="acquire_lease", environment="staging", housekeeping=housekeeping)
    monkeypatch.setattr(AcquireLeaseOperator, "purpose", lambda *_: "stop_idle_color")
    said: dict[str, str] = {}
    context: Any = {
        "dag_run": SimpleNamespace(conf={}),
        "dag": SimpleNamespace(params={}),
        "params": {},
        "ti": SimpleNamespace(
            try_number=try_number,
            max_tries=operator.retries,
            xcom_push=lambda key, value: said.update({key: value}),
        ),
    }
    with pytest.raises(AirflowException) as raised:
        operator.execute(context)
    # Nothing of a skipped run is left but what it has said.
    assert said == (
        {SENTENCE: "nothing was changed: held by another run"} if raised.type is AirflowSkipException else {}
    )
    return raised.type


def test_a_change_that_finds_the_environment_held_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    assert outcome(monkeypatch, ledger, housekeeping=False, is_for_now=True, try_number=1) is AirflowFailException


def test_housekeeping_comes_back_while_the_environment_is_held(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    """A color that was kept warm must not stay for ever because a dry run was looking when its time was over."""
    for try_number in (1, HOUSEKEEPING_RETRIES):
        assert (
            outcome(monkeypatch, ledger, housekeeping=True, is_for_now=True, try_number=try_number) is AirflowException
        )
    last = HOUSEKEEPING_RETRIES + 1
    assert outcome(monkeypatch, ledger, housekeeping=True, is_for_now=True, try_number=last) is AirflowSkipException


def test_housekeeping_that_a_later_change_superseded_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    assert outcome(monkeypatch, ledger, housekeeping=True, is_for_now=False, try_number=1) is AirflowSkipException
