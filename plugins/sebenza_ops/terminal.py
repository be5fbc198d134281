"""The terminal of a person who runs a procedure without any Airflow service: questions and answers.

It is the controlling terminal, /dev/tty, and not standard input: an answer must be typed by somebody, not piped.
"""

from __future__ import annotations

import os
import pwd
import select
import time
from pathlib import Path

TERMINAL = "/dev/tty"
# What the kernel says of a process that no login began: proc(5), /proc/pid/loginuid.
_NO_LOGIN = 2**32 - 1


class NoAnswerError(Exception):
    """Nobody has answered: there is no terminal, it was closed, or the time is over."""


class Terminal:
    """Asks one person.

    Args:
        person: Who is there.
        path: The terminal's device.
    """

    def __init__(self, person: str, path: str = TERMINAL) -> None:
        self.person = person
        self._path = path

    def show(self, text: str) -> None:
        """Show a text. Where there is no terminal nothing is shown: the question that follows says so."""
        try:
            terminal = os.open(self._path, os.O_WRONLY | os.O_NOCTTY)
        except OSError:
            return
        with os.fdopen(terminal, "w") as stream:
            stream.write(f"{_visible(text)}\n")

    def ask(self, prompt: str, closes_at: float) -> str:
        """Ask for a line until `closes_at` (of time.monotonic). Raises NoAnswerError."""
        try:
            terminal = os.open(self._path, os.O_RDWR | os.O_NOCTTY)
        except OSError as error:
            raise NoAnswerError(f"there is no terminal to ask at ({error.strerror})") from error
        try:
            os.write(terminal, _visible(prompt).encode())
            return _read_line(terminal, closes_at)
        except OSError as error:
            raise NoAnswerError(f"the terminal is gone ({error.strerror})") from error
        finally:
            os.close(terminal)


def person_at_terminal() -> str:
    """Who has logged in, whatever account they work under now: the kernel's login, sudo's word, or the account."""
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        login = _NO_LOGIN
    if login != _NO_LOGIN:
        return _account(login)
    by_sudo = os.environ.get("SUDO_USER", "") if os.getuid() == 0 else ""
    return by_sudo or _account(os.getuid())


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _read_line(terminal: int, closes_at: float) -> str:
    line = b""
    while not line.endswith(b"\n"):
        left = closes_at - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            raise NoAnswerError("the time to answer is over")
        part = os.read(terminal, 1024)
        if not part:
            raise NoAnswerError("the terminal was closed")
        line += part
    return line.decode(errors="replace").rstrip("\r\n")


def _visible(text: str) -> str:
    """Without control characters: what others have written (a commit's subject) must not draw over the question."""
    return "".join(char if char in "\n\t" or char.isprintable() else "�" for char in text)
