"""What a site's own copy of the repository could be restored to: which set, up to where, at what loss, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import BackupKind, LedgerUnavailable
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION
from sebenza_ops.recovery.point_plan import ArchiveReader, ways_of
from sebenza_ops.recovery.point_reach import Window, windows
from sebenza_ops.recovery.run_record import JobFailedError, job_key
from sebenza_ops.recovery.switch_plan import Loss
from sebenza_ops.systems.database_restore import BackupManifest, manifest_key, parse_backup_manifest
from sebenza_ops.systems.database_server import lsn_text, parse_lsn
from sebenza_ops.systems.drill_instance import RepositoryKeys
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import RepositorySet
from sebenza_ops.systems.site_restore import OpenRepository
from sebenza_ops.systems.ssh import open_session
from sebenza_ops.systems.wal_archive import Room

# Every promotion begins one; a copy knows all of them, and only the last few can be the one that was lived in.
LOOKED_AT_TIMELINES = 3


class RestoreSource(BaseModel):
    """What a restore of a site begins with; chosen once.

    Attributes:
        key: The run, in the names of what it makes.
        host: The database host that it is restored on.
        label: The set; with all WAL from it on for a full recovery.
        made_at: When that set was whole.
        size_bytes: Its files.
        timeline: The history that is followed.
        end_lsn: The last record of the archived WAL, which a full restore must reach.
        last_commit_at: The last commit in it, in epoch seconds; None when the segments that were read have none.
        end_words: Where the archived WAL ends, in words.
        manifest: The key of the set's manifest; empty when it has none.
        count_lsn: The position of the manifest's rows.
        dump: The label of the newest dump that a partial recovery takes the tables from; empty without one.
        dump_manifest: The key of its manifest.
        dump_at: When it was made, in epoch seconds.
        restore_seconds: How long all of it takes, by the last drill; None when there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    host: str
    system_identifier: str
    label: str
    made_at: float
    size_bytes: int
    timeline: int
    end_lsn: str
    last_commit_at: float | None = None
    end_words: str = ""
    manifest: str = ""
    count_lsn: str = ""
    dump: str = ""
    dump_manifest: str = ""
    dump_at: float | None = None
    restore_seconds: float | None = None

    def need_bytes(self, keep_free_bytes: int) -> int:
        """Free disk that the restore needs."""
        return self.size_bytes * 11 // 10 + keep_free_bytes

    def loss(self, until: float, how: str) -> Loss:
        """What a full recovery lacks: the age of the last archived commit when the service was last seen."""
        if self.last_commit_at is None:
            return Loss(basis=f"{self.end_words}; no commit is in the last segments of it")
        basis = f"last archived commit: {_moment(self.last_commit_at)}, up to when {how}; {self.end_words}"
        return Loss(seconds=max(0.0, until - self.last_commit_at), basis=basis)

    def partial_loss(self, until: float, how: str) -> Loss:
        """What a partial recovery lacks: everything since the dump."""
        if self.dump_at is None:
            return Loss(basis="the site's copy of the storage has no dump")
        basis = f"everything since the dump of {_moment(self.dump_at)}, up to when {how}"
        return Loss(seconds=max(0.0, until - self.dump_at), basis=basis)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def find_source(run: ChangeRun, to_site: str, host: str) -> RestoreSource:
    """Read the site's own copy of the repository, with its own credentials; nothing of another site is needed.

    Raises:
        OutsideSystemError: It can't be read, or nothing in it can be restored; the message says why.
    """
    placed = run.environment.at_site(to_site)
    policy = placed.policies.backup
    if policy is None or placed.database.ssh_conn_id is None:
        raise NoDataError(f"{placed.name} has no policies.backup: there is nothing to restore", host=host)
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        keys = RepositoryKeys.from_connections(policy.cipher_conn_id, policy.repository_conn_id)
    except AirflowNotFoundException as error:
        raise NoDataError(f"its keys are not here: {error}", host=host) from error
    key = job_key(run)
    try:
        with open_session(placed.host(host), placed.database.ssh_conn_id) as session:
            repository = OpenRepository(placed, session, f"{key}-look")
            opened = repository.open(keys)
            try:
                ways = ways_of(opened, session)
                info, archive, room = ways.pgbackrest.info(), ways.archive.listing(), ways.archive.room()
                reader, ends = ArchiveReader(opened, ways, f"{key}-look"), []
                for timeline in sorted({1, *archive.timelines}, reverse=True)[:LOOKED_AT_TIMELINES]:
                    reached = windows(info.sets, _bad(run), archive, ways.archive.history(archive, timeline))
                    if reached:
                        ends.append((timeline, Window(reached[-1].sets, reached[-1].chain, reader.end(reached[-1]))))
            finally:
                repository.close()
    except JobFailedError as error:
        raise NoDataError(str(error), host=host) from error
    chosen = newest(ends)
    if chosen is None:
        raise NoDataError("no sound set with its WAL is in the site's copy of the repository", host=host)
    timeline, window = chosen
    assert window.end is not None
    end, manifests = window.end, _manifests(placed, [each.label for each in info.sets])
    source = RestoreSource(
        key=key,
        host=host,
        system_identifier=info.system_identifier,
        timeline=timeline,
        end_lsn=lsn_text(end.lsn),
        last_commit_at=end.commit_at.timestamp() if end.commit_at else None,
        end_words=end_words(window),
        **set_to_restore(window, manifests),
        **newest_dump(info.sets, manifests),
        restore_seconds=_expected_seconds(run, window.sets[-1].size_bytes),
    )
    refuse_room(source, room, policy.minimum_free_bytes)
    return source


def refuse_room(source: RestoreSource, room: Room, keep_free_bytes: int) -> None:
    """Refuse a host without the space, or without leave to write beside. Raises NoDataError."""
    if not room.may_write_beside:
        raise NoDataError(
            "the owner of the cluster may not write beside its data directory, where the restored one is made: give it "
            "the directory above",
            host=source.host,
        )
    need = source.need_bytes(keep_free_bytes)
    if room.data_free_bytes < need:
        raise NoDataError(
            f"{room.data_free_bytes // 2**20} MiB are free beside the data directory, {need // 2**20} MiB are needed "
            "to restore beside what is there, which is kept: make room",
            host=source.host,
        )


def newest(ends: Sequence[tuple[int, Window]]) -> tuple[int, Window] | None:
    """Of several histories the one that was written to last: a former one ends earlier."""
    readable = [(timeline, window) for timeline, window in ends if window.end is not None]

    def written(item: tuple[int, Window]) -> tuple[float, int]:
        end = item[1].end
        assert end is not None
        return (end.commit_at or item[1].sets[-1].finished_at).timestamp(), end.lsn

    return max(readable, key=written) if readable else None


def end_words(window: Window) -> str:
    """Where archived WAL ends, in words."""
    assert window.end is not None
    gap = f", because WAL segment {window.chain.missing} is missing" if window.chain.is_gap else ""
    return f"the archived WAL ends at {lsn_text(window.end.lsn)}{gap}"


def set_to_restore(window: Window, manifests: dict[str, BackupManifest]) -> dict[str, object]:
    """The newest set of a window; rather one with a manifest that the archived WAL reaches, to compare it with."""
    assert window.end is not None
    last = window.sets[-1]
    for each in reversed(window.sets):
        found = manifests.get(each.label)
        # A recovery can't stop before the set is whole.
        if found is not None and parse_lsn(each.lsn_stop) <= parse_lsn(found.lsn) <= window.end.lsn:
            return {**_set(each), "manifest": found.key, "count_lsn": found.lsn}
    return _set(last)


def _set(found: RepositorySet) -> dict[str, object]:
    return {"label": found.label, "made_at": found.finished_at.timestamp(), "size_bytes": found.size_bytes}


def newest_dump(sets: Sequence[RepositorySet], manifests: dict[str, BackupManifest]) -> dict[str, object]:
    """The newest dump whose set is there, too: the cluster around it comes from that set."""
    for each in reversed(sets):
        found = manifests.get(each.label)
        if found is not None and found.pieces:
            at = datetime.fromisoformat(found.at).timestamp()
            return {"dump": each.label, "dump_manifest": found.key, "dump_at": at}
    return {}


def _manifests(placed: Environment, labels: Sequence[str]) -> dict[str, BackupManifest]:
    storage, found = ObjectStorage(placed.object_store), {}
    # The newest few: an older one is not restored for its manifest's sake.
    for label in list(labels)[-5:]:
        key = manifest_key(placed.name, label)
        document = storage.get_json(key)
        if document is not None:
            found[label] = parse_backup_manifest(document, key)
    return found


def _bad(run: ChangeRun) -> set[str]:
    """Sets that are known to be damaged, as far as a ledger can be asked."""
    try:
        present = run.ledger.backup_sets.present(run.environment.name, BackupKind.PHYSICAL)
    except LedgerUnavailable:
        return set()
    return {each.label for each in present if each.bad_since is not None}


def _expected_seconds(run: ChangeRun, size_bytes: int) -> float | None:
    """How long it takes by the newest drill, in proportion; None without one."""
    try:
        drills = run.ledger.audit.entries(environment=run.environment.name, action=DRILLED_ACTION)
    except LedgerUnavailable:
        return None
    for entry in drills:
        seconds, restored = entry.detail.get("rto_from_start_seconds"), entry.detail.get("restored_bytes")
        if seconds and restored:
            return float(seconds) * max(1.0, size_bytes / float(restored))
    return None
