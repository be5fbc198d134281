"""Passive waits of deployments, in the triggerer."""

from __future__ import annotations

from sebenza_ops.systems.host_script_wait import HostScriptWait


class HostScriptTrigger(HostScriptWait):
    """A wait whose rule is one of `sebenza_ops.deployment.waits`: a function of the answers by host name."""

    def missing(self, answers: dict[str, str | None]) -> list[str]:
        """What the rule says is still missing."""
        from sebenza_ops.deployment import waits

        return waits.JUDGES[self.judge_name](answers, **self.judge_arguments)
