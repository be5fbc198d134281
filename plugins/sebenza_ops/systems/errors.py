"""Errors of outside systems: what failed, on which host, and what to do."""

from __future__ import annotations


class OutsideSystemError(Exception):
    """An outside system did not do what was asked.

    Args:
        message: What failed, where, and what to do next; written for the person on call.
        host: The host's name in the inventory, or the system's name.
    """

    def __init__(self, message: str, *, host: str = "") -> None:
        super().__init__(f"{host}: {message}" if host else message)
        self.host = host


class HostUnreachableError(OutsideSystemError):
    """No connection to a host could be made, or it broke while a command ran, so that its outcome is unknown."""


class RemoteCommandError(OutsideSystemError):
    """A command on a host failed.

    Args:
        message: What failed.
        host: The host's name.
        exit_status: The command's exit status.
        stderr: What it said, at most its last 2,000 characters.
    """

    def __init__(self, message: str, *, host: str, exit_status: int, stderr: str = "") -> None:
        super().__init__(message, host=host)
        self.exit_status = exit_status
        self.stderr = stderr[-2000:]


class FencedOffError(RemoteCommandError):
    """A host refused a change because it has seen a later holder's fencing token. Never retry: this run is a zombie."""


class NoDataError(OutsideSystemError):
    """A system answered, but with nothing that could be judged. No data is not good news (design, rule 2)."""
