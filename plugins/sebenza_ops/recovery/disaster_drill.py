"""A drill: the backups at the secondary site are restored with escrowed keys, and the application runs on the copy.

Nothing of it is reached by users: the copy listens on a port of its own, the application runs in the color that the
site's load balancers do not send to, and no DNS record is touched.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun, run_key
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_application import (
    await_daemon,
    choose_release,
    install_release,
    site_color,
    start_services,
)
from sebenza_ops.recovery.disaster_finish import open_finding
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION, Measures, missed
from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
from sebenza_ops.recovery.disaster_record import audit_once, compared
from sebenza_ops.recovery.escrow import escrowed_ids, gather, keys_of, open_escrow, secondary_of, stale_ids
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.database_server import DatabaseServer
from sebenza_ops.systems.drill_instance import DrillInstance, RestoredCopy
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import parse_probe
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import open_session

POLL_SECONDS = 1.0
FINDING_SUBJECT = "disaster recovery drill"


class DrillPlan(BaseModel):
    """What a drill uses. `known_commit_at` is the last commit that the standby had when it began."""

    model_config = ConfigDict(frozen=True)

    environment: str
    site: str
    database_host: str
    application_host: str
    release_id: str
    color: Color
    port: int
    size_bytes: int
    started_at: float
    known_commit_at: float | None = None


class DrillMissedError(Exception):
    """The drill came to its end, and an objective was not kept."""


def plan_drill(run: ChangeRun, release_id: str) -> DrillPlan:
    """Choose hosts, color and release; nothing is changed. Raises DisasterRefusedError."""
    placed, started_at = secondary_of(run.environment), time.time()
    policy = placed.policies.disaster_recovery
    assert policy is not None
    if run.environment.active_site == placed.active_site:
        raise DisasterRefusedError(f"{placed.active_site} serves users: no drill there. Nothing was changed")
    server = placed.hosts_with_role(Role.DATABASE)[0]
    assert placed.database.ssh_conn_id is not None
    with open_session(server, placed.database.ssh_conn_id) as session:
        state = DatabaseServer(placed, session).state()
    if state.is_primary:
        raise DisasterRefusedError(f"{server.name} is a primary: {placed.active_site} may serve. Nothing was changed")
    release = release_id or choose_release(run, placed.active_site)[0]
    if not release:
        raise DisasterRefusedError("nobody knows a release to run: name one with release_id. Nothing was changed")
    plan = DrillPlan(
        environment=placed.name,
        site=placed.active_site,
        database_host=server.name,
        application_host=placed.hosts_with_role(Role.APPLICATION)[0].name,
        release_id=release,
        color=site_color(placed).other,
        port=policy.drill_port,
        size_bytes=state.size_bytes,
        started_at=started_at,
        known_commit_at=state.last_commit_at,
    )
    run.note(f"drill on {plan.database_host}:{plan.port} and {plan.application_host} ({plan.color}), {release}")
    return plan


def restore_copy(run: ChangeRun, plan: DrillPlan) -> dict[str, Any]:
    """Restore the site's backups with the escrowed keys, and leave the copy running. Returns what was measured.

    Raises DisasterRefusedError when they do not open, or it can't be restored.
    """
    environment, placed = run.environment, secondary_of(run.environment)
    escrowed = open_escrow(environment)
    stale = stale_ids(escrowed, gather(escrowed_ids(environment))[0])
    if stale:
        open_finding(run, FINDING_SUBJECT, f"the escrow is out of date ({', '.join(stale)}): run escrow_credentials")
    keys = keys_of(environment, escrowed)
    _gate(run, "escrow", "pass", f"{len(escrowed)} connections opened with the operators' identity")
    server, client = placed.host(plan.database_host), placed.host(plan.application_host)
    backup = placed.policies.backup
    assert backup is not None
    assert placed.database.ssh_conn_id is not None
    give_up_at = time.monotonic() + backup.timeout_seconds
    with open_session(server, placed.database.ssh_conn_id) as session:
        copy = DrillInstance(placed, session, job_of(run))
        started = copy.start(run.fence, keys, plan.port, client, plan.size_bytes)
        run.note(f"restore {started}, from the copy of the repository at {plan.site}", host=plan.database_host)
        while (status := copy.status()).state == "running":
            if time.monotonic() > give_up_at:
                raise DisasterRefusedError(f"the restore did not end within {backup.timeout_seconds} s")
            time.sleep(POLL_SECONDS)
        if status.state != "done":
            raise DisasterRefusedError(f"the backups at {plan.site} were not restored: {status.log_tail[-600:]}")
        found = copy.restored()
    detail = (
        f"{found.restored_bytes} bytes in {found.restore_seconds:.1f} s, WAL replayed in {found.replay_seconds:.1f} s"
    )
    _gate(run, "restored", "pass", f"the escrowed keys open the backups: {detail}")
    run.note(detail, "success", host=plan.database_host)
    return {**found.__dict__}


def isolated(placed: Environment, plan: DrillPlan) -> Environment:
    """The environment as the drill's application sees it: the copy for its database, and nobody to alert."""
    address = placed.host(plan.database_host).address
    database = placed.database.model_copy(update={"endpoint": f"{address}:{plan.port}"})
    return placed.model_copy(update={"database": database, "alerts_webhook_conn_id": None})


def serve_copy(run: ChangeRun, plan: DrillPlan) -> float:
    """Run the release on the copy, and wait until it is healthy. Returns when that was. Raises DisasterRefusedError."""
    placed = secondary_of(run.environment)
    start_services(run, placed)
    alone, machine = isolated(placed, plan), placed.host(plan.application_host)
    policy = placed.policies.disaster_recovery
    assert policy is not None
    with open_session(machine, placed.ssh_conn_id) as session:
        host = ApplicationHost(alone, session)
        await_daemon(host)
        if plan.release_id not in host.state().releases:
            install_release(run, placed, host, plan.release_id)
        text = render_env_file(alone, plan.color, machine, plan.release_id, resolve_secrets(alone))
        host.configure(run.fence, plan.color, plan.release_id, text)
        host.start(run.fence, plan.color)
        base = f"http://{machine.address}:{placed.application.colors[plan.color].port}"
        version, health = base + placed.application.version_path, base + placed.application.health_path
        # What reads rows, so that it is the copy that answers.
        rows = [base + path for path in placed.application.measured_paths]
        give_up_at = time.monotonic() + policy.health_timeout_seconds
        while True:
            arguments = ["3", placed.public_hostname, version, health, *rows]
            said = session.run_script("lb_probe", arguments, timeout_seconds=30).stdout
            missing = missing_healthy_release(
                {machine.name: said},
                version_urls={machine.name: version},
                health_urls={machine.name: health},
                release_id=plan.release_id,
            )
            answers = parse_probe(said)
            missing += [f"{url} answers {answers.get(url, (0, ''))[0]}" for url in rows if _status(answers, url) >= 500]
            if not missing:
                break
            if time.monotonic() > give_up_at:
                raise DisasterRefusedError(f"{plan.release_id} is not healthy on the copy: {'; '.join(missing)}")
            time.sleep(POLL_SECONDS)
    detail = f"{plan.release_id} is healthy on the copy, on {plan.application_host} ({plan.color})"
    _gate(run, "application", "pass", detail)
    run.note(detail, "success")
    return time.time()


def _status(answers: dict[str, tuple[int, str]], url: str) -> int:
    return answers.get(url, (599, ""))[0] or 599


def clean_up(run: ChangeRun, plan: DrillPlan) -> None:
    """Stop the drill's application and end the copy. Raises the hosts' errors, after both were tried."""
    placed = secondary_of(run.environment)
    errors = []
    try:
        with open_session(placed.host(plan.application_host), placed.ssh_conn_id) as session:
            ApplicationHost(placed, session).stop(run.fence, plan.color)
    except OutsideSystemError as error:
        errors.append(error)
    assert placed.database.ssh_conn_id is not None
    try:
        with open_session(placed.host(plan.database_host), placed.database.ssh_conn_id) as session:
            DrillInstance(placed, session, job_of(run)).stop(run.fence)
    except OutsideSystemError as error:
        errors.append(error)
    if errors:
        raise OutsideSystemError("; ".join(str(error) for error in errors))
    run.note("the copy and its application are gone")


def judge_drill(run: ChangeRun, plan: DrillPlan, copy: RestoredCopy, served_at: float) -> str:
    """Compare what was measured with the objectives. Returns it in words.

    Raises DrillMissedError when one was not kept, after it was recorded as a finding with its owner.
    """
    lost = max(0.0, plan.known_commit_at - copy.last_commit_at) if plan.known_commit_at is not None else None
    measures = Measures(
        declared_at=plan.started_at,
        last_good_at=plan.started_at,
        last_good_basis="the drill's start",
        served_at=served_at,
        last_kept_at=copy.last_commit_at,
        lost_seconds=lost,
    )
    comparisons = compared(run, measures, DRILLED_ACTION)
    audit_once(run, DRILLED_ACTION, plan.site, {"restored_bytes": copy.restored_bytes, **measures.detail()})
    for each in comparisons:
        _gate(run, f"objective: {each.name}", "pass" if each.is_met else "fail", each.words)
    text = "; ".join(each.words for each in comparisons)
    wrong = missed(comparisons)
    if wrong:
        open_finding(run, FINDING_SUBJECT, "; ".join(each.words for each in wrong))
        raise DrillMissedError(text)
    run.note(text, "success")
    return text


def job_of(run: ChangeRun) -> str:
    """The drill's name on the hosts."""
    return f"{run_key(run.holder)}-drill"


def _gate(run: ChangeRun, name: str, verdict: str, detail: str) -> None:
    fact = {"name": name, "verdict": verdict, "detail": detail, "at": utc_now()}
    run.record([GateFact.model_validate(fact)])
