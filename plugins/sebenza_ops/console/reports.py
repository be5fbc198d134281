"""A run's report for the console: the stored one, or one drawn from the ledger while there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sebenza_ops.console.outcome import RunOutcome
from sebenza_ops.console.runs import AirflowRun, header_of
from sebenza_ops.environments.inventory import Inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.facts import OutcomeFact, RunEvidence, load
from sebenza_ops.evidence.report import render_report
from sebenza_ops.evidence.store import report_key
from sebenza_ops.evidence.summary import environment_name
from sebenza_ops.ledger import Ledger
from sebenza_ops.systems.errors import OutsideSystemError

log = logging.getLogger(__name__)


class ReportReader(Protocol):
    """The object storage of an environment, as far as this module reads it."""

    def get_bytes(self, key: str) -> bytes | None:
        """An object's content, None when there is none."""


@dataclass(frozen=True, slots=True)
class ReportPage:
    """A report to answer with; `is_live` when it was drawn now and may differ a second later."""

    html: str
    is_live: bool


def open_storage(environment: Environment) -> ReportReader:
    """The object storage behind the environment's connection."""
    from sebenza_ops.systems.object_store import ObjectStorage

    return ObjectStorage(environment.object_store)


def report_page(
    dag_id: str,
    run_id: str,
    run: AirflowRun | None,
    inventory: Inventory,
    ledger: Callable[[], Ledger],
    storage: Callable[[Environment], ReportReader],
    now: datetime,
    conclusion: Callable[[AirflowRun], RunOutcome] | None = None,
) -> ReportPage | None:
    """The report of a run, None when nothing at all is known about it.

    While Airflow runs it, the report is drawn from the ledger; a stored one would be of an earlier attempt.
    Afterwards the stored one is shown, or, when it is missing or can't be read, again one from the ledger that
    says so. A run that keeps no outcome in the ledger has its own last sentence (`conclusion`).

    Raises:
        LedgerError: there is no stored report, and the ledger can't be read either.
    """
    notices = []
    if run is None or run.is_over:
        stored, why_not = _stored(dag_id, run_id, inventory, storage)
        if stored is not None:
            return ReportPage(html=stored, is_live=False)
        notices.append(f"{why_not} This page was drawn from the ledger just now.")
    evidence = load(ledger(), dag_id, run_id)
    if run is None and evidence.is_empty:
        return None
    if run is None:
        notices.append("Airflow has no record of this run (any more).")
    if run is not None and run.is_over and evidence.outcome is None and conclusion is not None:
        evidence = _with_outcome(evidence, conclusion(run), now)
    header = header_of(dag_id, run_id, run, rendered_at=now, run_url=None)
    return ReportPage(html=render_report(evidence, header, notices), is_live=True)


def _with_outcome(evidence: RunEvidence, told: RunOutcome, now: datetime) -> RunEvidence:
    if not told.is_told:
        return evidence
    fact = {"outcome": told.outcome, "summary": told.sentence, "state": told.state_now or told.sentence, "at": now}
    return evidence.model_copy(update={"outcomes": (OutcomeFact.model_validate(fact),)})


def _stored(
    dag_id: str, run_id: str, inventory: Inventory, storage: Callable[[Environment], ReportReader]
) -> tuple[str | None, str]:
    name = environment_name(dag_id)
    environment = inventory.environments.get(name)
    if environment is None:
        return None, f"There is no usable environment {name!r} that would say where reports are stored."
    try:
        content = storage(environment).get_bytes(report_key(name, dag_id, run_id))
    except OutsideSystemError as error:
        log.warning("The stored report of %s run %s can't be read: %s", dag_id, run_id, error)
        return None, f"The stored report can't be read: {error}."
    if content is None:
        return None, "No stored report was found."
    return content.decode("utf-8"), ""
