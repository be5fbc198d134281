"""When a refresh begins. Pure rules."""

from __future__ import annotations

from sebenza_ops.environments.backup_policy import WEEKDAYS
from sebenza_ops.environments.refresh_policy import RefreshPolicy


def cron(policy: RefreshPolicy) -> str:
    """The policy's schedule as cron has it, in UTC."""
    return f"{policy.start.minute} {policy.start.hour} * * {(WEEKDAYS.index(policy.weekday) + 1) % 7}"
