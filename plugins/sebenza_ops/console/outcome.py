"""How a run has ended, in words, for the programs that follow it: `make run`, the demo, CI.

What the run itself says comes first (`sebenza_ops.conclusion`), then what the ledger keeps of it. With the ledger down
the run's own words are left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from sebenza_ops.conclusion import PLAN, SENTENCE, TO_DO
from sebenza_ops.console.runs import AirflowRun, TaskResult, header_of
from sebenza_ops.evidence.facts import OutcomeFact, RunEvidence, load, utc_now
from sebenza_ops.evidence.summary import OUTCOME_WORDS, state_now
from sebenza_ops.ledger import Ledger, LedgerError
from sebenza_ops.notify.runs import TASK_FAILED, Run, gather_facts

log = logging.getLogger(__name__)

RETURNED: Final = "return_value"
RESULT_KEYS: Final = (RETURNED, SENTENCE, PLAN, TO_DO)
NOTHING_SAID: Final = "the run has said nothing of its outcome"


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The answer.

    Attributes:
        state: Airflow's word: "success", "failed", "running", "queued".
        outcome: The ledger's word ("succeeded", "planned", "rejected", ...); what Airflow's state means without it;
            None while the run goes on.
        title: The outcome as people read it.
        sentence: What happened, and what is live now.
        is_told: The sentence is the run's own. A task that has failed a moment ago may still be writing its error.
        state_now: How things were left, where the ledger knows more than the sentence.
        why: The tasks that failed, each with its error.
        plan: The plan in lines, of a run that only planned.
        to_do: What people must do now, the most urgent first.
        evidence: The path of the evidence's page, below Airflow's address.
    """

    state: str
    outcome: str | None
    title: str
    sentence: str
    is_told: bool
    state_now: str
    why: tuple[str, ...]
    plan: tuple[str, ...]
    to_do: tuple[str, ...]
    evidence: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ledger keeps of a run's last attempt.

    Attributes:
        fact: The outcome that the run has recorded; None when it has not.
        errors: The tasks that failed, each with its error, the first to fail first.
        refused: It ended before it touched anything.
        state_now: How things were left, in words.
    """

    fact: OutcomeFact | None = None
    errors: tuple[tuple[str, str], ...] = ()
    refused: bool = False
    state_now: str = ""


def conclude(run: AirflowRun, results: Sequence[TaskResult], ledger: Callable[[], Ledger]) -> RunOutcome:
    """How a run has ended.

    Args:
        run: The run as Airflow has it.
        results: What its tasks have left under `RESULT_KEYS`, in their order.
        ledger: Opens the ledger, which may be down.
    """
    try:
        kept = _kept(run, ledger())
    except LedgerError as error:
        log.warning("the outcome of %s %s is told without the ledger: %s", run.dag_id, run.run_id, error)
        kept = Kept(state_now="the ledger can't be reached")
    return judge(run, results, kept)


def judge(run: AirflowRun, results: Sequence[TaskResult], kept: Kept) -> RunOutcome:
    """Put together what the run says and what is kept of it; without input or output."""
    evidence = f"/sebenza/evidence/{quote(run.dag_id, safe='')}/{quote(run.run_id, safe='')}"
    plan, to_do = _lines(results, PLAN), _lines(results, TO_DO)
    if not run.is_over:
        return RunOutcome(run.state, None, run.state, "the run goes on", False, "", (), (), (), evidence)
    sentence = _sentence(run, results, kept)
    outcome = _outcome(run, kept, sentence, has_plan=bool(plan))
    return RunOutcome(
        state=run.state,
        outcome=outcome,
        title=OUTCOME_WORDS[outcome][0],
        sentence=sentence or NOTHING_SAID,
        is_told=bool(sentence),
        state_now=kept.state_now,
        why=tuple(f"{task}: {error}" for task, error in kept.errors if error != sentence),
        plan=plan,
        to_do=to_do,
        evidence=evidence,
    )


def _sentence(run: AirflowRun, results: Sequence[TaskResult], kept: Kept) -> str:
    said = [result for result in results if result.key in (RETURNED, SENTENCE)]
    newest: Any = said[-1].value if said else None
    if run.state == "success" and isinstance(newest, str):
        return newest
    if kept.fact is not None:
        return kept.fact.summary
    own = [str(result.value) for result in said if result.key == SENTENCE]
    # The last task speaks for the run; one that failed before it has stopped it.
    return own[-1] if own else kept.errors[-1][1] if kept.errors else ""


def _outcome(run: AirflowRun, kept: Kept, sentence: str, *, has_plan: bool) -> str:
    if kept.fact is not None:
        return kept.fact.outcome
    if run.state == "success":
        return "planned" if has_plan and run.conf.get("plan_only") else "succeeded"
    # A bad parameter is refused with an error of Airflow's own kind, which says so itself.
    return "refused" if kept.refused or sentence.startswith("refused, nothing was ") else "failed"


def _lines(results: Sequence[TaskResult], key: str) -> tuple[str, ...]:
    """The lines that were left last under a key."""
    left = [result.value for result in results if result.key == key and isinstance(result.value, list)]
    return tuple(str(line) for line in left[-1]) if left else ()


def _kept(run: AirflowRun, ledger: Ledger) -> Kept:
    evidence = load(ledger, run.dag_id, run.run_id)
    fact = evidence.outcome
    # A run that was cleared has the outcome of its earlier attempt until it has one of its own.
    if fact is not None and fact.at is not None and run.started_at is not None and fact.at < run.started_at:
        fact = None
    entries = ledger.evidence.entries(run.dag_id, run.run_id, TASK_FAILED)
    own = [entry.payload for entry in entries if entry.payload["clear_number"] == run.clear_number]
    # A task that was tried again counts with its last error.
    errors = {str(payload["task"]): str(payload["error"]) for payload in own} if run.state == "failed" else {}
    known = gather_facts(
        ledger, Run(run.dag_id, run.run_id, run.clear_number, run.requested_by, run.conf), failed_tasks=()
    )
    return Kept(fact, tuple(errors.items()), known.refused, _state_now(run, evidence, fact, known.state_now))


def _state_now(run: AirflowRun, evidence: RunEvidence, fact: OutcomeFact | None, known: str) -> str:
    if fact is not None and (fact.state or fact.live_color):
        return state_now(evidence, header_of(run.dag_id, run.run_id, run, rendered_at=utc_now(), run_url=None))
    return known if run.state == "failed" else ""
