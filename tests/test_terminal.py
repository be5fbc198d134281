from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Iterator

import pytest

from sebenza_ops.terminal import NoAnswerError, Terminal, person_at_terminal


@pytest.fixture
def sides() -> Iterator[tuple[int, Terminal]]:
    """Both sides of a terminal: where a person types, and where it is asked."""
    person, device = pty.openpty()
    yield person, Terminal("thandi", os.ttyname(device))
    os.close(person)
    os.close(device)


def test_a_line_that_is_typed_is_the_answer(sides: tuple[int, Terminal]) -> None:
    person, terminal = sides
    typing = threading.Timer(0.1, os.write, (person, b"Approve\n"))
    typing.start()
    assert terminal.ask("? ", time.monotonic() + 10) == "Approve"
    typing.join()
    assert b"? " in os.read(person, 100)


def test_nobody_who_types_in_time_means_no_answer(sides: tuple[int, Terminal]) -> None:
    with pytest.raises(NoAnswerError, match="the time to answer is over"):
        sides[1].ask("? ", time.monotonic() + 0.1)


def test_no_terminal_means_no_answer(tmp_path: object) -> None:
    terminal = Terminal("thandi", f"{tmp_path}/none")
    terminal.show("nobody sees this")
    with pytest.raises(NoAnswerError, match="there is no terminal to ask at"):
        terminal.ask("? ", time.monotonic() + 1)


def test_text_of_others_can_not_draw_over_the_question(sides: tuple[int, Terminal]) -> None:
    person, terminal = sides
    terminal.show("commit: \x1b[2J\x1b[Hall is well\r\x07")
    shown = os.read(person, 200)
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    assert b"all is well" in shown


def test_the_person_is_who_logged_in_not_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sebenza_ops.terminal.Path.read_text", lambda _: str(2**32 - 1))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "thandi")
    assert person_at_terminal() == "thandi"
    # Only sudo may say so, which runs as root.
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert person_at_terminal() == "nobody"
    monkeypatch.setattr("sebenza_ops.terminal.Path.read_text", lambda _: "0")
    assert person_at_terminal() == "root"
