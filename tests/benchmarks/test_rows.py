"""What the benchmarks make of their numbers; the numbers themselves are never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import IDLE, IN_THE_LAB, NAMES, PARSING
from benchmarks.airflow_start import READY
from benchmarks.bad_releases import seconds_to_safe
from benchmarks.rollbacks import seconds_to_release
from benchmarks.rows import FailedRow, Row, table, write_rows
from benchmarks.session import BenchmarkError
from lab.load.report import LoadReport, Request

BAD = "v1.3.2-late-5xx-0123456789ab"
PROMISED = {
    "blue_green.failed_requests",
    "blue_green.requests_to_old_color",
    "blue_green.bad_release_to_safe_seconds",
    "blue_green.slow_release_to_safe_seconds",
    "blue_green.dag_wall_seconds",
    "rolling.failed_requests",
    "rolling.dag_wall_seconds",
    "rollback.warm_seconds",
    "rollback.cold_seconds",
    "rollback.failed_requests",
    "recovery.pitr_wrong_rows",
    "recovery.failover_rto_seconds",
    "recovery.rpo_seconds",
    "backup.wall_seconds",
    "backup.stored_bytes",
    "restore.wall_seconds",
    "backup.dag_wall_seconds",
    "restore.dag_wall_seconds",
    "airflow.task_overhead_seconds",
    "dags.parse_seconds_per_file",
    "lab.cpu_seconds_per_idle_minute",
    "airflow.cpu_seconds_per_idle_minute",
    "airflow.ready_seconds",
}


@pytest.mark.parametrize(
    ("value", "baseline", "expected"),
    [(3.0, 2.0, 1.5), (0, 31, 0.0), (0, 0, 1.0), (2, 0, None)],
    ids=["worse", "none-beside-some", "none-beside-none", "some-beside-none"],
)
def test_ratio(value: float, baseline: float, expected: float | None) -> None:
    assert Row("some.row", value, baseline, "s", 3).ratio == expected


def test_rows_are_written_with_exactly_the_promised_fields(tmp_path: Path) -> None:
    write_rows([Row("some.row", 3.0, 2.0, "s", 5)], tmp_path / "build" / "bench.json")

    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == [
        {"name": "some.row", "value": 3.0, "baseline": 2.0, "ratio": 1.5, "unit": "s", "n": 5}
    ]


def test_table_shows_every_row_and_no_number_where_there_is_none() -> None:
    lines = table([Row("some.row", 3.0, 2.0, "s", 5), Row("other", 2, 0, "requests", 3)]).splitlines()

    assert [line.split() for line in lines] == [
        ["name", "value", "baseline", "ratio", "unit", "n"],
        ["some.row", "3", "2", "1.5", "s", "5"],
        ["other", "2", "0", "-", "requests", "3"],
    ]


def test_a_row_that_failed_is_written_in_its_place_without_numbers(tmp_path: Path) -> None:
    write_rows([FailedRow("some.row", "no lease\nfor a reason")], tmp_path / "bench.json")

    assert json.loads((tmp_path / "bench.json").read_text()) == [
        {
            "name": "some.row",
            "value": None,
            "baseline": None,
            "ratio": None,
            "unit": "",
            "n": 0,
            "error": "no lease\nfor a reason",
        }
    ]


def test_table_says_which_row_failed_and_why() -> None:
    lines = table([FailedRow("some.row", "no lease\nfor a reason"), Row("other", 2.0, 1.0, "s", 3)]).splitlines()

    assert lines[1].split(maxsplit=5) == ["some.row", "-", "-", "-", "0", "failed: no lease"]
    assert "failed" not in lines[2]


def test_every_promised_row_can_be_asked_for() -> None:
    assert set(NAMES) == PROMISED
    assert {PARSING, READY, *(name for names, _ in IN_THE_LAB for name in names), *IDLE} == PROMISED


def test_safe_is_when_the_bad_release_gets_nothing_any_more() -> None:
    report = _report(
        _request(10.0, 10.1),
        _request(12.0, 12.1, outcome="server_error", status=500),
        _request(13.0, 19.0),
        _request(15.5, 15.6),
        _request(16.0, 16.1, release="v1.2.0-ba9876543210"),
    )

    assert seconds_to_safe(report, BAD) == pytest.approx(3.5)


def test_a_slow_answer_is_bad_from_the_moment_it_was_asked_for() -> None:
    report = _report(_request(10.0, 10.1), _request(13.0, 18.5), _request(20.0, 20.1))

    assert seconds_to_safe(report, BAD) == pytest.approx(7.0)


def test_a_release_that_was_never_bad_gives_no_number() -> None:
    with pytest.raises(BenchmarkError, match="nothing to measure"):
        seconds_to_safe(_report(_request(10.0, 10.1)), BAD)


def test_all_traffic_is_back_after_the_last_request_that_another_release_answered_or_nobody() -> None:
    old = "v1.2.0-ba9876543210"
    report = _report(
        _request(9.0, 9.1),
        _request(11.0, 11.1),
        _request(12.0, 12.1, release=old),
        _request(13.5, 13.6, release="", outcome="connect_error", status=0),
        _request(14.0, 14.1, release=old),
    )

    assert seconds_to_release(report, old, 10.0) == pytest.approx(3.5)


def test_a_way_back_that_nobody_saw_gives_no_number() -> None:
    with pytest.raises(BenchmarkError, match="nothing to measure"):
        seconds_to_release(_report(_request(10.0, 10.1)), "v1.2.0-ba9876543210", 9.0)
    with pytest.raises(BenchmarkError, match="nothing to measure"):
        seconds_to_release(_report(_request(10.0, 10.1)), BAD, 9.0)


def _request(
    sent_at: float, finished_at: float, *, outcome: str = "ok", status: int = 200, release: str = BAD
) -> Request:
    return Request(
        sent_at, sent_at, finished_at, "lb1", "fresh", "GET", "/", status, "green", release, outcome, False, "", ""
    )


def _report(*requests: Request) -> LoadReport:
    return LoadReport(0.0, 30.0, 1.0, requests, {}, 0, 0.0, 0.0)
