"""The database at the site that takes over: its standby becomes the primary, and clients there are led to it."""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_assess import Databases, databases, estimate_loss
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import save_progress
from sebenza_ops.recovery.pair import POLL_SECONDS
from sebenza_ops.recovery.sites import on_sites, remembered_silence
from sebenza_ops.systems.database_endpoint import DatabaseEndpoint
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, kept_sessions, raise_first_error

REPLAY_TIMEOUT_SECONDS = 60.0
FOLLOW_TIMEOUT_SECONDS = 20.0


@kept_sessions()
@remembered_silence()
def promote_standby(run: ChangeRun, plan: DisasterPlan) -> str:
    """Make the standby the primary, once it has replayed what it has received. Returns a summary.

    Promoted already, by an earlier try, it is left as it is.

    Raises:
        DisasterRefusedError: It is not what was planned; nothing was promoted.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: It does not answer, or not in time; a retry goes on.
    """
    target, found = plan.database, databases(run.environment, plan.from_site, plan.to_site)
    if not is_promoted(found, plan):
        state = _replayed(found, plan)
        _measure(run, plan)
        policy = found.pair.policy
        promoted = found.pair.on_server(
            target.new,
            lambda server: server.promote(
                run.fence,
                target.system_identifier,
                target.timeline,
                max(target.lsn, state.lsn),
                "",
                policy.promote_timeout_seconds,
            ),
        )
        run.note(f"is the primary, on timeline {promoted.timeline}", "success", host=target.new, mark="switch")
    lead_endpoints(run, plan)
    detail = f"{target.new} takes writes, on a timeline beyond {target.timeline}"
    fact = {"name": "standby_promoted", "verdict": "pass", "detail": detail, "at": utc_now()}
    run.record([GateFact.model_validate(fact)])
    save_progress(run, promoted=True)
    return detail


def is_promoted(found: Databases, plan: DisasterPlan) -> bool:
    """Whether the server that takes over is the primary. Raises DisasterRefusedError, OutsideSystemError."""
    target = plan.database
    new = found.states[target.new]
    if isinstance(new, OutsideSystemError):
        raise new
    if new.system_identifier != target.system_identifier:
        raise DisasterRefusedError(
            f"{target.new} has the cluster {new.system_identifier}, {target.system_identifier} was planned: it was not "
            "promoted"
        )
    if new.is_primary and new.timeline <= target.timeline:
        raise DisasterRefusedError(f"{target.new} is a primary without having been promoted ({new.words})")
    if not new.is_primary and not new.is_standby:
        raise OutsideSystemError(f"it can't take over yet: it is {new.words}", host=target.new)
    return new.is_primary


def _replayed(found: Databases, plan: DisasterPlan) -> ServerState:
    """The standby when it has replayed all that it has received. Raises DisasterRefusedError when it does not."""
    give_up_at = time.monotonic() + REPLAY_TIMEOUT_SECONDS
    while True:
        new = found.pair.state_of(plan.database.new)
        if new.receive_lsn is None or new.lsn >= new.receive_lsn:
            return new
        # A promotion replays the rest, and goes on where the replay is paused.
        if new.replay_paused or time.monotonic() > give_up_at:
            return new
        time.sleep(POLL_SECONDS)


def _measure(run: ChangeRun, plan: DisasterPlan) -> None:
    """What is lost indeed, now that the old primary takes no writes as far as it can be reached."""
    again = databases(run.environment, plan.from_site, plan.to_site)
    loss = estimate_loss(again, plan.database)
    save_progress(run, lost=loss.words, lost_seconds=loss.seconds, lost_bytes=loss.size_bytes)
    shown = f"; shown before: {plan.loss.words}" if loss.words != plan.loss.words else ""
    run.note(f"lost: {loss.words}{shown}", "success" if loss.size_bytes == 0 else "warning")


def lead_endpoints(run: ChangeRun, plan: DisasterPlan) -> None:
    """Let the other site's endpoints lead to the new primary, and to nobody of the lost site."""
    environment, fence, target = run.environment, run.fence, plan.database
    hosts = environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=plan.to_site)

    def lead(placed: Environment, session: HostSession) -> None:
        endpoint = DatabaseEndpoint(placed, session)
        known = endpoint.state().servers
        for name in target.old_hosts:
            if name in known:
                endpoint.take_away(fence, name)
        endpoint.give_back(fence, target.new, is_primary=True)

    raise_first_error(dict(on_sites(environment, hosts, lead)))
    give_up_at = time.monotonic() + FOLLOW_TIMEOUT_SECONDS
    while True:
        states = on_sites(environment, hosts, lambda placed, session: DatabaseEndpoint(placed, session).state())
        raise_first_error(dict(states))
        leads = {name: state.leads_to for name, state in states.items() if not isinstance(state, OutsideSystemError)}
        if all(to == (target.new,) for to in leads.values()):
            break
        if time.monotonic() > give_up_at:
            raise OutsideSystemError(f"{target.new} is the primary, but the endpoints lead elsewhere: {leads}")
        time.sleep(POLL_SECONDS)
    if hosts:
        run.note(f"clients are led to {target.new} by {', '.join(leads)}", "success")
