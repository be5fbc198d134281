from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import TypeAdapter

from sebenza_ops.environments.inventory import Inventory, load_inventory
from sebenza_ops.environments.policies import Channels
from sebenza_ops.notify.routing import Severity, channel_name, channels_for, channels_of, failure_severity

SLACK = {"type": "slack", "target": "#ops"}
PAGE = {"type": "pagerduty", "target": "incidents"}


def _channels(**by_severity: list[dict[str, str]]) -> Channels:
    return TypeAdapter(Channels).validate_python(by_severity)


@pytest.mark.parametrize(
    ("channels", "severity", "expected"),
    [
        ({"critical": [PAGE], "warning": [SLACK]}, Severity.CRITICAL, ["pagerduty:incidents"]),
        ({"critical": [PAGE], "warning": [SLACK]}, Severity.WARNING, ["slack:#ops"]),
        ({"critical": [PAGE], "warning": [SLACK]}, Severity.INFO, []),
        ({"critical": [PAGE]}, Severity.WARNING, ["pagerduty:incidents"]),
        ({"warning": [SLACK]}, Severity.CRITICAL, ["slack:#ops"]),
        ({"critical": [SLACK, SLACK, PAGE]}, Severity.CRITICAL, ["slack:#ops", "pagerduty:incidents"]),
        ({"info": [SLACK]}, Severity.INFO, ["slack:#ops"]),
        ({}, Severity.CRITICAL, []),
    ],
)
def test_channels_by_severity(
    channels: dict[str, list[dict[str, str]]], severity: Severity, expected: list[str]
) -> None:
    assert [channel_name(channel) for channel in channels_for(_channels(**channels), severity)] == expected


def test_refused_run_wakes_nobody_up() -> None:
    assert failure_severity("deploy_blue_green", refused=True) is Severity.WARNING
    assert failure_severity("check_environment", refused=False) is Severity.WARNING
    assert failure_severity("deploy_blue_green", refused=False) is Severity.CRITICAL


def test_environment_without_valid_file_is_told_to_productions_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    inventory = load_inventory()
    production = inventory.environments["production"].policies.channels
    assert channels_of(inventory, "production") == production
    assert channels_of(inventory, "no-such-environment") == production
    assert channels_of(inventory, "all environments") == production
    development = {"development": inventory.environments["development"]}
    alone = Inventory(Path(), MappingProxyType(development), None, MappingProxyType({}))
    assert channels_of(alone, "production") == development["development"].policies.channels


def test_no_environment_no_channels() -> None:
    assert channels_of(Inventory(Path(), MappingProxyType({}), None, MappingProxyType({})), "production") is None
