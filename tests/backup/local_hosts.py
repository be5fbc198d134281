"""The tests' database host in an environment's place: db1 is reached without SSH, db2 does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from sebenza_ops.environments.models import Host
from sebenza_ops.systems.errors import HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession
from tests.backup.repository_server import KEY, SECRET, RepositoryServer


def reach(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Lead the sessions that these modules open to the server, and object storage to its storage."""

    @contextmanager
    def open_session(host: Host, _: str) -> Iterator[HostSession]:
        assert host.name == "db1"
        yield server.session

    def on_hosts(chosen: Any, _: str, action: Callable[[HostSession], Any]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for host in chosen:
            try:
                if host.name != "db1":
                    raise HostUnreachableError("no SSH connection", host=host.name)
                answers[host.name] = action(server.session)
            except OutsideSystemError as error:
                answers[host.name] = error
        return answers

    for module in modules:
        for name, replacement in (("open_session", open_session), ("on_hosts", on_hosts)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, replacement)
    extra = {
        "endpoint_url": f"https://127.0.0.1:{server.port}",
        "region_name": "us-east-1",
        "verify": str(server.root / "ca.pem"),
        "config_kwargs": {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"addressing_style": "path"},
            "signature_version": "s3v4",
        },
    }
    connection = {"conn_type": "aws", "login": KEY, "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEBENZA_OBJECT_STORE", json.dumps(connection))
