"""Fixtures with real servers for the tests of recovery."""

from __future__ import annotations

from tests.systems.conftest import shared_sshd, sshd

__all__ = ["shared_sshd", "sshd"]
