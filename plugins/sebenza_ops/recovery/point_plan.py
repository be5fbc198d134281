"""The plan of a point-in-time restore: the target held against what the archive can reach, before anything begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.backup_policy import BackupPolicy
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.ledger import BackupKind
from sebenza_ops.recovery.point_reach import (
    Window,
    find_point,
    find_transaction,
    reachable,
    set_for_position,
    set_for_time,
    windows,
)
from sebenza_ops.recovery.point_target import Target, TargetKind, TargetRefusedError, moment_text, parse_target
from sebenza_ops.recovery.run_record import await_job
from sebenza_ops.systems.clocks import SKEW_WARNING_SECONDS
from sebenza_ops.systems.database_server import DatabaseServer, ServerState, lsn_text
from sebenza_ops.systems.errors import OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.pgbackrest import PgBackRest, RepositorySet
from sebenza_ops.systems.ssh import Fence, HostSession, on_hosts, open_session
from sebenza_ops.systems.wal_archive import RestorePoint, TransactionEnd, WalArchive, WalEnd, segment_number

# An idle cluster's last commit may be some segments before the end of its WAL; further back nobody looks for it.
SEGMENTS_WITHOUT_COMMIT = 32


class PointPlan(BaseModel):
    """What a run does; chosen once.

    Attributes:
        key: The run, in the names of what it makes.
        host: The primary's host, where it is restored.
        replica: The other database host.
        timeline: The primary's history at that time.
        label: The set that is restored.
        set_ends: When that set was whole.
        follow_timeline: The history that is followed to the target.
        need_bytes: Free disk that the restored copy needs.
        reach: What the archive can reach.
        primary_words: How the primary was found.
        clock: How wrong the clock is by which the times of commits were taken; empty when it is right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    key: str
    host: str
    replica: str
    system_identifier: str
    timeline: int
    label: str
    set_ends: str
    follow_timeline: int
    target: Target
    need_bytes: int
    reach: str
    primary_words: str
    clock: str = ""

    @property
    def words(self) -> str:
        """In words."""
        return (
            f"to {self.target.words}, from {self.label} (whole at {self.set_ends}), along timeline "
            f"{self.follow_timeline}, beside the running instance of {self.host}"
        )


@dataclass(frozen=True)
class Ways:
    """What a plan reads with, on one database host."""

    pgbackrest: PgBackRest
    archive: WalArchive
    host: str


def policy_of(environment: Environment) -> BackupPolicy:
    """The policy for backups. Raises TargetRefusedError without one."""
    policy = environment.policies.backup
    if policy is None or environment.database.ssh_conn_id is None:
        raise TargetRefusedError(f"environment {environment.name} has no policy for backups")
    return policy


def find_primary(environment: Environment) -> tuple[ServerState, str]:
    """The primary, and the name of the other database host. Raises TargetRefusedError when it is not one alone."""
    conn_id = environment.database.ssh_conn_id
    assert conn_id is not None
    states = on_hosts(
        environment.hosts_with_role(Role.DATABASE),
        conn_id,
        lambda session: DatabaseServer(environment, session).state(),
    )
    shown = "; ".join(f"{name}: {_describe(state)}" for name, state in states.items())
    primaries = [state for state in states.values() if isinstance(state, ServerState) and state.is_primary]
    if len(primaries) != 1:
        raise TargetRefusedError(
            f"nothing was started: {len(primaries)} primaries answer ({shown}). Run switch_database_primary first: "
            "unplanned when the primary is dead, rejoin when there are two"
        )
    return primaries[0], next((name for name in states if name != primaries[0].host), "")


def _describe(state: ServerState | OutsideSystemError) -> str:
    return state.words if isinstance(state, ServerState) else f"can't be asked: {state}"


def plan_point_restore(run: ChangeRun, params: Mapping[str, Any], key: str) -> PointPlan:
    """Hold the target against the archive, and the host against what is needed. Starts no restore.

    Raises:
        TargetRefusedError: It can't be reached, with what can be; or the host can't take it.
        OutsideSystemError: The repository can't be read.
    """
    environment = run.environment
    # First what needs no host: a slip of the pen costs a second.
    target = parse_target(str(params["target_type"]), str(params["target"]), exclusive=bool(params.get("exclusive")))
    policy = policy_of(environment)
    primary, replica = find_primary(environment)
    if primary.tablespaces:
        raise TargetRefusedError(
            f"{primary.host} has tablespaces: a copy can't take its place by this procedure. Nothing was started"
        )
    with on_archive(run, primary.host) as ways:
        bring_up_to_date(run, ways, run.fence)
        timeline = int(params.get("timeline") or 0) or primary.timeline
        clock = wrong_clock(ways, target)
        try:
            chosen, reach = choose(run, ways, target, timeline, key, str(params.get("set") or ""))
        except TargetRefusedError as error:
            raise TargetRefusedError(f"{error}. {clock}" if clock else str(error)) from error
        need = chosen.size_bytes * 11 // 10 + policy.minimum_free_bytes
        room = ways.archive.room()
    if not room.may_write_beside:
        raise TargetRefusedError(
            f"{primary.host}: the owner of the cluster may not write beside its data directory, where the copy is to "
            "be restored and exchanged: give it the directory above. Nothing was started"
        )
    if room.data_free_bytes < need:
        raise TargetRefusedError(
            f"{primary.host}: {room.data_free_bytes // 2**20} MiB free beside the data directory, {need // 2**20} MiB "
            f"needed to restore {chosen.label} beside the running instance: make room. Nothing was started"
        )
    plan = PointPlan(
        environment=environment.name,
        key=key,
        host=primary.host,
        replica=replica,
        system_identifier=primary.system_identifier,
        timeline=primary.timeline,
        label=chosen.label,
        set_ends=moment_text(chosen.finished_at),
        follow_timeline=timeline,
        target=target,
        need_bytes=need,
        reach=reach,
        primary_words=primary.words,
        clock=clock,
    )
    if clock:
        run.note(clock, "warning", host=plan.host)
    run.note(f"planned: {plan.words}. Reachable: {reach}", host=plan.host)
    return plan


def wrong_clock(ways: Ways, target: Target) -> str:
    """What people must know of the clock of the primary before they give a time; empty when it is right."""
    if target.kind is not TargetKind.TIME:
        return ""
    clock = ways.archive.clock()
    if clock.sure_seconds <= SKEW_WARNING_SECONDS:
        return ""
    return (
        f"Times in the WAL are by the server's clock, and {clock.words} now: what was seen on another clock has "
        "another time there. The target is taken as the server's time"
    )


def ways_of(environment: Environment, session: HostSession) -> Ways:
    """What a plan reads with."""
    return Ways(PgBackRest(environment, session), WalArchive(environment, session), session.host.name)


@contextmanager
def on_archive(run: ChangeRun, host: str) -> Iterator[Ways]:
    """What a database host reads with, logged in as the owner of its cluster."""
    with open_session(run.environment.host(host), str(run.environment.database.ssh_conn_id)) as session:
        yield ways_of(run.environment, session)


def bring_up_to_date(run: ChangeRun, ways: Ways, fence: Fence) -> None:
    """Let the archive reach until now. Where it can't, what it has counts."""
    try:
        ways.archive.mark(fence)
        ways.pgbackrest.check()
    except RemoteCommandError as error:
        run.note(f"the archive could not be brought up to now, what it has counts: {error}", "warning", host=ways.host)


def choose(
    run: ChangeRun, ways: Ways, target: Target, timeline: int, key: str, wanted: str = ""
) -> tuple[RepositorySet, str]:
    """The set from which the target can be reached, and what can be reached, in words. Raises TargetRefusedError."""
    info = ways.pgbackrest.info()
    present = run.ledger.backup_sets.present(run.environment.name, BackupKind.PHYSICAL)
    bad = {each.label for each in present if each.bad_since is not None}
    if wanted and wanted not in {each.label for each in info.sets}:
        known = ", ".join(each.label for each in info.sets) or "none"
        raise TargetRefusedError(f"the repository has no set {wanted!r}; there are: {known}. Nothing was started")
    if wanted:
        # Sets that it needs are damaged or not, chosen or not.
        bad |= {each.label for each in info.sets if each.label not in info.chain(wanted)}
    archive = ways.archive.listing()
    found = windows(info.sets, bad, archive, ways.archive.history(archive, timeline))
    if wanted:
        found = tuple(
            replace(window, sets=tuple(each for each in window.sets if each.label == wanted))
            for window in found
            if any(each.label == wanted for each in window.sets)
        )
    reader = ArchiveReader(run.environment, ways, key)
    found = tuple(replace(window, end=reader.end(window)) for window in found)
    if target.kind is TargetKind.TIME:
        chosen, _ = set_for_time(target, found, ways.archive.room().now)
    elif target.lsn is not None:
        chosen, _ = set_for_position(target, target.lsn, found)
    elif target.kind is TargetKind.NAME:
        point = find_point(target, reader.points(target.text, found), found)
        run.note(f"the restore point {point.name} is at {lsn_text(point.lsn)}")
        chosen, _ = set_for_position(target, point.lsn, found)
    else:
        assert target.xid is not None
        ended = find_transaction(target, reader.ends(target.xid, found), found)
        how = "was committed" if ended.is_commit else "was taken back"
        run.note(f"transaction {target.xid} {how} at {moment_text(ended.at)} ({lsn_text(ended.lsn)})")
        chosen, _ = set_for_position(target, ended.lsn, found, f"{how}, which is")
    return chosen, reachable(found)


class ArchiveReader:
    """Reads archived WAL in jobs on a host; what was read once is not read again by a retry.

    Args:
        environment: The environment.
        ways: The host to read on.
        key: The run.
    """

    def __init__(self, environment: Environment, ways: Ways, key: str) -> None:
        self._ways, self._key = ways, key
        self._timeout_seconds = float(policy_of(environment).timeout_seconds)

    def end(self, window: Window) -> WalEnd | None:
        """Where a window's WAL ends, and its last commit."""
        segments = window.chain.segments[-SEGMENTS_WITHOUT_COMMIT:]
        found = [each for each in self._scan("end", segments) if isinstance(each, WalEnd)]
        if not found:
            return None
        # The newest segment first: it has the last record; the commit may be in an earlier one.
        commit = next((each for each in found if each.commit_at is not None), found[0])
        return replace(found[0], commit_lsn=commit.commit_lsn, commit_at=commit.commit_at)

    def points(self, name: str, found: Sequence[Window]) -> list[RestorePoint]:
        """Restore points, from the newest set back until one of this name is found; all when there is none."""

        def has(points: Sequence[Any]) -> bool:
            return any(point.name == name for point in points)

        return [each for each in self._back("points", found, has) if isinstance(each, RestorePoint)]

    def ends(self, xid: int, found: Sequence[Window]) -> list[TransactionEnd]:
        """How a transaction has ended, from the newest set back until that is found."""
        return [each for each in self._back("xid", found, bool, xid) if isinstance(each, TransactionEnd)]

    def _back(
        self, mode: str, found: Sequence[Window], is_enough: Callable[[Sequence[Any]], bool], xid: int | None = None
    ) -> list[Any]:
        seen: list[Any] = []
        for window in reversed(found):
            until = segment_number(window.chain.segments[-1]) + 1
            for each in reversed(window.sets):
                first = segment_number(each.wal_start)
                part = [name for name in window.chain.segments if first <= segment_number(name) < until]
                # The first of what was read before comes again, for a record that begins here and ends there.
                after = [name for name in window.chain.segments if segment_number(name) == until]
                seen += self._scan(mode, [*part, *after], xid)
                if is_enough(seen):
                    return seen
                until = min(until, first)
        return seen

    def _scan(self, mode: str, segments: Sequence[str], xid: int | None = None) -> list[Any]:
        if not segments:
            return []
        archive = self._ways.archive
        what = f"{mode}-{xid or ''}-{segments[0]}-{segments[-1]}"
        job = f"{self._key}-{what}"
        archive.start_scan(job, segments, mode, xid)
        await_job(lambda: archive.status(job), "reading archived WAL", self._ways.host, self._timeout_seconds)
        return list(archive.found(job))
