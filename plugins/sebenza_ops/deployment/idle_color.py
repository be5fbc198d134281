"""Stopping a color that was kept warm."""

from __future__ import annotations

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.environments.models import Color, Role
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.ssh import HostSession, on_hosts, raise_first_error


class NotIdleError(Exception):
    """A color that was to be stopped is not the idle one that was meant."""


def stop_idle_color(run: ChangeRun, color_name: str, release_id: str) -> str:
    """Stop a color that no load balancer sends to. Returns what was done on which host.

    Raises NotIdleError with the reason when it is not the one meant.
    """
    environment, color = run.environment, Color(color_name)
    process_name = environment.application.process_name(color)
    with TrafficControl(environment) as control:
        states = control.states(PATIENT_TIMEOUT_SECONDS)
    raise_first_error(dict(states))
    live = [name for name, current in colors_now(environment, states).items() if current is not color.other]
    if live:
        raise NotIdleError(f"{color} is not idle: {', '.join(live)} may send to it. Nothing was stopped.")

    def stop(session: HostSession) -> str:
        host = ApplicationHost(environment, session)
        running = host.state().release_of(process_name)
        if running is None:
            return "nothing ran"
        if release_id and running != release_id:
            raise NotIdleError(f"{session.host.name}: {color} runs {running} now, not {release_id}: left alone")
        host.stop(run.fence, color)
        return f"{running} stopped"

    answers = on_hosts(environment.hosts_with_role(Role.APPLICATION), environment.ssh_conn_id, stop)
    raise_first_error(answers)
    for name, done in answers.items():
        run.note(f"{color}: {done}", host=name)
    return f"{environment.name}: {color} is stopped ({', '.join(f'{name}: {done}' for name, done in answers.items())})"
