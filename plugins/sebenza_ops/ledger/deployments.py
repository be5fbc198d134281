"""Deployments: one record a run, with what a killed task needs to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import RecordUnknown
from sebenza_ops.ledger.masking import mask_object, mask_text, mask_value
from sebenza_ops.ledger.models import DeploymentRow
from sebenza_ops.ledger.values import Deployment, Holder, Outcome

# Progress of a run that has ended and left behind what only it can put in order: cleared, it goes on.
UNSETTLED = "unsettled"


class DeploymentFields(TypedDict, total=False):
    """What may be learned about a deployment after its start."""

    release_id: str | None
    previous_release_id: str | None
    from_color: str | None
    to_color: str | None
    phase: str | None
    plan: Mapping[str, Any] | None
    evidence_url: str | None


class Deployments:
    """Deployment runs of all environments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self,
        environment: str,
        dag_id: str,
        run_id: str,
        actor: str,
        requested_version: str,
        release_id: str | None,
        strategy: str,
    ) -> Deployment:
        """Record that a run begins; a retry returns the record, a cleared run that had finished begins anew.

        Beginning anew empties `progress`: a bake of the earlier attempt says nothing about the next one. A run that
        has noted UNSETTLED goes on with its progress instead.
        """
        with self._database.writing() as session:
            now = self._database.now(session)
            values: dict[str, Any] = {
                "environment": environment,
                "dag_id": dag_id,
                "run_id": run_id,
                "actor": actor,
                "requested_version": requested_version,
                "release_id": release_id,
                "strategy": strategy,
                "progress": {},
                "started_at": now,
                "updated_at": now,
            }
            is_new = self._database.insert_if_absent(session, DeploymentRow, values, ["dag_id", "run_id"])
            row = _locked(session, dag_id, run_id)
            if row.finished_at is not None:
                row.progress = row.progress if row.progress.get(UNSETTLED) else {}
                row.outcome = row.detail = row.finished_at = row.phase = None
                row.release_id, row.started_at, row.updated_at = release_id or row.release_id, now, now
                is_new = True
            if is_new:
                detail = {"requested_version": requested_version, "release_id": release_id, "strategy": strategy}
                write_audit(session, now, "deployment.started", actor, environment, f"{dag_id} {run_id}", detail)
            return _deployment(row)

    def update(self, dag_id: str, run_id: str, **fields: Unpack[DeploymentFields]) -> Deployment:
        """Record what the run has learned, for example its release or its phase. Raises RecordUnknown."""
        unknown = set(fields) - set(DeploymentFields.__annotations__)
        if unknown:
            raise ValueError(
                f"A deployment has no field {', '.join(sorted(unknown))}; "
                f"it has {', '.join(DeploymentFields.__annotations__)}"
            )
        with self._database.writing() as session:
            row = _locked(session, dag_id, run_id)
            for name, value in fields.items():
                setattr(row, name, mask_value(value))
            row.updated_at = self._database.now(session)
            return _deployment(row)

    def progress(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return what the run has kept for itself, for example `bake_until`. Raises RecordUnknown."""
        return dict(self.get(dag_id, run_id).progress)

    def set_progress(self, dag_id: str, run_id: str, key: str, value: Any) -> None:
        """Keep a JSON value over kills and retries; other keys stay. Raises RecordUnknown."""
        self.update_progress(dag_id, run_id, {key: value})

    def update_progress(self, dag_id: str, run_id: str, values: Mapping[str, Any]) -> None:
        """Keep several JSON values over kills and retries, all or none; other keys stay. Raises RecordUnknown."""
        with self._database.writing() as session:
            row = _locked(session, dag_id, run_id)
            row.progress = {**row.progress, **mask_object(dict(values))}
            row.updated_at = self._database.now(session)

    def finish(self, dag_id: str, run_id: str, outcome: Outcome, detail: str) -> Deployment:
        """Record how the run ended; the same outcome again changes nothing. Raises RecordUnknown."""
        with self._database.writing() as session:
            row = _locked(session, dag_id, run_id)
            if row.outcome == outcome.value and row.detail == mask_text(detail):
                return _deployment(row)
            now = self._database.now(session)
            row.outcome, row.detail = outcome.value, mask_text(detail)
            row.finished_at = row.updated_at = now
            audited = {"outcome": outcome.value, "detail": detail, "release_id": row.release_id}
            subject = f"{dag_id} {run_id}"
            write_audit(session, now, "deployment.finished", row.actor, row.environment, subject, audited)
            return _deployment(row)

    def get(self, dag_id: str, run_id: str) -> Deployment:
        """Return the record of a run. Raises RecordUnknown."""
        found = self.find(dag_id, run_id)
        if found is None:
            raise _unknown(dag_id, run_id)
        return found

    def find(self, dag_id: str, run_id: str) -> Deployment | None:
        """Return the record of a run, or None."""
        with self._database.reading() as session:
            row = session.scalars(_of_run(dag_id, run_id)).one_or_none()
            return _deployment(row) if row is not None else None

    def latest(self, environment: str) -> Deployment | None:
        """Return the deployment that started last in the environment, or None."""
        found = self.recent(environment, limit=1)
        return found[0] if found else None

    def recent(self, environment: str, limit: int = 20) -> list[Deployment]:
        """Return the environment's deployments, the newest first."""
        query = (
            select(DeploymentRow)
            .where(DeploymentRow.environment == environment)
            .order_by(DeploymentRow.started_at.desc(), DeploymentRow.id.desc())
            .limit(limit)
        )
        with self._database.reading() as session:
            return [_deployment(row) for row in session.scalars(query)]


def _of_run(dag_id: str, run_id: str) -> Any:
    return select(DeploymentRow).where(DeploymentRow.dag_id == dag_id, DeploymentRow.run_id == run_id)


def _locked(session: Session, dag_id: str, run_id: str) -> DeploymentRow:
    row: DeploymentRow | None = session.scalars(_of_run(dag_id, run_id).with_for_update()).one_or_none()
    if row is None:
        raise _unknown(dag_id, run_id)
    return row


def _unknown(dag_id: str, run_id: str) -> RecordUnknown:
    return RecordUnknown(f"The ledger knows no deployment {dag_id} run {run_id}; its first task records it.")


def _deployment(row: DeploymentRow) -> Deployment:
    return Deployment(
        environment=row.environment,
        holder=Holder(row.dag_id, row.run_id, row.actor),
        requested_version=row.requested_version,
        release_id=row.release_id,
        previous_release_id=row.previous_release_id,
        strategy=row.strategy,
        from_color=row.from_color,
        to_color=row.to_color,
        phase=row.phase,
        plan=row.plan,
        progress=row.progress,
        outcome=Outcome(row.outcome) if row.outcome else None,
        detail=row.detail,
        evidence_url=row.evidence_url,
        started_at=row.started_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
    )
