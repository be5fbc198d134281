"""Releases: what was built, what was bad in an environment, what was last known to be good."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import RecordUnknown, ReleaseConflict
from sebenza_ops.ledger.masking import mask_object, mask_text
from sebenza_ops.ledger.models import BadReleaseRow, KnownGoodRow, ReleaseRow
from sebenza_ops.ledger.values import BadRelease, Holder, LastKnownGood, Release


class Releases:
    """Releases and each environment's verdicts about them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, release: Release) -> Release:
        """Keep a release; recording the same artifact again returns what is known already.

        Raises ReleaseConflict when the id is known with another artifact.
        """
        with self._database.writing() as session:
            values = {
                "release_id": release.release_id,
                "version": release.version,
                "sha": release.sha,
                "artifact_key": release.artifact_key,
                "artifact_sha256": release.artifact_sha256,
                "size_bytes": release.size_bytes,
                "node_version": release.node_version,
                "schema_revision": release.schema_revision,
                "expand_only": release.expand_only,
                "built_at": release.built_at,
                "dag_id": release.built_by.dag_id,
                "run_id": release.built_by.run_id,
                "actor": release.built_by.actor,
                "manifest": mask_object(release.manifest),
            }
            is_new = self._database.insert_if_absent(session, ReleaseRow, values, ["release_id"])
            known = session.get_one(ReleaseRow, release.release_id)
            if known.artifact_sha256 != release.artifact_sha256:
                raise ReleaseConflict(
                    f"Release {release.release_id} is known with SHA-256 {known.artifact_sha256}, "
                    f"not {release.artifact_sha256}; a release is immutable, so nothing was recorded. "
                    "Use the known artifact, or build a new version."
                )
            if is_new:
                now = self._database.now(session)
                detail = {"sha": release.sha, "artifact_sha256": release.artifact_sha256}
                actor = release.built_by.actor
                write_audit(session, now, "release.recorded", actor, None, release.release_id, detail)
            return _release(known)

    def get(self, release_id: str) -> Release:
        """Return a release. Raises RecordUnknown."""
        found = self.find(release_id)
        if found is None:
            raise RecordUnknown(f"The ledger knows no release {release_id!r}; build it with build_release first.")
        return found

    def find(self, release_id: str) -> Release | None:
        """Return a release, or None."""
        with self._database.reading() as session:
            row = session.get(ReleaseRow, release_id)
            return _release(row) if row is not None else None

    def by_sha(self, sha: str) -> Release | None:
        """Return the release that was built from a git commit, or None."""
        query = select(ReleaseRow).where(ReleaseRow.sha == sha).order_by(ReleaseRow.built_at.desc()).limit(1)
        with self._database.reading() as session:
            row = session.scalars(query).one_or_none()
            return _release(row) if row is not None else None

    def by_version(self, version: str) -> Release | None:
        """Return the newest release of a version (a tag, branch or commit, as it was built), or None."""
        query = select(ReleaseRow).where(ReleaseRow.version == version).order_by(ReleaseRow.built_at.desc()).limit(1)
        with self._database.reading() as session:
            row = session.scalars(query).one_or_none()
            return _release(row) if row is not None else None

    def mark_bad(self, environment: str, release_id: str, reason: str, run: Holder) -> BadRelease:
        """Refuse the release in this environment from now on; the first reason stays."""
        with self._database.writing() as session:
            row = _bad_row(session, environment, release_id)
            if row is None:
                now = self._database.now(session)
                row = BadReleaseRow(
                    environment=environment,
                    release_id=release_id,
                    reason=mask_text(reason),
                    marked_at=now,
                    dag_id=run.dag_id,
                    run_id=run.run_id,
                    actor=run.actor,
                )
                session.add(row)
                detail = {"reason": reason, "run": str(run)}
                write_audit(session, now, "release.marked_bad", run.actor, environment, release_id, detail)
            return _bad(row)

    def forgive(self, environment: str, release_id: str, reason: str, run: Holder) -> bool:
        """Take a bad mark back, with a reason; say whether there was one."""
        with self._database.writing() as session:
            row = _bad_row(session, environment, release_id)
            if row is None:
                return False
            now = self._database.now(session)
            row.ended_at, row.end_reason = now, mask_text(reason)
            detail = {"reason": reason, "run": str(run)}
            write_audit(session, now, "release.forgiven", run.actor, environment, release_id, detail)
            return True

    def bad(self, environment: str, release_id: str) -> BadRelease | None:
        """Return why the release is refused in this environment, or None."""
        with self._database.reading() as session:
            row = _bad_row(session, environment, release_id)
            return _bad(row) if row is not None else None

    def set_last_known_good(self, environment: str, release_id: str, run: Holder) -> LastKnownGood:
        """Keep that the environment runs this release, verified. A retry of the same run adds nothing."""
        with self._database.writing() as session:
            latest = _latest_good(session, environment)
            if latest is not None and (latest.release_id, latest.dag_id, latest.run_id) == (
                release_id,
                run.dag_id,
                run.run_id,
            ):
                return _good(latest)
            now = self._database.now(session)
            row = KnownGoodRow(
                environment=environment,
                release_id=release_id,
                set_at=now,
                dag_id=run.dag_id,
                run_id=run.run_id,
                actor=run.actor,
            )
            session.add(row)
            detail = {"run": str(run)}
            write_audit(session, now, "release.known_good", run.actor, environment, release_id, detail)
            return _good(row)

    def last_known_good(self, environment: str) -> LastKnownGood | None:
        """Return the newest release that the environment ran and verified, or None."""
        with self._database.reading() as session:
            row = _latest_good(session, environment)
            return _good(row) if row is not None else None

    def known_good(self, environment: str, limit: int = 50) -> list[LastKnownGood]:
        """Return the releases that the environment ran and verified, each once, the newest first."""
        query = (
            select(KnownGoodRow)
            .where(KnownGoodRow.environment == environment)
            .order_by(KnownGoodRow.set_at.desc(), KnownGoodRow.id.desc())
            .limit(limit)
        )
        with self._database.reading() as session:
            found: dict[str, LastKnownGood] = {}
            for row in session.scalars(query):
                found.setdefault(row.release_id, _good(row))
            return list(found.values())


def _bad_row(session: Session, environment: str, release_id: str) -> BadReleaseRow | None:
    return session.scalars(
        select(BadReleaseRow).where(
            BadReleaseRow.environment == environment,
            BadReleaseRow.release_id == release_id,
            BadReleaseRow.ended_at.is_(None),
        )
    ).one_or_none()


def _latest_good(session: Session, environment: str) -> KnownGoodRow | None:
    return session.scalars(
        select(KnownGoodRow)
        .where(KnownGoodRow.environment == environment)
        .order_by(KnownGoodRow.set_at.desc(), KnownGoodRow.id.desc())
        .limit(1)
    ).one_or_none()


def _release(row: ReleaseRow) -> Release:
    return Release(
        release_id=row.release_id,
        version=row.version,
        sha=row.sha,
        artifact_key=row.artifact_key,
        artifact_sha256=row.artifact_sha256,
        size_bytes=row.size_bytes,
        node_version=row.node_version,
        schema_revision=row.schema_revision,
        expand_only=row.expand_only,
        built_at=row.built_at,
        built_by=Holder(row.dag_id, row.run_id, row.actor),
        manifest=row.manifest,
    )


def _bad(row: BadReleaseRow) -> BadRelease:
    holder = Holder(row.dag_id, row.run_id, row.actor)
    return BadRelease(row.environment, row.release_id, row.reason, row.marked_at, holder)


def _good(row: KnownGoodRow) -> LastKnownGood:
    return LastKnownGood(row.environment, row.release_id, row.set_at, Holder(row.dag_id, row.run_id, row.actor))
