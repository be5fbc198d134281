"""Decisions at a terminal: what counts as a yes, who may say it, and what the audit says of it."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.decisions import HumanDecisionOperator, at_terminal
from sebenza_ops.ledger import Ledger
from sebenza_ops.terminal import NoAnswerError, Terminal

REASON = "rows of an hour are lost, as agreed"


class Answers(Terminal):
    """A person who answers by a list, and then goes away."""

    def __init__(self, *answers: str) -> None:
        super().__init__("thandi")
        self.answers, self.shown = list(answers), ""

    def show(self, text: str) -> None:
        self.shown += f"{text}\n"

    def ask(self, prompt: str, closes_at: float) -> str:
        self.shown += prompt
        if not self.answers:
            raise NoAnswerError("the terminal was closed")
        return self.answers.pop(0)


class FourEyes(HumanDecisionOperator):
    """Whoever asks does not approve."""

    def refusal(self, context: Any, name: str) -> str | None:
        return f"{name} has started this run" if name == "thandi" else None


@pytest.fixture
def ledger(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", f'{{"conn_type": "sqlite", "host": "{path}"}}')
    return Ledger.from_connection()


def decide(kind: type[HumanDecisionOperator], terminal: Answers, *, ask_reason: bool = False) -> dict[str, str]:
    operator = kind(
        task_id="decide",
        environment="staging",
        subject="Restore the database?",
        body="12 rows would be lost.",
        approve="Restore",
        response_timeout=timedelta(minutes=5),
        ask_reason=ask_reason,
    )
    run = SimpleNamespace(dag_id="rollback.staging", run_id="manual__1", triggering_user_name="thandi", conf={})
    context: Any = {"dag_run": run}
    with at_terminal(terminal):
        answer: dict[str, str] = operator.execute(context)
    return answer


def audited(ledger: Ledger) -> list[tuple[str, str, dict[str, Any]]]:
    return [(entry.action, entry.actor, dict(entry.detail)) for entry in ledger.audit.entries()]


def test_the_options_own_word_is_a_yes_and_all_there_is_to_know_is_shown(ledger: Ledger) -> None:
    terminal = Answers(" Restore ", REASON)
    answer = decide(HumanDecisionOperator, terminal, ask_reason=True)
    assert (answer["approved_by"], answer["reason"]) == ("thandi", REASON)
    assert "Restore the database?" in terminal.shown
    assert "12 rows would be lost." in terminal.shown
    [(action, actor, detail)] = audited(ledger)
    assert (action, actor, detail["asked_at"]) == ("decision.approved", "thandi", "terminal")


@pytest.mark.parametrize("word", ["restore", "y", "yes", "", "Reject", "Restore it"])
def test_any_other_word_is_a_no(ledger: Ledger, word: str) -> None:
    with pytest.raises(AirflowFailException, match="thandi has rejected"):
        decide(HumanDecisionOperator, Answers(word))
    assert [entry[0] for entry in audited(ledger)] == ["decision.rejected"]


def test_nobody_who_answers_is_a_no(ledger: Ledger) -> None:
    with pytest.raises(AirflowFailException, match="the terminal was closed"):
        decide(HumanDecisionOperator, Answers())
    assert [entry[0] for entry in audited(ledger)] == ["decision.missing"]


def test_a_yes_without_the_reason_that_is_asked_for_is_not_taken(ledger: Ledger) -> None:
    with pytest.raises(AirflowFailException, match="at least 10 characters"):
        decide(HumanDecisionOperator, Answers("Restore", "because"), ask_reason=True)
    assert [entry[0] for entry in audited(ledger)] == ["decision.not_taken"]


def test_who_may_not_approve_names_who_does_and_the_audit_says_that_it_was_stated(ledger: Ledger) -> None:
    terminal = Answers("lerato", "Restore")
    assert decide(FourEyes, terminal)["approved_by"] == "lerato"
    assert "thandi has started this run. Who approves it beside you?" in terminal.shown
    [(action, actor, detail)] = audited(ledger)
    assert (action, actor, detail["stated_by"]) == ("decision.approved", "lerato", "thandi")


@pytest.mark.parametrize("name", ["thandi", ""])
def test_naming_oneself_or_nobody_is_not_taken(ledger: Ledger, name: str) -> None:
    with pytest.raises(AirflowFailException, match="is not taken"):
        decide(FourEyes, Answers(name, "Restore"))
    assert [entry[0] for entry in audited(ledger)] == ["decision.not_taken"]
