"""A measurement that fails is said and kept as failed, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.results import Results
from benchmarks.rows import FailedRow, Row
from benchmarks.session import BenchmarkError, Session
from lab import paths
from lab.airflow.client import AirflowClient

Played = Callable[..., tuple[int, list[dict[str, object]], str]]


def row(name: str) -> Row:
    return Row(name, 3.0, 2.0, "s", 5)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def results(tmp_path: Path, said: list[str]) -> Results:
    return Results(tmp_path / "build" / "bench.json", said.append)


def written(tmp_path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((tmp_path / "build" / "bench.json").read_text())
    return found


def test_rows_are_there_as_soon_as_they_are_measured(results: Results, tmp_path: Path) -> None:
    seen: list[int] = []

    def measure() -> Iterator[Row]:
        yield row("one")
        seen.append(len(written(tmp_path)))
        yield row("two")

    results.measure(("one", "two"), measure)

    assert seen == [1]
    assert [each["name"] for each in written(tmp_path)] == ["one", "two"]
    assert results.exit_code == 0


def test_a_failure_keeps_what_was_measured_and_says_the_rest_as_failed(
    results: Results, tmp_path: Path, said: list[str]
) -> None:
    def measure() -> Iterator[Row]:
        yield row("one")
        raise BenchmarkError("the restore did not end")

    results.measure(("one", "two", "three"), measure)
    results.measure(("four",), lambda: [row("four")])

    assert [(each["name"], each.get("error")) for each in written(tmp_path)] == [
        ("one", None),
        ("two", "the restore did not end"),
        ("three", "the restore did not end"),
        ("four", None),
    ]
    assert said == ["FAILED: two, three: the restore did not end"]
    assert results.exit_code == 1


def test_an_error_that_nobody_expected_says_where_it_came_from(results: Results) -> None:
    def measure() -> Iterator[Row]:
        yield from ()
        raise KeyError("start_date")

    results.measure(("one",), measure)

    (failed,) = results.failed
    assert failed.error.startswith("KeyError: 'start_date'")
    assert "test_results.py" in failed.error


def test_a_clean_up_that_fails_is_no_failed_row_but_a_failure(results: Results) -> None:
    def measure() -> Iterator[Row]:
        yield row("one")
        raise BenchmarkError("its tables are still there")

    results.measure(("one",), measure)

    assert results.failed == []
    assert results.troubles == ["after one: its tables are still there"]
    assert results.exit_code == 1


def test_a_promised_row_that_a_measurement_forgets_has_failed(results: Results) -> None:
    results.measure(("one", "two"), lambda: [row("one")])

    assert [each.name for each in results.failed] == ["two"]


# --- the whole run, with measurements of this test's own


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Played:
    """Runs `python -m benchmarks` with the measurements that are given; its exit code, its rows, its output."""

    def play(
        *groups: bench.Group, bring_to_order: Callable[[], None] = lambda: None, opening: Exception | None = None
    ) -> tuple[int, list[dict[str, object]], str]:
        @contextmanager
        def open_session(say: Callable[[str], None]) -> Iterator[Session]:
            if opening is not None:
                raise opening
            yield Session(AirflowClient("http://127.0.0.1:9", "nobody", ""), say, bring_to_order)

        monkeypatch.setattr(bench, "IN_THE_LAB", groups)
        monkeypatch.setattr(bench, "NAMES", tuple(name for names, _ in groups for name in names))
        monkeypatch.setattr(bench, "open_session", open_session)
        monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
        monkeypatch.setattr(bench, "RESULT", tmp_path / "build" / "bench.json")
        code = bench.main([])
        return code, written(tmp_path) if bench.RESULT.exists() else [], capsys.readouterr().out

    return play


def failing(_: Session) -> list[Row]:
    raise BenchmarkError("the bucket can't be listed")


def test_the_run_goes_on_after_a_failed_row_and_its_exit_code_tells(played: Played) -> None:
    code, rows, output = played(
        (("one",), lambda _: [row("one")]), (("two",), failing), (("three",), lambda _: [row("three")])
    )

    assert code == 1
    assert [(each["name"], each["value"]) for each in rows] == [("one", 3.0), ("two", None), ("three", 3.0)]
    at_once, at_the_end = (part.count("two") for part in output.split("\n\n", maxsplit=1))
    assert at_once
    assert at_the_end


def test_a_run_without_failure_ends_with_0(played: Played) -> None:
    code, _, output = played((("one",), lambda _: [row("one")]))

    assert code == 0
    assert "FAILED" not in output


def test_the_estate_is_brought_to_order_before_each_row_and_after_the_last(played: Played) -> None:
    happened: list[str] = []

    def measure(session: Session) -> list[Row]:
        happened.append("measured")
        return failing(session)

    played((("one",), measure), (("two",), measure), bring_to_order=lambda: happened.append("order"))

    assert happened == ["order", "measured", "order", "measured", "order"]


def test_a_row_in_an_estate_that_does_not_come_to_order_is_not_measured(played: Played) -> None:
    def never() -> None:
        raise BenchmarkError("app1 stays down")

    code, rows, _ = played((("one",), lambda _: [row("one")]), bring_to_order=never)

    assert code == 1
    assert [(each["name"], each["error"]) for each in rows] == [("one", "app1 stays down")]


def test_a_lab_that_does_not_come_up_fails_every_row_of_it(played: Played) -> None:
    code, rows, _ = played(
        (("one",), lambda _: [row("one")]), (("two",), lambda _: [row("two")]), opening=BenchmarkError("port taken")
    )

    assert code == 1
    assert [(each["name"], each["error"]) for each in rows] == [("one", "port taken"), ("two", "port taken")]


def test_an_interrupt_leaves_what_was_measured(played: Played) -> None:
    def interrupted(_: Session) -> list[Row]:
        raise KeyboardInterrupt

    code, rows, output = played(
        (("one",), lambda _: [row("one")]), (("two",), interrupted), (("three",), lambda _: [row("three")])
    )

    assert code == bench.INTERRUPTED
    assert [each["name"] for each in rows] == ["one"]
    assert "one" in output.split("interrupted", maxsplit=1)[1]


def test_failed_rows_are_rows() -> None:
    assert set(FailedRow("one", "why").as_json()) == {*row("one").as_json(), "error"}
