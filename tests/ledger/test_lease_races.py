"""Real processes against a real database: what a lease is for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.waiting import scaled
from sebenza_ops.ledger import Ledger, Message
from tests.ledger import racing

PROCESSES = 4


def _race(target: Callable[..., None], *arguments: Any, results: Path | None = None, named: bool = True) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = []
    for number in range(PROCESSES):
        names = [arguments[0], f"run-{number}", *arguments[1:]] if named else list(arguments)
        tail = [barrier, results] if results is not None else [barrier]
        processes.append(context.Process(target=target, args=(*names, *tail)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=scaled(90))
    assert [process.exitcode for process in processes] == [0] * PROCESSES


def test_of_runs_that_ask_at_once_exactly_one_wins(database_url: str, tmp_path: Path) -> None:
    rounds = 20
    results = tmp_path / "results"
    results.mkdir()
    _race(racing.ask_once_a_round, database_url, rounds, results=results)
    won = [line.split() for file in results.iterdir() for line in file.read_text().splitlines()]
    assert sorted(int(number) for number, _token in won) == list(range(rounds))


def test_never_two_holders_and_tokens_only_grow(database_url: str, tmp_path: Path) -> None:
    turns = 10
    results = tmp_path / "results"
    results.mkdir()
    _race(racing.hold_in_turns, database_url, turns, results=results)
    by_run = [[int(line) for line in file.read_text().splitlines()] for file in results.iterdir()]
    assert all(tokens == sorted(tokens) for tokens in by_run)
    assert sorted(token for tokens in by_run for token in tokens) == list(range(1, PROCESSES * turns + 1))


def test_many_processes_may_migrate_at_once(empty_database_url: str) -> None:
    _race(racing.migrate, empty_database_url, named=False)
    assert Ledger.open(empty_database_url).leases.current("production") is None


def test_no_message_is_claimed_twice(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger.open(database_url)
    for number in range(30):
        ledger.outbox.enqueue(
            Message("d", f"r{number}", 0, "slack", "failure", "production", "s", "b", "error", dedup_key=f"k{number}")
        )
    results = tmp_path / "results"
    results.mkdir()
    _race(racing.claim_messages, database_url, results=results)
    claimed = [int(line) for file in results.iterdir() for line in file.read_text().splitlines()]
    assert sorted(claimed) == [item.id for item in ledger.outbox.pending()]
