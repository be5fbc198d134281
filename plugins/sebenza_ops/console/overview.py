"""Every environment at a glance: what is live, who is changing it, and how the last deployments ended.

All of it is what the ledger recorded. The truth about live traffic is in the load balancers; the page says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from sebenza_ops.console.readiness import ReadinessLine, readiness
from sebenza_ops.console.runs import AirflowRun
from sebenza_ops.environments.inventory import Inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.evidence.summary import OUTCOME_WORDS, Tone, environment_name, procedure_name
from sebenza_ops.evidence.wording import clock, duration, moment
from sebenza_ops.ledger import Deployment, Freeze, Lease, Ledger, Outcome, Reservation
from sebenza_ops.notify.runs import first_error

DEPLOYMENTS_SHOWN = 8
CHANGES_NOTHING = {"planned", "refused", "rejected"}
# Procedures with a record of their own that leave every release where it is.
MOVES_NO_RELEASE = {
    "disaster_recovery_drill",
    "migrate_contract",
    "restore_database",
    "restore_point_in_time",
    "switch_database_primary",
}
BETWEEN_SITES = {"disaster_recovery", "failback"}


@dataclass(frozen=True)
class LiveState:
    """What serves users, as far as the ledger knows. `color` is None when it doesn't."""

    sentence: str
    color: str | None = None
    release_id: str | None = None
    note: str = ""


@dataclass(frozen=True)
class EnvironmentView:
    """One environment's part of the page."""

    name: str
    url: str
    description: str
    live: LiveState
    lease: str
    lease_is_held: bool
    reservation: str
    freeze: str = ""
    recovery: list[ReadinessLine] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Overview:
    """The page: environments that the reader may see, and inventory files that can't be used."""

    environments: list[EnvironmentView]
    problems: list[str]


def build_overview(
    inventory: Inventory,
    ledger: Ledger,
    readable: Collection[str],
    runs: Mapping[tuple[str, str], AirflowRun],
    now: datetime,
) -> Overview:
    """Work out the page.

    Args:
        inventory: all environments.
        ledger: what happened.
        readable: ids of the DAGs that the reader may see; an environment without any is left out.
        runs: Airflow's record of the deployments' runs, by dag id and run id.
        now: the moment that "since" counts from.

    Raises:
        LedgerError: the ledger can't be read.
    """
    visible = visible_environments(inventory, readable)
    views = [_environment(environment, ledger, readable, runs, now) for environment in visible]
    names = {environment_name(dag_id) for dag_id in readable}
    problems = [
        f"{error.file.name} can't be used, so its procedures are missing: {error}"
        for error in inventory.errors.values()
        if error.environment in names or not names
    ]
    return Overview(environments=views, problems=problems)


def visible_environments(inventory: Inventory, readable: Collection[str]) -> list[Environment]:
    """The environments of which the reader may see at least one DAG, in the inventory's order of importance."""
    names = {environment_name(dag_id) for dag_id in readable}
    found = [environment for environment in inventory.environments.values() if environment.name in names]
    # The environment with the most hosts is the one that users depend on.
    return sorted(found, key=lambda environment: (-len(environment.hosts), environment.name))


def shown_deployments(ledger: Ledger, environment: str, readable: Collection[str]) -> list[Deployment]:
    """The environment's newest deployments that the reader may see."""
    recent = ledger.deployments.recent(environment, limit=4 * DEPLOYMENTS_SHOWN)
    return [deployment for deployment in recent if deployment.holder.dag_id in readable][:DEPLOYMENTS_SHOWN]


def _environment(
    environment: Environment,
    ledger: Ledger,
    readable: Collection[str],
    runs: Mapping[tuple[str, str], AirflowRun],
    now: datetime,
) -> EnvironmentView:
    name = environment.name
    lease = ledger.leases.current(name)
    return EnvironmentView(
        name=name,
        url=environment.url,
        description=environment.description,
        live=live_state(name, ledger, runs),
        lease=lease_sentence(lease, now),
        lease_is_held=lease is not None,
        reservation=reservation_sentence(ledger.leases.current_reservation(name), now),
        freeze=freeze_sentence(ledger.leases.current_freeze(name)),
        recovery=readiness(environment, ledger, now),
        findings=[f"{each.words} (since {moment(each.at)})" for each in ledger.findings.open_ones(name)],
        deployments=[
            deployment_row(
                deployment,
                runs.get((deployment.holder.dag_id, deployment.holder.run_id)),
                _why(ledger, deployment),
            )
            for deployment in shown_deployments(ledger, name, readable)
        ],
    )


def live_state(environment: str, ledger: Ledger, runs: Mapping[tuple[str, str], AirflowRun]) -> LiveState:
    """What is live by the newest deployment that says so.

    A deployment that ended without saying what it left is not passed over: then the ledger doesn't know.
    """
    note = ""
    for deployment in _that_move_releases(ledger.deployments.recent(environment, limit=50)):
        if deployment.outcome is None:
            run = runs.get((deployment.holder.dag_id, deployment.holder.run_id))
            if run is None or run.is_over:
                return _unknown(environment, deployment, "ended without recording its outcome")
            is_between_sites = _procedure(deployment) in BETWEEN_SITES
            doing = "is under way" if is_between_sites else "is being deployed"
            note = f"{deployment.requested_version} {doing} since {clock(deployment.started_at)} UTC"
            continue
        if deployment.outcome.value == "succeeded" and _procedure(deployment) in BETWEEN_SITES:
            return LiveState(sentence="At the other site", note=note or str(deployment.detail))
        outcome = _recorded_outcome(ledger, deployment)
        if outcome is not None and outcome.live_color:
            return _live(outcome.live_color, outcome.live_release, deployment, note)
        if deployment.outcome.value in CHANGES_NOTHING:
            continue
        if deployment.outcome.value == "succeeded" and deployment.to_color:
            return _live(deployment.to_color, deployment.release_id, deployment, note)
        if deployment.outcome.value == "rolled_back" and deployment.from_color:
            return _live(deployment.from_color, deployment.previous_release_id, deployment, note)
        return _unknown(environment, deployment, f"ended as {_word(deployment.outcome.value).lower()}")
    return LiveState(sentence="Not known: no deployment is recorded yet", note=note)


def _procedure(deployment: Deployment) -> str:
    return deployment.holder.dag_id.partition(".")[0]


def _that_move_releases(newest_first: Iterable[Deployment]) -> Iterator[Deployment]:
    """Without changes that leave every release where it is, nor a recovery that was followed by its failback."""
    is_back = False
    for deployment in newest_first:
        procedure = _procedure(deployment)
        if procedure == "failback" and deployment.outcome is Outcome.SUCCEEDED:
            is_back = True
        elif procedure not in MOVES_NO_RELEASE and not (is_back and procedure in BETWEEN_SITES):
            yield deployment


def _live(color: str, release_id: str | None, deployment: Deployment, note: str) -> LiveState:
    ended = deployment.finished_at or deployment.updated_at
    return LiveState(
        sentence=release_id or "release not recorded",
        color=color,
        release_id=release_id,
        note=note or f"as a deployment left it on {moment(ended)}",
    )


def _unknown(environment: str, deployment: Deployment, why: str) -> LiveState:
    at = moment(deployment.finished_at or deployment.updated_at)
    return LiveState(
        sentence="Not known",
        note=f"The deployment of {deployment.requested_version} {why} ({at}). Run check_environment.{environment}.",
    )


def _recorded_outcome(ledger: Ledger, deployment: Deployment) -> OutcomeFact | None:
    entries = ledger.evidence.entries(deployment.holder.dag_id, deployment.holder.run_id, kind=OutcomeFact.kind)
    try:
        return OutcomeFact.model_validate(entries[-1].payload) if entries else None
    except ValidationError:
        return None


def lease_sentence(lease: Lease | None, now: datetime) -> str:
    """Who holds the environment, since when, for what, and until when."""
    if lease is None:
        return "Free: nobody is changing it"
    held = duration((now - lease.acquired_at).total_seconds())
    until = (
        f"expires at {clock(lease.expires_at)} UTC if it is not renewed"
        if lease.expires_at > now
        else f"expired at {clock(lease.expires_at)} UTC, so it blocks nobody"
    )
    return f"{lease.purpose}, by {lease.holder.actor} with {lease.holder.dag_id}, for {held}; {until}"


def reservation_sentence(reservation: Reservation | None, now: datetime) -> str:
    """Who announced a change that is still being decided; empty when nobody did."""
    if reservation is None or reservation.expires_at <= now:
        return ""
    return (
        f"Reserved by {reservation.holder.actor} since {clock(reservation.reserved_at)} UTC: {reservation.purpose}, "
        f"until {moment(reservation.expires_at)} at the latest"
    )


def freeze_sentence(freeze: Freeze | None) -> str:
    """Who froze the environment, until when, and why; empty when nobody did."""
    if freeze is None:
        return ""
    return f"Frozen by {freeze.holder.actor} until {moment(freeze.expires_at)}: {freeze.reason}"


def _why(ledger: Ledger, deployment: Deployment) -> str:
    """The error of a deployment whose outcome only says where it ended."""
    if deployment.outcome is None or deployment.outcome.value not in ("failed", "refused"):
        return ""
    return first_error(ledger, deployment.holder.dag_id, deployment.holder.run_id)


def deployment_row(deployment: Deployment, run: AirflowRun | None, error: str = "") -> dict[str, Any]:
    """A deployment as a row: when, what, who, how it ended and by which error, and where its evidence is."""
    word, tone = _ending(deployment, run)
    ended = deployment.finished_at
    dag_id, run_id = quote(deployment.holder.dag_id, safe=""), quote(deployment.holder.run_id, safe="")
    return {
        "started": deployment.started_at.strftime("%Y-%m-%d %H:%M"),
        "started_exactly": moment(deployment.started_at),
        "took": duration((ended - deployment.started_at).total_seconds()) if ended else "",
        "procedure": procedure_name(deployment.holder.dag_id),
        "version": deployment.requested_version,
        "release_id": deployment.release_id or "not resolved",
        "actor": deployment.holder.actor,
        "word": word,
        "tone": tone,
        "detail": ". ".join(filter(None, (deployment.detail or deployment.phase, error))),
        "evidence": f"evidence/{dag_id}/{run_id}",
        "airflow": f"../dags/{dag_id}/runs/{run_id}",
    }


def _ending(deployment: Deployment, run: AirflowRun | None) -> tuple[str, Tone]:
    if deployment.outcome is not None:
        return OUTCOME_WORDS[deployment.outcome.value]
    if run is not None and not run.is_over:
        return "In progress", "running"
    return "Outcome not recorded", "error"


def _word(outcome: str) -> str:
    return OUTCOME_WORDS[outcome][0]
