"""What deployments wait for, as pure rules over the answers of host scripts.

Each takes the answers by host name (None: the host could not be asked) and returns what is still missing, in words;
an empty list ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sebenza_ops.systems.build_host import parse_status
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import parse_state
from sebenza_ops.systems.release_answers import Answers, missing_healthy_release

if TYPE_CHECKING:
    from sebenza_ops.deployment.plan import DeploymentPlan
    from sebenza_ops.environments.models import Environment


def release_urls(environment: Environment, plan: DeploymentPlan) -> tuple[dict[str, str], dict[str, str]]:
    """Version page and health check of the plan's new color, by application host."""
    application = environment.application
    port = application.colors[plan.to_color].port
    base = {name: f"http://{environment.host(name).address}:{port}" for name in plan.hosts}
    version = {name: url + application.version_path for name, url in base.items()}
    return version, {name: url + application.health_path for name, url in base.items()}


def not_healthy(environment: Environment, plan: DeploymentPlan, missing: list[str], waited_seconds: float) -> str:
    """What people are told of a color that is not healthy in time: what is missing, where traffic is, where to look."""
    return (
        f"{plan.release.release_id} did not become healthy on {plan.to_color} within {waited_seconds:g} s: "
        f"{'; '.join(missing)}. Traffic was not touched, it is on {plan.from_color}. Look at "
        f"{environment.application.log_dir}/{plan.to_color}-error.log there."
    )


def missing_drained_sessions(answers: Answers, *, backend: str, key: str) -> list[str]:
    """What is missing until no load balancer has a session left on a backend."""
    missing: list[str] = []
    for balancer, text in answers.items():
        try:
            if text is None:
                raise NoDataError("it can't be asked", host=balancer)
            sessions = parse_state(balancer, text, key, datetime.now(UTC)).backend(backend).sessions_current
        except NoDataError as error:
            missing.append(str(error))
            continue
        if sessions:
            missing.append(f"{balancer} has {sessions} sessions left on {backend}")
    return missing


def missing_build(answers: Answers) -> list[str]:
    """What is missing until a build has ended, well or badly."""
    missing: list[str] = []
    for host, text in answers.items():
        if text is None:
            missing.append(f"{host} can't be asked")
            continue
        try:
            status = parse_status(text, host)
        except NoDataError as error:
            missing.append(str(error))
            continue
        if status.state == "running":
            missing.append(f"the build runs: {status.log_tail[-200:]}")
    return missing


JUDGES: Mapping[str, Callable[..., list[str]]] = {
    judge.__name__: judge for judge in (missing_healthy_release, missing_drained_sessions, missing_build)
}
"""The rules by name, for a trigger that carries only the name. Values take the answers and keyword arguments."""
