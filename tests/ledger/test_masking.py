from __future__ import annotations

import pytest

from sebenza_ops.ledger import mask_object, mask_text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgres://app:hunter2@db1:5432/x", "postgres://app:***@db1:5432/x"),
        ("redis://:hunter2@cache:6379", "redis://:***@cache:6379"),
        ("connect failed: password=hunter2 host=db1", "connect failed: password=*** host=db1"),
        ('{"api_key": "hunter2"}', '{"api_key": "***"}'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("POST https://hooks.slack.com/services/T0/B0/hunter2", "POST https://hooks.slack.com/services/***"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----", "***"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2 cut off", "***"),
    ],
)
def test_secrets_in_text(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "The lease of production with fencing token 7 is lost",
        "https://ops.example/dags/deploy_blue_green.production/runs/manual__1",
        "error ratio 8.1% over 5% at 02:00:05",
        "thandi@example.com approved",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert mask_text(text) == text


def test_secrets_in_objects_and_a_fencing_token_that_is_none() -> None:
    assert mask_object(
        {"password": "a", "db": [{"SECRET": "b"}], "token": "c", "fencing_token": 7, "access_key": "", "host": "db1"}
    ) == {
        "password": "***",
        "db": [{"SECRET": "***"}],
        "token": "***",
        "fencing_token": 7,
        "access_key": "",
        "host": "db1",
    }
