"""What a run's parameters let through, as Airflow checks them: with Python's regular expressions."""

from __future__ import annotations

import re

import pytest
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.deployment.params import MOMENT_PATTERN, TARGET_PATTERN, VERSION_PATTERN
from sebenza_ops.procedures import reason_param


def passes(param: Param, value: object) -> bool:
    try:
        param.resolve(value)
    except ParamValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (VERSION_PATTERN, "v1.1.0"),
        (VERSION_PATTERN, "feature/faster-invoices"),
        (TARGET_PATTERN, ""),
        (TARGET_PATTERN, "v1.1.0-0123456789ab"),
        (MOMENT_PATTERN, "2026-12-24T16:00:00+02:00"),
        (MOMENT_PATTERN, "2026-12-24T16:00:00.000000Z"),
        (MOMENT_PATTERN, "2026-12-24 16:00"),  # its missing zone is explained by the procedure
    ],
)
def test_what_people_give_passes_and_no_line_feed_after_it(pattern: str, value: str) -> None:
    assert passes(Param(type="string", pattern=pattern), value)
    assert not passes(Param(type="string", pattern=pattern), f"{value}\n")


@given(st.text(max_size=30))
def test_what_passes_as_a_release_has_no_character_that_a_shell_reads(text: str) -> None:
    for pattern in (VERSION_PATTERN, TARGET_PATTERN):
        if passes(Param(type="string", pattern=pattern), text):
            assert re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._/-]*)?", text, re.ASCII)


@pytest.mark.parametrize(
    "text", ["orders\x00are lost", "orders\x1b[2J are lost", "\ud800 orders are lost", "x\r are lost"]
)
def test_a_reason_has_no_control_characters(text: str) -> None:
    assert not passes(reason_param("why", required=True), text)
    assert not passes(reason_param("why"), text)


@pytest.mark.parametrize(
    "text", ["orders are lost\nsince noon", "bestellings\tweg", "注文が失われました。至急です", "€ 🚚 lost since noon"]
)
def test_a_reason_is_of_any_alphabet(text: str) -> None:
    assert passes(reason_param("why", required=True), text)
