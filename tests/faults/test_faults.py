"""Deployments that are broken for real: the fixed selection of the fault matrix."""

from __future__ import annotations

import pytest

from lab.chaos.catalog import SELECTED, chosen
from lab.chaos.play import play
from lab.chaos.scenario import Scenario
from lab.chaos.stage import Stage

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("scenario", chosen(list(SELECTED)), ids=lambda scenario: scenario.name)
def test_ends_safely(stage: Stage, scenario: Scenario) -> None:
    result = play(stage, scenario)

    assert result.is_safe, result.detail
