"""The waits of a deployment: each looks for some seconds, then gives its slot back and waits in the triggerer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.operators import PlannedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.environments.models import Environment, Host

POLL_INTERVAL_SECONDS = 0.5
# What is met by then costs no way through the triggerer, which takes seconds.
QUICK_SECONDS = 5.0
QUICK_POLL_SECONDS = 0.2


class HostScriptSensor(PlannedOperator):
    """Base of the waits: a read-only script on every load balancer, and a rule over its answers.

    A subclass says what it asks (`question`), how long it may take, and what a missed deadline means.
    """

    judge_name: str
    script: str
    waiting_for: str
    ui_color = "#e6f1f2"

    def question(self, environment: Environment) -> tuple[dict[str, Any], list[str]]:
        """The rule's arguments, and the script's for a load balancer."""
        raise NotImplementedError

    def script_arguments(self, environment: Environment, host: Host, common: list[str]) -> list[str]:
        """The script's arguments on one host."""
        return common

    def wait_seconds(self, environment: Environment) -> float:
        """How long to wait at most."""
        raise NotImplementedError

    def ended(self, run: ChangeRun, missing: list[str]) -> None:
        """What the end means; `missing` is empty when the wait was met."""
        raise NotImplementedError

    def execute(self, context: Context) -> None:
        """Look for some seconds; defer when something is still missing."""
        from sebenza_ops.deployment.triggers import HostScriptTrigger
        from sebenza_ops.environments.models import Role
        from sebenza_ops.systems.ssh import kept_sessions

        run = self.join(context)
        environment = run.environment
        hosts = environment.hosts_with_role(Role.LOAD_BALANCER)
        judge_arguments, common = self.question(environment)
        arguments = {host.name: self.script_arguments(environment, host, common) for host in hosts}
        until = time.monotonic() + QUICK_SECONDS
        with kept_sessions():
            while True:
                missing = self._look(environment, hosts, arguments, judge_arguments)
                if not missing:
                    self.ended(run, missing)
                    return
                if time.monotonic() >= until:
                    break
                time.sleep(QUICK_POLL_SECONDS)
        self.log.info("waiting for %s: %s", self.waiting_for, "; ".join(missing))
        wait_seconds = self.wait_seconds(environment)
        run.extend_for_wait(wait_seconds)
        self.defer(
            trigger=HostScriptTrigger(
                waiting_for=self.waiting_for,
                judge_name=self.judge_name,
                judge_arguments=judge_arguments,
                ssh_conn_id=environment.ssh_conn_id,
                hosts=[host.model_dump(mode="json") for host in hosts],
                script=self.script,
                arguments=arguments,
                interval_seconds=POLL_INTERVAL_SECONDS,
                deadline=time.time() + wait_seconds,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=wait_seconds + 60),
        )

    def _look(
        self,
        environment: Environment,
        hosts: Sequence[Host],
        arguments: Mapping[str, list[str]],
        judge_arguments: Mapping[str, Any],
    ) -> list[str]:
        """What is missing now."""
        from sebenza_ops.deployment.waits import JUDGES
        from sebenza_ops.systems.ssh import CommandResult, on_hosts

        answers = on_hosts(
            hosts,
            environment.ssh_conn_id,
            lambda session: session.run_script(self.script, arguments[session.host.name], check=False),
        )
        texts = {name: answer.stdout if isinstance(answer, CommandResult) else None for name, answer in answers.items()}
        return JUDGES[self.judge_name](texts, **judge_arguments)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Take the triggerer's answer."""
        self.ended(self.join(context), list(event["missing"]))


class IdleColorHealthySensor(HostScriptSensor):
    """Waits until the idle color is healthy with the new release on every host, seen from every load balancer."""

    judge_name = "missing_healthy_release"
    script = "lb_probe"
    waiting_for = "the idle color's health"

    def question(self, environment: Environment) -> tuple[dict[str, Any], list[str]]:
        """Version and health page of every application host."""
        from sebenza_ops.deployment.waits import release_urls

        plan = self.parsed_plan()
        version, health = release_urls(environment, plan)
        judge_arguments = {"version_urls": version, "health_urls": health, "release_id": plan.release.release_id}
        return judge_arguments, ["2", environment.public_hostname, *version.values(), *health.values()]

    def wait_seconds(self, environment: Environment) -> float:
        """The policy's health timeout."""
        policy = environment.policies.blue_green
        return float(policy.health_timeout_seconds) if policy is not None else 60.0

    def ended(self, run: ChangeRun, missing: list[str]) -> None:
        """A color that is not healthy in time ends the deployment; traffic was never touched."""
        from sebenza_ops.deployment.waits import not_healthy

        plan = self.parsed_plan()
        if missing:
            text = not_healthy(run.environment, plan, missing, self.wait_seconds(run.environment))
            run.note(text, "error")
            raise AirflowFailException(text)
        run.note(f"{plan.release.release_id} is healthy on {plan.to_color}, seen from every load balancer", "success")


class DrainedSensor(HostScriptSensor):
    """Waits until no load balancer has a session left on the old color; sessions past the deadline are reported."""

    judge_name = "missing_drained_sessions"
    script = "lb_state"
    waiting_for = "the old color's last sessions"

    def question(self, environment: Environment) -> tuple[dict[str, Any], list[str]]:
        """The old color's backend, in the load balancers' statistics."""
        plan = self.parsed_plan()
        backend = environment.application.colors[plan.from_color].backend
        return {"backend": backend, "key": environment.load_balancing.map_key}, []

    def script_arguments(self, environment: Environment, host: Host, common: list[str]) -> list[str]:
        """Where HAProxy's socket and files are on the host."""
        balancing = environment.load_balancing
        marker = f"{environment.application.marker_dir}/current-color"
        return [host.path(balancing.admin_socket), host.path(balancing.map_file), host.path(marker)]

    def wait_seconds(self, environment: Environment) -> float:
        """The policy's drain timeout."""
        policy = environment.policies.blue_green
        return float(policy.drain_timeout_seconds) if policy is not None else 30.0

    def ended(self, run: ChangeRun, missing: list[str]) -> None:
        """Long sessions do not fail a deployment: the old color runs on, they end when they end."""
        color = self.parsed_plan().from_color
        if missing:
            run.note(f"{color} still has sessions after the drain: {'; '.join(missing)}; it keeps running", "warning")
        else:
            run.note(f"{color} is drained: no session left on any load balancer", "success")
