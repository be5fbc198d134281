"""Where reports are kept. Reading one back from real object storage is tested in the lab."""

from __future__ import annotations

import pytest

from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence.store import report_key, store_report


class Bucket:
    """Remembers what is put."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        self.objects[key] = (data, content_type)


def test_a_run_has_one_place() -> None:
    environment = load_inventory().environment("production")
    bucket = Bucket()
    run = ("deploy_blue_green.production", "manual__2026-11-23T08:57:30.412345+00:00")
    keys = {store_report(html, environment, *run, bucket) for html in ("first", "über")}
    (key,) = keys
    assert key == (
        "evidence/production/deploy_blue_green.production/manual__2026-11-23T08:57:30.412345+00:00/report.html"
    )
    assert bucket.objects == {key: ("über".encode(), "text/html; charset=utf-8")}


@pytest.mark.parametrize("run_id", ["../../../releases/x", "..", ".", "a/b", "a b", "a?b#c", "ünï"])
def test_a_run_id_can_not_leave_its_place(run_id: str) -> None:
    key = report_key("production", "d.production", run_id)
    parts = key.split("/")
    assert len(parts) == 5
    assert parts[:3] == ["evidence", "production", "d.production"]
    assert parts[3] not in ("", ".", "..")
    assert key.isascii()


def test_different_runs_have_different_places() -> None:
    names = ["a/b", "a%2Fb", "a b", "a+b", ".", "%2E", ".."]
    assert len({report_key("production", "d", name) for name in names}) == len(names)
