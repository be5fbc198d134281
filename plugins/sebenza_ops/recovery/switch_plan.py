"""Which server takes over from which, whether it may, and what would be lost. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from sebenza_ops.systems.database_endpoint import EndpointState
from sebenza_ops.systems.database_server import CLEAN_ENDS, ServerState, WalEnd, lsn_text
from sebenza_ops.systems.errors import OutsideSystemError

ServerStates = Mapping[str, ServerState | OutsideSystemError]
EndpointStates = Mapping[str, EndpointState | OutsideSystemError]


class SwitchRefusedError(Exception):
    """The primary can't be switched as asked; the message says why, and that nothing was changed."""


class NothingToSwitchError(SwitchRefusedError):
    """What was asked for is so already."""


class Kind(StrEnum):
    """What a run is to do."""

    PLANNED = "planned"
    """Both servers are well: nothing is lost."""
    UNPLANNED = "unplanned"
    """The primary is dead, or must go at once."""
    REJOIN = "rejoin"
    """A former primary that was left out becomes the replica."""


class Stage(StrEnum):
    """How far a switch has come, by the estate."""

    READY = "ready"
    """The old one is the primary."""
    STOPPED = "stopped"
    """Neither takes writes."""
    PROMOTED = "promoted"
    """The new one is the primary."""


# Ours: the endpoint tells whole seconds, and clocks that are right differ by less than one.
CLOCK_TOLERANCE_SECONDS = 2.0


class Loss(BaseModel):
    """What the new primary does not have.

    Attributes:
        size_bytes: WAL of the old primary that was not received; None when nobody can tell.
        commits: Transactions in it that were committed.
        seconds: From the last commit that is kept to the last one that is not, or to when the old primary was last
            seen.
        basis: Where that is known from.
    """

    model_config = ConfigDict(frozen=True)

    size_bytes: int | None = None
    commits: int | None = None
    seconds: float | None = None
    basis: str = ""

    @property
    def words(self) -> str:
        """In words."""
        if self.size_bytes == 0:
            return f"nothing ({self.basis})"
        parts = []
        if self.commits is not None:
            parts.append(f"{self.commits} committed transactions")
        if self.size_bytes is not None:
            parts.append(f"{self.size_bytes} bytes of WAL")
        if self.seconds is not None:
            parts.append(f"at most the last {self.seconds:.1f} s of commits")
        return f"{', '.join(parts) or 'not known'} ({self.basis})"


class SwitchPlan(BaseModel):
    """What a run does; chosen once, and kept when it is tried again or cleared.

    Attributes:
        old: The host that is the primary, or was.
        new: The host that becomes the primary; with `rejoin`, that is it.
        timeline: The history of the old primary; a new primary's is higher.
        lsn: What the new one had replayed when it was planned.
        loss: What would be lost.
        old_words: How the old one was found.
        new_words: How the new one was found.
        old_reachable: Whether its host could be reached, so that it can be stopped there.
        warnings: What people should know before they decide.
        sites: The sites of the servers; empty: the active one.
        endpoint_site: The site whose endpoints are told; empty: that of the servers.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    kind: Kind
    sites: tuple[str, ...] = ()
    endpoint_site: str = ""
    old: str
    new: str
    system_identifier: str
    timeline: int
    lsn: int
    loss: Loss
    old_words: str
    new_words: str
    old_reachable: bool = True
    warnings: tuple[str, ...] = ()

    def text(self, reason: str, requested_by: str, excluded: Mapping[str, str]) -> str:
        """Everything that is needed to decide, in Markdown."""
        what = {
            Kind.PLANNED: f"**{self.new}** becomes the primary of **{self.environment}**; {self.old} follows it.",
            Kind.UNPLANNED: f"**{self.new}** becomes the primary of **{self.environment}** in place of {self.old}.",
            Kind.REJOIN: f"**{self.old}** is made the replica of {self.new}, which is the primary.",
        }
        lost = "Discarded on it" if self.kind is Kind.REJOIN else "Lost"
        parts = [
            what[self.kind],
            f"- {self.old}: {self.old_words}\n- {self.new}: {self.new_words}",
            f"{lost}: **{self.loss.words}**.",
            self._fencing(),
        ]
        if self.warnings:
            parts += ["### Warnings", "\n".join(f"- {line}" for line in self.warnings)]
        parts.append(f"Requested by {requested_by}: {' '.join(reason.split())}")
        if excluded:
            parts.append("May not approve: " + ", ".join(f"{name} ({role})" for name, role in excluded.items()) + ".")
        return "\n\n".join(parts)

    def _fencing(self) -> str:
        if self.kind is Kind.PLANNED:
            return (
                "New connections wait at the endpoint meanwhile; transactions that do not end in time are broken off."
            )
        if self.old_reachable:
            return (
                f"{self.old} is stopped and kept from starting, and taken away from the endpoint, before anything else."
            )
        return (
            f"**{self.old} can't be reached, so it can't be stopped.** The endpoint alone keeps clients away from it, "
            "over restarts too: whoever connects to it directly may go on writing, and that will be lost. Approving "
            "accepts this; say in the reason how you know that it is down. Once it is back, run this procedure "
            "with the kind `rejoin`."
        )


def server_states(states: ServerStates) -> dict[str, ServerState]:
    """Those that could be asked."""
    return {name: state for name, state in states.items() if isinstance(state, ServerState)}


def describe(state: ServerState | OutsideSystemError) -> str:
    """A server in words, or why it can't be asked."""
    return state.words if isinstance(state, ServerState) else f"can't be asked: {state}"


def find_pair(kind: Kind, states: ServerStates) -> tuple[str, str]:
    """The old primary and the new one. Raises SwitchRefusedError, NothingToSwitchError."""
    if len(states) != 2:
        raise SwitchRefusedError(
            f"nothing was changed: the inventory has {len(states)} database hosts ({', '.join(states)}); this "
            "procedure switches within a pair"
        )
    shown = "; ".join(f"{name} is {describe(state)}" for name, state in states.items())
    known = server_states(states)
    primaries = [name for name, state in known.items() if state.is_primary]
    if kind is Kind.REJOIN:
        new = _primary_to_follow(known, primaries, shown)
        old = _other(states, new)
        if follows(known.get(old), known[new]):
            raise NothingToSwitchError(f"{old} follows {new} already: nothing to do ({shown})")
        return old, new
    if len(primaries) > 1:
        raise SwitchRefusedError(
            f"nothing was changed: BOTH ARE PRIMARIES ({shown}). Run this procedure with the kind `rejoin`: it keeps "
            "the one with the higher timeline, and makes the other one its replica"
        )
    new = _replica_to_promote(kind, known, primaries, shown)
    return _other(states, new), new


def _other(states: ServerStates, name: str) -> str:
    return next(each for each in states if each != name)


def _primary_to_follow(known: Mapping[str, ServerState], primaries: Sequence[str], shown: str) -> str:
    if not primaries:
        raise SwitchRefusedError(f"nothing was changed: there is no primary to follow ({shown})")
    return max(primaries, key=lambda name: known[name].timeline)


def _replica_to_promote(kind: Kind, known: Mapping[str, ServerState], primaries: Sequence[str], shown: str) -> str:
    standbys = [name for name, state in known.items() if state.is_standby]
    if kind is Kind.PLANNED and not (primaries and standbys):
        raise SwitchRefusedError(
            f"nothing was changed: a planned switch needs a primary and its replica ({shown}). When the primary is "
            "dead, choose the kind `unplanned`"
        )
    if not standbys:
        raise SwitchRefusedError(f"nothing was changed: there is no replica that could take over ({shown})")
    # Both may have been stopped on their way: the one that has more.
    return max(standbys, key=lambda name: (known[name].timeline, known[name].lsn))


def follows(replica: ServerState | None, primary: ServerState) -> bool:
    """Whether a server is a replica that streams the primary's own history."""
    return replica is not None and replica.is_streaming and replica.timeline == primary.timeline


def stage_of(plan: SwitchPlan, states: ServerStates) -> Stage:
    """How far the switch has come. Raises SwitchRefusedError when the servers are as no step leaves them."""
    known = server_states(states)
    old, new = known.get(plan.old), known.get(plan.new)
    shown = "; ".join(f"{name} is {describe(state)}" for name, state in states.items())
    if new is None:
        raise SwitchRefusedError(f"{plan.new}, which is to take over, can't be asked ({shown})")
    if new.system_identifier != plan.system_identifier:
        raise SwitchRefusedError(f"{plan.new} has another cluster than was planned ({shown})")
    if new.is_primary:
        if new.timeline <= plan.timeline:
            raise SwitchRefusedError(f"{plan.new} is a primary without having been promoted ({shown})")
        return Stage.PROMOTED
    if not new.is_standby:
        raise SwitchRefusedError(f"{plan.new}, which is to take over, is no replica that answers ({shown})")
    return Stage.READY if old is not None and old.is_primary else Stage.STOPPED


def why_not_ready(
    plan_old: str, plan_new: str, states: ServerStates, endpoints: EndpointStates, slot: str, maximum_lag_bytes: int
) -> list[str]:
    """What keeps a planned switch from being safe; empty when nothing does."""
    problems = [
        str(state) for state in (*states.values(), *endpoints.values()) if isinstance(state, OutsideSystemError)
    ]
    known = server_states(states)
    old, new = known.get(plan_old), known.get(plan_new)
    if old is not None and new is not None:
        problems += _why_not_a_pair(old, new, slot, maximum_lag_bytes)
    for name, endpoint in endpoints.items():
        if isinstance(endpoint, OutsideSystemError):
            continue
        if endpoint.leads_to != (plan_old,):
            problems.append(
                f"{name}: the endpoint leads to {', '.join(endpoint.leads_to) or 'nobody'}, not to {plan_old}"
            )
        server = endpoint.servers.get(plan_new)
        if server is None or server.is_away:
            what = "does not know" if server is None else "has taken away"
            problems.append(f"{name}: the endpoint {what} {plan_new}")
    if not endpoints:
        problems.append("the inventory has no host with the role database_endpoint")
    return problems


def _why_not_a_pair(old: ServerState, new: ServerState, slot: str, maximum_lag_bytes: int) -> list[str]:
    problems = []
    if old.system_identifier != new.system_identifier:
        problems.append(f"{old.host} and {new.host} are not of one cluster")
    if old.timeline != new.timeline:
        problems.append(f"{old.host} is on timeline {old.timeline}, {new.host} on {new.timeline}")
    if not new.is_streaming:
        problems.append(f"{new.host} does not stream from {old.host}: {new.words}")
    sender = next((each for each in old.senders if each.slot == slot), None)
    if sender is None:
        used = ", ".join(str(each.slot) for each in old.senders) or "none"
        problems.append(f"{new.host} does not use the slot {slot} on {old.host} (used: {used})")
    lag = max(0, old.lsn - new.lsn)
    if lag > maximum_lag_bytes:
        problems.append(f"{new.host} is {lag} bytes behind, {maximum_lag_bytes} are allowed")
    if new.replay_paused:
        problems.append(f"replay is paused on {new.host}: as a superuser, SELECT pg_wal_replay_resume()")
    return problems


def position_reached(old: ServerState | OutsideSystemError, new: ServerState) -> int | None:
    """The position from which on the new one has all that the old one ever had; None while it has not.

    Of one that was shut down cleanly, the last checkpoint is the last record, and a replica's position is the end of
    what it has replayed. One that is a replica itself by now has replayed to its own end.
    """
    if isinstance(old, OutsideSystemError) or old.is_primary:
        return None
    if old.is_standby:
        return old.lsn if new.lsn >= old.lsn > 0 else None
    if old.running == "no" and old.control_state in CLEAN_ENDS:
        return old.checkpoint_lsn + 1 if new.lsn > old.checkpoint_lsn else None
    return None


def loss_by_wal(end: WalEnd, new: ServerState) -> Loss:
    """What a dead primary's own WAL says."""
    seconds = None
    if end.commits and end.last_commit_at is not None:
        kept = new.last_commit_at or (end.first_commit_at or end.last_commit_at).timestamp()
        seconds = max(0.0, end.last_commit_at.timestamp() - kept)
    size = max(0, end.end_lsn - new.lsn) if end.commits else 0
    return Loss(size_bytes=size, commits=end.commits, seconds=seconds, basis="counted in its WAL")


def loss_by_position(old: ServerState, new: ServerState) -> Loss:
    """What a primary that still answers has written beyond the replica."""
    return Loss(size_bytes=max(0, old.lsn - new.lsn), basis=f"it answers, and is at {lsn_text(old.lsn)}")


def loss_by_time(new: ServerState, endpoints: EndpointStates, old: str, why: str) -> Loss:
    """What can be said without the old primary: commits between the last one that is kept and when it was last seen."""
    if new.last_commit_at is None:
        return Loss(basis=f"{why}; {new.host} has replayed no commit since its start")
    seen = [
        state.now_milliseconds / 1000 - state.servers[old].since_seconds
        for state in endpoints.values()
        if isinstance(state, EndpointState) and old in state.servers and not state.servers[old].is_up
    ]
    until, how = (max(seen), "the endpoint saw it last") if seen else (new.now, "now")
    last = datetime.fromtimestamp(new.last_commit_at, UTC).isoformat(timespec="milliseconds")
    # Of the old primary's clock, which nobody can ask any more.
    ahead = new.last_commit_at - until
    if ahead > CLOCK_TOLERANCE_SECONDS:
        return Loss(
            basis=f"{why}; by its clock the last commit that is kept is of {last}, {ahead:.0f} s after {how}: that "
            "clock was ahead, and tells nothing of what is missing"
        )
    # A check a second, two of which must fail.
    seconds = max(0.0, until - new.last_commit_at)
    return Loss(seconds=seconds, basis=f"{why}; last commit that is kept: {last}, up to when {how}")


def warnings_of(kind: Kind, old: ServerState | OutsideSystemError, new: ServerState) -> tuple[str, ...]:
    """What people should know before they decide."""
    found: list[str] = []
    if kind is Kind.UNPLANNED and isinstance(old, ServerState) and old.is_primary:
        found.append(f"{old.host} answers and takes writes: a planned switch would lose nothing")
    if kind is not Kind.REJOIN and new.replay_paused:
        found.append(f"replay is paused on {new.host}; it goes on when it is promoted")
    if kind is not Kind.REJOIN and new.synchronous:
        found.append(
            f"{new.host} waits for synchronous replicas ({new.synchronous}): commits will hang there until one follows"
        )
    if new.tablespaces:
        found.append(
            f"{new.host} has tablespaces: {host_of(old)} can be rewound, but not copied anew by this procedure"
        )
    return tuple(found)


def host_of(state: ServerState | OutsideSystemError) -> str:
    """The host that a state, or an error, is about."""
    return state.host


def conclusion(
    plan: SwitchPlan, failed: Sequence[str], stage: Stage | None, *, is_left_out: bool, pause_ms: int
) -> str:
    """What a run's summary says."""
    if plan.kind is Kind.REJOIN:
        done = f"{plan.old} follows {plan.new}" if not failed else f"{failed[0]} failed; {plan.new} stays the primary"
        return f"{plan.environment}: {done}"
    if stage is Stage.PROMOTED:
        text = f"{plan.environment}: {plan.new} is the primary, in place of {plan.old}"
        if pause_ms:
            text += f"; clients waited for {pause_ms} ms"
        if plan.kind is Kind.UNPLANNED:
            text += f"; lost: {plan.loss.words}"
        if is_left_out:
            text += f". {plan.old} IS LEFT OUT: once its host is back, run this procedure with the kind `rejoin`"
        if failed:
            text += f". {failed[0]} failed: its log says why, and clearing it goes on"
        return text
    where = {
        Stage.READY: f"{plan.old} is the primary as before",
        Stage.STOPPED: f"NO SERVER TAKES WRITES: clear switch_primary, or start {plan.old}",
        None: "who is the primary can't be told",
    }[stage]
    return f"{plan.environment}: {failed[0] if failed else 'planned only'}; {where}"
