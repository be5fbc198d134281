"""The proof of a recovery: one primary, a row that goes the application's way, and pages as users get them."""

from __future__ import annotations

import hashlib
import json

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_assess import databases
from sebenza_ops.recovery.disaster_plan import DisasterPlan
from sebenza_ops.recovery.disaster_record import progress_of
from sebenza_ops.recovery.disaster_rules import DisasterType
from sebenza_ops.recovery.rejoin import NotProvenError
from sebenza_ops.recovery.sites import remembered_silence
from sebenza_ops.recovery.switch_plan import server_states
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.reachability import ask_as_user
from sebenza_ops.systems.ssh import kept_sessions

CANARY_TIMEOUT_SECONDS = 20


@kept_sessions()
@remembered_silence()
def verify_recovery(run: ChangeRun, plan: DisasterPlan) -> str:
    """Prove by sources that do not know of each other that the site serves. Returns what was proven.

    Raises NotProvenError.
    """
    found = databases(run.environment, plan.from_site, plan.to_site)
    states = server_states(found.states)
    primaries = [name for name, state in states.items() if state.is_primary]
    new = plan.database.new
    wrong = [] if primaries == [new] else ["; ".join(f"{name} is {state.words}" for name, state in states.items())]
    _gate(run, "one_primary", wrong, f"{new} alone is a primary, of all servers that answer at both sites")
    placed = run.environment.at_site(plan.to_site)
    key = hashlib.sha256(f"{run.holder.dag_id} {run.holder.run_id}".encode()).hexdigest()[:12]
    table, token = f"sebenza_canary_{key}", f"t{run.fence.token}"
    login = DatabaseLogin.from_connection(placed.database.conn_id)
    found.pair.on_server(new, lambda server: server.write_canary(login, table, token))
    try:
        has_it = found.pair.on_server(new, lambda server: server.has_canary(table, token, CANARY_TIMEOUT_SECONDS))
    finally:
        found.pair.on_server(new, lambda server: server.drop_canary(login, table))
    wrong = [] if has_it else [f"{new} does not have the row that was written through {placed.database.endpoint}"]
    _gate(run, "canary", wrong, f"a row that was written through {placed.database.endpoint} is on {new}")
    release_id = str(progress_of(run).get("release_id") or plan.release_id)
    paths = critical_paths(run.environment) if plan.kind is DisasterType.PARTIAL else ()
    wrong = _pages(placed, release_id, paths)
    shown = f", {', '.join(paths)} too" if paths else ""
    detail = f"{release_id} answers on every load balancer of {plan.to_site}, as users get it{shown}"
    _gate(run, "users", wrong, detail)
    run.note(f"proven: {new} alone is the primary; {detail}", "success")
    return detail


@kept_sessions()
def verify_whole(run: ChangeRun, plan: DisasterPlan) -> str:
    """Prove that every page answers, once the rest is there, too. Returns what was proven. Raises NotProvenError."""
    placed = run.environment.at_site(plan.to_site)
    paths = tuple(dict.fromkeys((*critical_paths(run.environment), *placed.application.measured_paths)))
    release_id = str(progress_of(run).get("release_id") or plan.release_id)
    wrong = _pages(placed, release_id, paths)
    detail = f"{release_id} answers on every load balancer of {plan.to_site}: {', '.join(paths) or 'its health'}"
    _gate(run, "users_of_all", wrong, detail)
    run.note(f"proven: {detail}", "success")
    return detail


def critical_paths(environment: Environment) -> tuple[str, ...]:
    """The pages that a partial recovery serves first, by policy."""
    policy = environment.policies.disaster_recovery
    return policy.critical_paths if policy is not None else ()


def _pages(placed: Environment, release_id: str, paths: tuple[str, ...]) -> list[str]:
    """What is wrong with what users get."""
    balancing, application, wrong = placed.load_balancing, placed.application, []
    for host in placed.hosts_with_role(Role.LOAD_BALANCER):

        def ask(path: str, address: str = host.address) -> tuple[int, str]:
            return ask_as_user(address, balancing.https_port, placed.public_hostname, path, balancing.ca_file)

        try:
            status, _ = ask(application.health_path)
            if status != 200:
                wrong.append(f"{host.name}: {application.health_path} answers {status}")
            status, text = ask(application.version_path)
            if status != 200 or json.loads(text).get("release_id") != release_id:
                wrong.append(f"{host.name}: {application.version_path} answers {status} {text[:160]!r}")
            for path in paths:
                status, _ = ask(path)
                # Whoever is asked to log in is served.
                if status >= 500:
                    wrong.append(f"{host.name}: {path} answers {status}")
        except (OutsideSystemError, ValueError, AttributeError) as error:
            wrong.append(f"{host.name}: {error}")
    return wrong


def _gate(run: ChangeRun, name: str, wrong: list[str], good: str) -> None:
    verdict, detail = ("fail", "; ".join(wrong)) if wrong else ("pass", good)
    run.record([GateFact.model_validate({"name": name, "verdict": verdict, "detail": detail, "at": utc_now()})])
    if wrong:
        raise NotProvenError(f"{name}: {detail}")
