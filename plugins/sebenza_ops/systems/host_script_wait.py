"""Passive waits, in the triggerer: a read-only host script asked again and again over SSH.

A trigger may run twice and may be lost; it changes nothing. What it saw is judged again by the task that resumes.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from sebenza_ops.systems.ssh import known_hosts_line, remote_command, script_argv

if TYPE_CHECKING:
    from sebenza_ops.environments.models import Host

COMMAND_TIMEOUT_SECONDS = 10.0
# The end is known later by a small part of what the wait took: every question costs a login.
FIRST_INTERVAL_SECONDS = 1.0
PART_OF_WAIT = 0.05


class HostScriptWait(BaseTrigger):
    """Asks a host script on several hosts until all their answers say that the wait is over, or until a deadline.

    A chapter's trigger says by `missing` what its answers mean.

    Args:
        waiting_for: The wait in words, for the triggerer's log.
        judge_name: Which of the chapter's rules decides.
        judge_arguments: What that rule takes besides the answers.
        ssh_conn_id: Airflow connection with login and key.
        hosts: The hosts as `Host.model_dump(mode="json")` gives them.
        script: Name of the script in include/hosts.
        arguments: Its arguments, by host name.
        interval_seconds: Time between two questions at most; a wait that has just begun is asked about more often.
        deadline: When to give up, in epoch seconds; absolute, so that a restarted triggerer does not begin anew.
    """

    def __init__(
        self,
        *,
        waiting_for: str,
        judge_name: str,
        judge_arguments: dict[str, Any],
        ssh_conn_id: str,
        hosts: list[dict[str, Any]],
        script: str,
        arguments: dict[str, list[str]],
        interval_seconds: float,
        deadline: float,
    ) -> None:
        super().__init__()
        self.waiting_for = waiting_for
        self.judge_name = judge_name
        self.judge_arguments = judge_arguments
        self.ssh_conn_id = ssh_conn_id
        self.hosts = hosts
        self.script = script
        self.arguments = arguments
        self.interval_seconds = interval_seconds
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The trigger's class path and arguments."""
        names = (
            "waiting_for",
            "judge_name",
            "judge_arguments",
            "ssh_conn_id",
            "hosts",
            "script",
            "arguments",
            "interval_seconds",
            "deadline",
        )
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {name: getattr(self, name) for name in names}

    @abstractmethod
    def missing(self, answers: dict[str, str | None]) -> list[str]:
        """What is still missing, by the answers of the hosts (None: it could not be asked)."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until nothing is missing or the deadline has passed."""
        from sebenza_ops.environments.models import Host

        hosts = [Host.model_validate(host) for host in self.hosts]
        began = time.monotonic()
        while True:
            answers = dict(
                zip((host.name for host in hosts), await asyncio.gather(*map(self._ask, hosts)), strict=True)
            )
            missing = self.missing(answers)
            if not missing or time.time() >= self.deadline:
                yield TriggerEvent({"missing": missing})
                return
            self.log.info("waiting for %s: %s", self.waiting_for, "; ".join(missing))
            waited = time.monotonic() - began
            await asyncio.sleep(min(self.interval_seconds, max(FIRST_INTERVAL_SECONDS, waited * PART_OF_WAIT)))

    async def _ask(self, host: Host) -> str | None:
        """The script's output, or None when the host can't be asked."""
        import asyncssh
        from airflow.providers.ssh.hooks.ssh import SSHHookAsync

        class InventoryKeyHook(SSHHookAsync):
            """Checks the inventory's host key, whatever the connection's extras say."""

            def _parse_extras(self, conn: Any) -> None:
                super()._parse_extras(conn)
                self.known_hosts = known_hosts_line(host).encode()

        hook = InventoryKeyHook(ssh_conn_id=self.ssh_conn_id, host=host.address, port=host.ssh.port)
        hook.known_hosts = known_hosts_line(host).encode()
        command = remote_command(script_argv(self.script, self.arguments[host.name]), COMMAND_TIMEOUT_SECONDS)
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS + 5), await hook._get_conn() as connection:
                result = await connection.run(command)
        except (OSError, asyncssh.Error, TimeoutError) as error:
            self.log.warning("%s: %s", host.name, error)
            return None
        if result.exit_status is None:
            self.log.warning("%s: the connection ended before the answer was whole", host.name)
            return None
        return str(result.stdout)
