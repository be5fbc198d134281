"""The Airflow connection `ops_ledger`, in the forms that people write it in."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk import Connection

from sebenza_ops.ledger import ConnectionInvalid, Holder, Ledger, LedgerSchemaError, LedgerUnavailable
from sebenza_ops.ledger.connection import connection_url


def test_sqlite_connection_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", f'{{"conn_type": "sqlite", "host": "{path}"}}')
    with pytest.raises(LedgerSchemaError):
        Ledger.open(f"sqlite:///{path}").leases.current("production")
    ledger = Ledger.from_connection()
    ledger.leases.acquire("production", Holder("d", "r", "thandi"), "deploy", 60)
    assert path.exists()


def test_without_a_connection_the_ledger_is_a_file_in_airflow_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRFLOW_CONN_OPS_LEDGER", raising=False)
    Ledger.from_connection("ops_ledger_absent").migrate()
    assert (tmp_path / "home" / "ledger.db").exists()


def test_new_file_of_a_connection_is_set_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", f'{{"conn_type": "sqlite", "host": "{path}"}}')
    # A disk that is not mounted must not look like a new ledger.
    with pytest.raises(LedgerUnavailable, match="directory does not exist"):
        Ledger.from_connection()
    path.parent.mkdir()
    Ledger.from_connection().leases.acquire("production", Holder("d", "r", "thandi"), "deploy", 60)
    assert Ledger.from_connection().leases.current("production") is not None


def test_an_absent_ledger_grants_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    with pytest.raises(LedgerSchemaError, match="migrate"):
        Ledger.from_connection("ops_ledger_absent").leases.acquire("production", Holder("d", "r", "a"), "deploy", 60)


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (
            Connection(conn_id="l", conn_type="sqlite", host="/srv/airflow/ledger.db"),
            "sqlite:////srv/airflow/ledger.db",
        ),
        (Connection(conn_id="l", conn_type="sqlite", schema="srv/ledger.db"), "sqlite:////srv/ledger.db"),
        (
            Connection(conn_id="l", conn_type="postgres", login="ops", password="p@ss", host="db1", schema="ledger"),
            "postgresql+psycopg://ops:p%40ss@db1:5432/ledger",
        ),
        (
            Connection(
                conn_id="l",
                conn_type="postgres",
                login="ops",
                host="db1",
                schema="ledger",
                extra='{"sslmode": "verify-full"}',
            ),
            "postgresql+psycopg://ops@db1:5432/ledger?sslmode=verify-full",
        ),
    ],
)
def test_connection_forms(connection: Connection, url: str) -> None:
    assert connection_url(connection) == url


@pytest.mark.parametrize(
    ("connection", "reason"),
    [
        (Connection(conn_id="ops_ledger", conn_type="sqlite", host="ledger.db"), "no absolute path"),
        (Connection(conn_id="ops_ledger", conn_type="mysql", host="db1"), "needs sqlite or postgres"),
    ],
)
def test_unusable_connections(connection: Connection, reason: str) -> None:
    with pytest.raises(ConnectionInvalid, match=reason):
        connection_url(connection)
