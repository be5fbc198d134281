"""Which backup set becomes a new database, how it is read, and what its manifest says of the result. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydantic import BaseModel, ConfigDict

from sebenza_ops.backup.comparison import differences as row_differences
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.systems.database_restore import BackupManifest
from sebenza_ops.systems.wal_archive import Room, Rows

AUTO, DUMP, FILES = "auto", "dump", "files"
# A database's files against the rows that were counted in it: indexes are made anew, and are never much larger.
GROWTH_FACTOR = 1.2
# More than a form takes: the newest.
OFFERED_SETS = 30


class DatabaseRestoreRefusedError(Exception):
    """The set can't be restored as asked. The message says why, and what can be; nothing was started."""


class DatabaseRestorePlan(BaseModel):
    """What a run does; chosen once.

    Attributes:
        key: The run, in the names of what it makes.
        host: The primary's host.
        label: The backup set.
        source: "dump", or "files": the set of the whole cluster, from which the database is dumped.
        manifest: The key of the set's manifest.
        target: The name of the new database.
        lsn: Up to where files are brought, which is the manifest's position.
        timeline: The history that leads there.
        files_bytes: Free disk that the files need.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    key: str
    host: str
    label: str
    source: str
    manifest: str
    made_at: str
    target: str
    lsn: str
    timeline: int
    files_bytes: int

    @property
    def words(self) -> str:
        """In words."""
        how = "its dump" if self.source == DUMP else f"its files, brought to {self.lsn} beside"
        return f"{self.label} of {self.made_at} into the new database {self.target} on {self.host}, from {how}"


def _usable(present: Sequence[BackupSet], source: str) -> tuple[tuple[BackupKind, ...], list[BackupSet]]:
    both = (BackupKind.LOGICAL, BackupKind.PHYSICAL)
    kinds = {DUMP: both[:1], FILES: both[1:]}.get(source, both)
    return kinds, [each for each in present if each.kind in kinds and each.detail.get("manifest")]


def verified(present: Sequence[BackupSet], source: str) -> list[BackupSet]:
    """The sets that may be restored, the newest first, one for each label."""
    _, usable = _usable(present, source)
    good = sorted((each for each in usable if each.is_good), key=lambda each: each.finished_at, reverse=True)
    return list({each.label: each for each in reversed(good)}.values())[::-1][:OFFERED_SETS]


def shown_sets(good: Sequence[BackupSet]) -> str:
    """Sets to choose from, as a table in Markdown."""
    lines = ["| set | made | MiB | restored and compared |", "|---|---|---|---|"]
    for each in good:
        tested = f"{each.restore_tested_at:%Y-%m-%d %H:%M} UTC" if each.restore_tested_at else "not yet"
        lines.append(
            f"| {each.label} | {each.finished_at:%Y-%m-%d %H:%M} UTC | {each.size_bytes // 2**20} | {tested} |"
        )
    return "\n".join(lines)


def choose_set(present: Sequence[BackupSet], wanted: str, source: str) -> BackupSet:
    """The set to restore: the one that is named, or the newest one that was verified.

    Args:
        present: The sets that are there, of both kinds, the newest of each first.
        wanted: A label; empty for the newest.
        source: "dump", "files", or "auto" for the dump where there is one.

    Raises DatabaseRestoreRefusedError with the sets that there are.
    """
    kinds, usable = _usable(present, source)
    good = [each for each in usable if each.is_good]
    offered = offer(good)
    if not wanted:
        if not good:
            raise DatabaseRestoreRefusedError(
                f"no verified set is there ({source}): run backup_database to its end. Nothing was started"
            )
        newest = max(good, key=lambda each: (each.finished_at, each.kind is BackupKind.LOGICAL))
        # A dump ends later than the files of the same set; of one set, the dump is what is read.
        return next((each for each in good if each.label == newest.label and each.kind is kinds[0]), newest)
    named = [each for each in usable if each.label == wanted]
    if not named:
        raise DatabaseRestoreRefusedError(
            f"there is no set {wanted!r} that can be restored ({source}); verified ones: {offered}. Nothing was started"
        )
    found = next((each for each in named if each.is_good), None)
    if found is None:
        why = named[0].bad_reason or "it was never verified"
        raise DatabaseRestoreRefusedError(
            f"{wanted} is not to be trusted: {why}; verified ones: {offered}. Nothing was started"
        )
    return found


def offer(good: Sequence[BackupSet]) -> str:
    """Sets to choose from, in words."""
    labels = list(dict.fromkeys(f"{each.label} ({each.finished_at:%Y-%m-%d %H:%M} UTC)" for each in good))
    return ", ".join(labels) or "none"


def refuse_target(target: str, databases: Collection[str]) -> None:
    """Refuse a name that is taken. Raises DatabaseRestoreRefusedError."""
    if target in databases:
        raise DatabaseRestoreRefusedError(
            f"there is a database {target} already, and it is not touched: give another target_database. There are: "
            f"{', '.join(databases)}. Nothing was started"
        )


def refuse_space(
    room: Room, stored_bytes: int, manifest: BackupManifest, files_bytes: int, keep_free_bytes: int
) -> None:
    """Refuse a host without the space. Raises DatabaseRestoreRefusedError.

    Args:
        room: What is free.
        stored_bytes: The dump, where jobs work.
        manifest: Of the set.
        files_bytes: The restored files beside the data directory; 0 without them.
        keep_free_bytes: What stays free.
    """
    database = int(manifest.size_bytes * GROWTH_FACTOR) + files_bytes + keep_free_bytes
    work = stored_bytes + (0 if room.one_disk else keep_free_bytes)
    needs = [("the data directory's disk", room.data_free_bytes, database + (work if room.one_disk else 0))]
    if not room.one_disk:
        needs.append(("the disk of work_dir", room.work_free_bytes, work))
    short = [
        f"{what} has {free // 2**20} MiB free, {need // 2**20} MiB are needed"
        for what, free, need in needs
        if free < need
    ]
    if short:
        raise DatabaseRestoreRefusedError(f"{'; '.join(short)}: make room. Nothing was started")


def differences(manifest: BackupManifest, found: Rows, database: str) -> list[str]:
    """What a restored database differs in from its manifest, one text each."""
    texts = row_differences(manifest.rows, found.rows.get(database, {}))
    revision = found.revisions.get(database)
    if revision != manifest.schema_revision:
        texts.append(f"schema revision {revision}, expected {manifest.schema_revision}")
    return sorted(texts)
