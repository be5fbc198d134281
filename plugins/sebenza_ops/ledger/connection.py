"""From the Airflow connection `ops_ledger` to a database URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL

from sebenza_ops.ledger.errors import ConnectionInvalid

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONNECTION_ID = "ops_ledger"
_POSTGRES_TYPES = {"postgres", "postgresql"}


def ledger_url(conn_id: str = DEFAULT_CONNECTION_ID) -> str:
    """Return the database URL of the ledger, with its password.

    Connection type sqlite with the file's absolute path as host, or postgres. Without such a connection the
    ledger is the file ledger.db in AIRFLOW_HOME. Raises ConnectionInvalid for any other type.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return default_url()
    return connection_url(connection)


def default_url() -> str:
    """Return the URL of the ledger that needs no set-up: a SQLite file in AIRFLOW_HOME."""
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return _sqlite_url(str(home / "ledger.db"))


def connection_url(connection: Connection) -> str:
    """Return the database URL that an Airflow connection describes."""
    if connection.conn_type == "sqlite":
        path = connection.host or ""
        # In URI form the leading slash of sqlite:///path is lost: sqlite://%2Fpath keeps it, and both are common.
        if not path and connection.schema:
            path = f"/{connection.schema}"
        if not path.startswith("/"):
            raise ConnectionInvalid(
                f"Connection {connection.conn_id} is of type sqlite but its host {path!r} is no absolute path: "
                "set host to the ledger's file, for example /srv/airflow/ledger.db"
            )
        return _sqlite_url(path)
    if connection.conn_type in _POSTGRES_TYPES:
        options = {str(key): str(value) for key, value in connection.extra_dejson.items() if key.startswith("ssl")}
        return URL.create(
            "postgresql+psycopg",
            username=connection.login,
            password=connection.password,
            host=connection.host,
            port=connection.port or 5432,
            database=connection.schema,
            query=options,
        ).render_as_string(hide_password=False)
    raise ConnectionInvalid(
        f"Connection {connection.conn_id} has type {connection.conn_type!r}; the ledger needs sqlite or postgres."
    )


def _sqlite_url(path: str) -> str:
    return URL.create("sqlite", database=path).render_as_string()
