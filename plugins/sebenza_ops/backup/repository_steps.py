"""Reading all of a repository back: every file looked at, every set and WAL segment read, every dump hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.backup.errors import BackupDamagedError
from sebenza_ops.backup.jobs import await_job
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.backup.steps import catalog_follows, on_host
from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import GateFact
from sebenza_ops.ledger import BackupKind
from sebenza_ops.systems.database_restore import DUMPS_PREFIX, MANIFEST
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import ArchiveReport, PgBackRest, RepositoryInfo, parse_verify
from sebenza_ops.systems.repository_files import RepositoryLook

CUT = "pgbackrest verify was not begun, as it does not end on a file that was cut"


@dataclass(frozen=True)
class RepositoryState:
    """What reading the repository showed: what is wrong by set, with what all sets share, and with WAL (`wal`)."""

    info: RepositoryInfo
    objects: int
    valid: tuple[str, ...]
    damaged: Mapping[str, str]
    shared: tuple[str, ...]
    wal: str
    archive: ArchiveReport

    def problems(self) -> list[str]:
        """All of it, one text a set."""
        found = [*self.shared, *(f"{label}: {reason}" for label, reason in self.damaged.items())]
        found += [self.wal] if self.wal else []
        return found if self.archive.is_whole else [*found, self.archive.message]


def verification_job(plan: BackupPlan, lsn: str) -> str:
    """The verification that begins when all WAL up to a dump's snapshot is archived: another snapshot, another one."""
    return f"{plan.job}-verify-{lsn.replace('/', '-')}"


def begin_reading(run: ChangeRun, pgbackrest: PgBackRest, job: str) -> RepositoryLook:
    """Look at every file, and let pgBackRest read the rest by itself; what works or is done already is left alone.

    Both are found again by `read_repository` of the same job.
    """
    look = pgbackrest.look(job)
    if not look.is_cut:
        pgbackrest.start_verify(run.fence, job)
    return look


def read_repository(run: ChangeRun, host: str, job: str) -> RepositoryState:
    """Look at every file, let pgBackRest read every set and WAL segment, look for gaps; the catalog learns of it.

    Raises JobRunning; BackupFailedError; OutsideSystemError.
    """
    environment, sets = run.environment, run.ledger.backup_sets
    wal = ""
    valid: tuple[str, ...] = ()
    with on_host(environment, host) as (pgbackrest, _):
        if pgbackrest.status(job).state == "absent":
            # What can't be read at all is told by this with its reason; the rest would call each file damaged.
            pgbackrest.info()
        # Many small reads: once is enough for a verification that is waited for.
        look = begin_reading(run, pgbackrest, job)
        damaged = {label: "; ".join(texts) for label, texts in look.sets.items()}
        shared = list(look.shared)
        if look.is_cut:
            shared.append(CUT)
        else:
            await_job(
                environment,
                environment.host(host),
                job,
                "the verification",
                lambda: pgbackrest.start_verify(run.fence, job),
                pgbackrest.status,
            )
            report = parse_verify(pgbackrest.output(job), host)
            valid = tuple(label for label in report.valid if label not in damaged)
            damaged = {**report.damaged, **damaged}
            wal = report.archive
        with on_host(environment, host) as (beside, _), ThreadPoolExecutor(1) as pool:
            asked = pool.submit(beside.info)
            archive = pgbackrest.archives()
            info = asked.result()
    known = {each.label for each in info.sets}
    for label in sorted(known - look.labels):
        damaged[label] = "its files are gone"
    # What is based on a set that is damaged is damaged, too.
    for each in info.sets:
        bad = [label for label in info.chain(each.label)[1:] if label in damaged]
        if bad and each.label not in damaged:
            damaged[each.label] = f"it is based on {bad[0]}, which is damaged"
    catalog_follows(run, info, "not in the repository after the verification")
    sets.mark_verified(
        environment.name, BackupKind.PHYSICAL, [each for each in valid if each in known and each not in damaged]
    )
    for label, reason in damaged.items():
        if label in known:
            sets.mark_bad(environment.name, BackupKind.PHYSICAL, label, reason, run.holder)
    return RepositoryState(info, look.objects, valid, damaged, tuple(shared), wal, archive)


def verify_backup(run: ChangeRun, plan: BackupPlan, label: str) -> list[str]:
    """Read all of the repository back, and look for gaps in the WAL. Returns what is wrong beside the run's own set.

    Raises JobRunning; BackupFailedError; BackupDamagedError when the run's own set can't be restored from.
    """
    environment, sets = run.environment, run.ledger.backup_sets
    catalogued = sets.find(environment.name, BackupKind.PHYSICAL, label)
    lsn = str(catalogued.detail.get("manifest_lsn", "")) if catalogued is not None else ""
    state = read_repository(run, plan.host, verification_job(plan, lsn))
    info, archive = state.info, state.archive
    chain = info.chain(label)
    own = next((each for each in info.sets if each.label == label), None)
    if own is None:
        raise BackupDamagedError(f"{label} is no longer in the repository: find out who has removed it")
    wrong = [f"{name}: {state.damaged[name]}" for name in chain if name in state.damaged]
    wrong += [f"{name}: was not read" for name in chain if name not in state.damaged and name not in state.valid]
    if state.wal:
        wrong.append(state.wal)
    if archive.breaks(own.wal_start):
        wrong.append(f"WAL that {label} needs: {archive.message}")
    if wrong:
        reason = "; ".join(wrong)
        sets.mark_bad(environment.name, BackupKind.PHYSICAL, label, reason, run.holder)
        raise BackupDamagedError(
            f"{label} can't be restored from: {reason}. Nothing was removed; earlier sets that were verified are "
            "in the catalog. Make a full backup (type: full), and look at the storage"
        )
    older = [f"{name}: {reason}" for name, reason in state.damaged.items() if name not in chain]
    older += list(state.shared)
    if not archive.is_whole:
        older.append(
            f"before {label}: {archive.message}; points in time from there on can't be reached from older sets"
        )
    run.note(
        f"all {len(state.valid)} valid sets read back, {state.objects} files looked at, the WAL since {own.wal_start} "
        "is whole",
        "success",
    )
    for text in older:
        run.note(text, "error")
    return older


def check_repository(run: ChangeRun, host: str, job: str) -> list[str]:
    """Read everything back: every file, set, WAL segment and dump. Returns what is wrong, which was told.

    Raises JobRunning; BackupFailedError; OutsideSystemError.
    """
    state = read_repository(run, host, job)
    problems = [*state.problems(), *damaged_dumps(run)]
    if problems:
        run.tell_warning(f"damaged in the repository of {run.environment.name}: {'; '.join(problems)}", about="damage")
        verdict, text = "fail", "; ".join(problems)
    else:
        verdict = "pass"
        text = f"{state.objects} files looked at, {len(state.valid)} sets, all WAL and every dump read back"
        run.note(text, "success", host=host)
    run.record([GateFact.model_validate({"name": "repository", "verdict": verdict, "detail": text, "at": _now()})])
    return problems


def _now() -> datetime:
    return datetime.now(UTC)


class _Hasher:
    """Takes what is fetched, and keeps its hash only."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, part: bytes) -> int:
        self._hash.update(part)
        return len(part)

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()


def damaged_dumps(run: ChangeRun) -> list[str]:
    """Fetch every piece of every dump that is kept, and compare its SHA-256. Returns what is wrong, and marks the sets.

    Raises OutsideSystemError when object storage does not answer.
    """
    name, sets = run.environment.name, run.ledger.backup_sets
    storage, prefix = ObjectStorage(run.environment.object_store), f"{DUMPS_PREFIX}{run.environment.name}/"
    keys = storage.keys(prefix)
    labels = {key.removeprefix(prefix).partition("/")[0] for key in keys}
    labels |= {each.label for each in sets.present(name, BackupKind.LOGICAL)}
    found = []
    for label in sorted(labels):
        wrong = _damaged_pieces(storage, f"{prefix}{label}/", keys)
        if wrong:
            found += wrong
            if sets.find(name, BackupKind.LOGICAL, label) is not None:
                sets.mark_bad(name, BackupKind.LOGICAL, label, "; ".join(wrong), run.holder)
    return found


def _damaged_pieces(storage: ObjectStorage, prefix: str, keys: Mapping[str, Any]) -> list[str]:
    manifest = prefix + MANIFEST
    content = storage.get_bytes(manifest)
    if content is None:
        return [f"{manifest} is gone"]
    try:
        document = json.loads(content)
        pieces = {str(key): str(piece["sha256"]) for key, piece in document["objects"].items()}
        int(document["size_bytes"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return [f"{manifest} is damaged"]
    if not content.rstrip().endswith(b"}"):
        return [f"{manifest} is cut"]
    wrong = []
    for key, sha256 in pieces.items():
        if key not in keys:
            wrong.append(f"{key} is gone")
            continue
        hasher = _Hasher()
        storage.fetch(key, hasher)
        if hasher.sha256 != sha256:
            wrong.append(f"{key} is not what was sent: it was damaged, or cut")
    return wrong
