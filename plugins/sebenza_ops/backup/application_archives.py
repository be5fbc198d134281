"""Backing up the application and the configuration of every host of an environment, all hosts at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sebenza_ops.backup.archive_rules import abandoned_keys, catalog_label, keys_of, superfluous_sets
from sebenza_ops.changes import ChangeRun, run_key
from sebenza_ops.environments.models import ApplicationBackupPolicy, Environment, Role
from sebenza_ops.evidence.facts import GateFact, OutcomeFact
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.age import Identity
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.archive_manifest import Manifest, differences, shown, torn
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.host_archives import (
    PREFIX,
    SET,
    ArchiveSet,
    HostArchive,
    read_back,
    read_set,
    set_directory,
    stored_sets,
)
from sebenza_ops.systems.object_store import LARGEST_UPLOAD_BYTES, ObjectStorage
from sebenza_ops.systems.ssh import HostSession, on_hosts

# Files that change while they are read have been read whole by then, unless somebody writes all the time.
ATTEMPTS = 3


class ChangingFilesError(OutsideSystemError):
    """Files of a host changed while they were archived, each time that it was tried: no archive holds them whole."""


@dataclass(frozen=True)
class HostBackup:
    """A host's verified set, and what was seen on the way: files that changed, each with how often it was tried."""

    archive: ArchiveSet
    was_there: bool = False
    changed: tuple[str, ...] = ()


class ApplicationBackup:
    """One run's backup of an environment.

    Args:
        run: The run's hold on the environment.
    """

    def __init__(self, run: ChangeRun) -> None:
        policy = run.environment.policies.application_backup
        if policy is None:
            raise ValueError(f"environment {run.environment.name} has no policy application_backup")
        self.run, self.environment = run, run.environment
        self.policy: ApplicationBackupPolicy = policy
        self.storage = ObjectStorage(self.environment.object_store)
        self._identity = Identity.from_connection(policy.cipher_conn_id)
        self._key = run_key(run.holder)

    def back_up(self) -> list[ArchiveSet]:
        """Archive, verify and catalog every host, spares too. One that a former attempt has done is left.

        Raises OutsideSystemError with every host that has no new set; those that have one keep it.
        """
        answers = on_hosts(self.environment.active_hosts, self.policy.ssh_conn_id, self._back_up_host)
        done = {name: answer for name, answer in answers.items() if isinstance(answer, HostBackup)}
        for name, backup in done.items():
            self._record(name, backup)
        failed = {name: answer for name, answer in answers.items() if isinstance(answer, OutsideSystemError)}
        for name, error in failed.items():
            self.run.note(f"no backup: {error}", "error", host=name)
            self.run.record([GateFact(name=f"archive of {name}", verdict="fail", detail=str(error), at=_now())])
        if failed:
            raise OutsideSystemError(
                f"{len(failed)} of {len(answers)} hosts of {self.environment.name} were not backed up: "
                f"{'; '.join(str(error) for error in failed.values())}. The sets of the others are kept."
            )
        return [backup.archive for backup in done.values()]

    def retain(self) -> list[str]:
        """Remove what the policy does not keep, and make the catalog say what is there. Returns the labels removed."""
        name, now = self.environment.name, _now()
        sets = stored_sets(self.storage, name)
        catalog = self.run.ledger.backup_sets
        known = catalog.present(name, BackupKind.APPLICATION)
        bad = {each.label for each in known if each.bad_since is not None}
        days = self.environment.policies.retention.backups_days
        gone = superfluous_sets(sets, days, now, bad)
        for archive in gone:
            for key in keys_of(archive):
                self.storage.delete(key)
        left = [archive for archive in sets if archive not in gone]
        for key in abandoned_keys(self.storage.keys(f"{PREFIX}{name}/"), left, now):
            self.storage.delete(key)
        learned = catalog.reconcile(
            name,
            BackupKind.APPLICATION,
            [_catalog_entry(archive) for archive in left],
            f"older than {days} days, or no longer in object storage",
            self.run.holder.actor,
        )
        labels = [catalog_label(archive) for archive in gone]
        if labels:
            self.run.note(f"removed, older than {days} days: {', '.join(labels)}")
        lost = sorted(set(learned.gone) - set(labels))
        if lost:
            self.run.note(f"the catalog knows sets that are not in object storage: {', '.join(lost)}", "warning")
        return labels

    def _back_up_host(self, session: HostSession) -> HostBackup:
        directory = set_directory(self.environment.name, session.host.name, self._key)
        finished = read_set(self.storage, directory)
        if finished is not None:
            return HostBackup(finished, was_there=True)
        archive = HostArchive(self.environment, self.policy, session, self._key)
        changed: list[str] = []
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            made = archive.make(self._identity.recipient)
            if made.size_bytes > LARGEST_UPLOAD_BYTES:
                raise OutsideSystemError(
                    f"its archive has {made.size_bytes} bytes, object storage takes {LARGEST_UPLOAD_BYTES} at once: "
                    "what of it is no application and no configuration? Leave it out (exclude_names)",
                    host=session.host.name,
                )
            # Named by its content, so that a former attempt that wakes up can't replace what was verified.
            key = f"{directory}{made.sha256}.tar.zst.age"
            archive.send(self.storage, key, made.sha256)
            color, release_id = _markers(self.environment, session)
            found = ArchiveSet(
                environment=self.environment.name,
                host=session.host.name,
                key=key,
                manifest_key=f"{directory}{made.sha256}.manifest.age",
                size_bytes=made.size_bytes,
                sha256=made.sha256,
                recipient=self._identity.recipient,
                files=made.manifest.files,
                content_bytes=made.manifest.size_bytes,
                missing=made.manifest.missing,
                color=color,
                release_id=release_id,
                made_at=_now(),
                verified_at=_now(),
                seconds=time.monotonic() - began,
                run=str(self.run.holder),
            )
            # The second source: what object storage gives back, read to its last byte.
            archived = read_back(self.storage, found, self._identity)
            differing = differences(made.manifest, archived)
            if differing:
                changed.append(shown(differing))
                differing = torn(archived, made.manifest, archive.look())
            if not differing:
                return HostBackup(self._keep(found, made.manifest, archived, began), changed=tuple(changed))
        raise ChangingFilesError(
            f"files changed while they were read, {ATTEMPTS} times: {changed[-1]}. What writes there all the time? "
            "Leave it out (policies.application_backup.exclude_names)",
            host=session.host.name,
        )

    def _keep(self, found: ArchiveSet, made: Manifest, archived: Manifest, began: float) -> ArchiveSet:
        """Write the manifest, and last the set: only with it does the backup exist."""
        manifest = Manifest(archived.entries, made.missing, made.stamps)
        self.storage.put_bytes(found.manifest_key, self._identity.seal(manifest.to_json()))
        kept = found.model_copy(
            update={
                "files": manifest.files,
                "content_bytes": manifest.size_bytes,
                "verified_at": _now(),
                "seconds": time.monotonic() - began,
            }
        )
        self.storage.put_bytes(found.directory + SET, kept.model_dump_json(indent=2).encode(), "application/json")
        return kept

    def _record(self, host: str, backup: HostBackup) -> None:
        archive, name = backup.archive, self.environment.name
        self.run.ledger.backup_sets.record(_catalog_entry(archive, self.run))
        self.run.ledger.backup_sets.mark_verified(name, BackupKind.APPLICATION, [catalog_label(archive)])
        for text in backup.changed:
            self.run.note(f"changed while it was read: {text}", "warning", host=host)
        for path in archive.missing:
            self.run.note(f"{path} is declared and not here: mend the host, or the inventory", "warning", host=host)
        text = (
            f"{archive.files} files, {archive.content_bytes} bytes, {archive.size_bytes} stored; fetched back, "
            f"decrypted, each hash, owner and mode as on the host, in {archive.seconds:.1f} s"
        )
        self.run.note(f"{'there already: ' if backup.was_there else ''}{archive.label}: {text}", "success", host=host)
        self.run.record([GateFact(name=f"archive of {host}", verdict="pass", detail=text, at=archive.verified_at)])


def finish_backup(run: ChangeRun, failed: list[str], started_at: datetime) -> str:
    """Record how the run ended, and store its evidence. Returns the summary."""
    sets = run.ledger.backup_sets.of_run(run.holder.dag_id, run.holder.run_id)
    hosts = f"{len(sets)} of {len(run.environment.active_hosts)} hosts"
    summary = f"application backup of {run.environment.name}: {hosts} archived and verified"
    if failed:
        summary += f"; {failed[0]} failed"
    outcome = OutcomeFact(
        outcome="failed" if failed else "succeeded",
        summary=summary,
        failed_task=failed[0] if failed else None,
        at=_now(),
    )
    run.record([outcome])
    store_evidence(run, started_at, is_failed=bool(failed))
    return summary


def _markers(environment: Environment, session: HostSession) -> tuple[str | None, str | None]:
    if Role.APPLICATION not in session.host.roles:
        return None, None
    host = ApplicationHost(environment, session)
    color, release_id = host.read_marker("current-color"), host.read_marker("last-good-release")
    return (color or "").strip() or None, (release_id or "").strip() or None


def _catalog_entry(archive: ArchiveSet, run: ChangeRun | None = None) -> BackupSet:
    return BackupSet(
        environment=archive.environment,
        kind=BackupKind.APPLICATION,
        label=catalog_label(archive),
        backup_type="archive",
        started_at=archive.verified_at - timedelta(seconds=archive.seconds),
        finished_at=archive.verified_at,
        size_bytes=archive.content_bytes,
        stored_bytes=archive.size_bytes,
        detail={
            "host": archive.host,
            "object": archive.key,
            "manifest": archive.manifest_key,
            "sha256": archive.sha256,
            "files": archive.files,
            "missing": list(archive.missing),
            "color": archive.color,
            "release_id": archive.release_id,
        },
        made_by=run.holder if run else None,
    )


def _now() -> datetime:
    return datetime.now(UTC)
