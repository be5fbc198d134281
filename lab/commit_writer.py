"""A client that writes a row a moment through the database's endpoint, and keeps which commits were acknowledged.

It shares no code with the procedures: what it was promised is what must be there afterwards.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Final

import psycopg2

from lab.waiting import scaled

DATABASE: Final = "lab_writer"
TABLE: Final = "commits"
PAUSE_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Acknowledged:
    """A commit that the server has confirmed: its number, and when, in epoch seconds."""

    number: int
    at: float


@dataclass(frozen=True)
class WrongRows:
    """Commits from before a moment that are missing, and from after it that are there."""

    missing_before: int
    present_after: int

    @property
    def count(self) -> int:
        """Both."""
        return self.missing_before + self.present_after


class CommitWriter:
    """Writes until it is stopped, over a new connection after every error, as an application's pool does.

    Args:
        endpoint: Host and port of the database's stable address.
        user: A superuser, who makes the writer's own database.
        password: Theirs.
    """

    def __init__(self, endpoint: tuple[str, int], user: str, password: str | None) -> None:
        self._place: dict[str, Any] = {"host": endpoint[0], "port": endpoint[1], "user": user, "password": password}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="commit-writer", daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.errors: list[tuple[float, str]] = []
        """When a commit was not acknowledged, and why; whether it is there, nobody knows."""

    def __enter__(self) -> CommitWriter:
        self._prepare()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join(scaled(30))

    @property
    def longest_gap_seconds(self) -> float:
        """The longest time between two acknowledgements."""
        moments = [each.at for each in self.acknowledged]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def numbers(self, endpoint: tuple[str, int]) -> set[int]:
        """The commits that a server has."""
        connection = psycopg2.connect(
            **{**self._place, "host": endpoint[0], "port": endpoint[1]}, dbname=DATABASE, connect_timeout=5
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT number FROM {TABLE}")
                return {number for (number,) in cursor.fetchall()}
        finally:
            connection.close()

    def missing(self, endpoint: tuple[str, int]) -> list[Acknowledged]:
        """The acknowledged commits that a server does not have."""
        there = self.numbers(endpoint)
        return [each for each in self.acknowledged if each.number not in there]

    def wrong_rows(self, there: set[int], target: float) -> WrongRows:
        """What a server that was restored to a moment has wrong; the commit that was under way then may be there.

        Args:
            there: The commits that it has.
            target: The moment, in epoch seconds of this machine's clock.
        """
        before = [each for each in self.acknowledged if each.at <= target]
        # Whatever was begun after a commit that was acknowledged after the moment was begun after it.
        late = [each for each in self.acknowledged if each.at > target][1:]
        return WrongRows(
            missing_before=sum(each.number not in there for each in before),
            present_after=sum(each.number in there for each in late),
        )

    def _prepare(self) -> None:
        connection = psycopg2.connect(**self._place, dbname="postgres", connect_timeout=5)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
                cursor.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            connection.close()
        connection = psycopg2.connect(**self._place, dbname=DATABASE, connect_timeout=5)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {TABLE} (number bigint PRIMARY KEY)")
        connection.close()

    def _write(self) -> None:
        number, connection = 0, None
        while not self._stop.is_set():
            number += 1
            try:
                if connection is None:
                    connection = psycopg2.connect(**self._place, dbname=DATABASE, connect_timeout=30)
                    connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(f"INSERT INTO {TABLE} VALUES (%s)", (number,))
                self.acknowledged.append(Acknowledged(number, time.time()))
            except psycopg2.Error as error:
                self.errors.append((time.time(), str(error).strip()))
                if connection is not None:
                    connection.close()
                connection = None
            self._stop.wait(PAUSE_SECONDS)
        if connection is not None:
            connection.close()


def drop(endpoint: tuple[str, int], user: str, password: str | None) -> None:
    """Remove the writer's database."""
    connection = psycopg2.connect(
        host=endpoint[0], port=endpoint[1], user=user, password=password, dbname="postgres", connect_timeout=10
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    finally:
        connection.close()
