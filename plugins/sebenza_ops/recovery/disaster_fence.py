"""Fencing of a lost site: what can be reached there is stopped for good, and what can't is said, and bounded.

Two primaries that take writes are prevented in three places. On the lost site's own hosts: PostgreSQL is stopped and
can't be started, and starts as a replica if it is all the same. On its endpoint: no client gets to its servers, over
restarts too. By the guard of the database hosts (include/hosts/database-guard.sh), which asks the other site before
every start: that is what holds when nothing of the site could be reached.
"""

from __future__ import annotations

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_assess import look
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import save_progress
from sebenza_ops.recovery.disaster_rules import ComponentVerdict, Verdict
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.sites import on_sites
from sebenza_ops.recovery.switch_over import UNFENCED_ACTION
from sebenza_ops.systems.database_endpoint import DatabaseEndpoint
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, kept_sessions

POSTGRESQL = "PostgreSQL"


@kept_sessions()
def fence_site(run: ChangeRun, plan: DisasterPlan, approved_by: str) -> str:
    """Keep the lost site's servers from taking writes, first of all. Returns what was fenced, and what was not.

    Raises:
        DisasterRefusedError: A server there still takes connections, and neither it nor every endpoint can be reached;
            nothing was promoted.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host answers, and its server could not be stopped; a retry goes on.
    """
    pair = Pair(run.environment, (plan.from_site,))
    away, untold = _take_away(run, plan)
    stopped, unreachable = _stop_all(run, pair, plan)
    alive = still_alive(look(run.environment), tuple(unreachable)) if unreachable else []
    if alive and (untold or not away):
        _gate(run, "fail", f"{', '.join(alive)} take connections and can't be stopped: {unreachable[alive[0]]}")
        raise DisasterRefusedError(
            f"{', '.join(alive)} at {plan.from_site} take connections, can't be stopped ({unreachable[alive[0]]}), "
            f"and its endpoint can't keep clients away ({'; '.join(untold) or 'it has none'}): nothing was promoted. "
            "Two primaries would be worse. Cut the site's network, or reach one of both, and clear this task"
        )
    detail = _words(stopped, unreachable, away, untold)
    _gate(run, "waived" if unreachable else "pass", detail)
    run.note(detail, "warning" if unreachable else "success")
    if unreachable:
        audited = {"run": str(run.holder), "approved_by": approved_by, "why": "; ".join(unreachable.values())}
        run.ledger.audit.append(
            UNFENCED_ACTION, run.holder.actor, run.environment.name, ", ".join(unreachable), audited
        )
    save_progress(run, unfenced=sorted(unreachable), fenced=True)
    return detail


def still_alive(components: list[ComponentVerdict], hosts: tuple[str, ...]) -> list[str]:
    """The database servers, of these hosts, that somebody still gets a connection to, or that nobody could look at."""
    bad = {Verdict.UP, Verdict.CUT_OFF, Verdict.UNKNOWN}
    return [
        each.component.host
        for each in components
        if each.component.what == POSTGRESQL and each.component.host in hosts and each.verdict in bad
    ]


def _take_away(run: ChangeRun, plan: DisasterPlan) -> tuple[list[str], list[str]]:
    """Returns the endpoints of the lost site that keep clients away now, and why others could not be told."""
    environment, fence = run.environment, run.fence

    def take(placed: Environment, session: HostSession) -> None:
        endpoint = DatabaseEndpoint(placed, session)
        known = endpoint.state().servers
        for name in plan.database.old_hosts:
            if name in known:
                endpoint.take_away(fence, name)

    answers = on_sites(environment, environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=plan.from_site), take)
    _raise_fenced(answers)
    untold = [str(answer) for answer in answers.values() if isinstance(answer, OutsideSystemError)]
    return [name for name, answer in answers.items() if answer is None], untold


def _stop_all(run: ChangeRun, pair: Pair, plan: DisasterPlan) -> tuple[list[str], dict[str, str]]:
    """Returns the servers that are stopped and can't be started, and why others can't be reached."""
    stopped: list[str] = []
    unreachable: dict[str, str] = {}
    for name in plan.database.old_hosts:
        try:
            pair.fence_service(name, run.fence)
        except HostUnreachableError as error:
            unreachable[name] = str(error)
        else:
            stopped.append(name)
    return stopped, unreachable


def _raise_fenced(answers: dict[str, OutsideSystemError | None]) -> None:
    for answer in answers.values():
        if isinstance(answer, FencedOffError):
            raise answer


def _words(stopped: list[str], unreachable: dict[str, str], away: list[str], untold: list[str]) -> str:
    parts = []
    if stopped:
        parts.append(f"{', '.join(stopped)} stopped and kept from starting")
    if unreachable:
        parts.append(
            f"{', '.join(unreachable)} NOT STOPPED, out of reach: the guard there makes it a replica when it starts"
        )
    if away:
        parts.append(f"no client gets there through {', '.join(away)}, over restarts too")
    if untold:
        parts.append(f"endpoints that could not be told: {'; '.join(untold)}")
    return "; ".join(parts)


def _gate(run: ChangeRun, verdict: str, detail: str) -> None:
    fact = {"name": "old_site_fenced", "verdict": verdict, "detail": detail, "at": utc_now()}
    run.record([GateFact.model_validate(fact)])
