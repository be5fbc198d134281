"""The application's secrets, resolved from Airflow connections at the moment they are written to a host."""

from __future__ import annotations

from urllib.parse import quote

from pydantic import SecretStr

from sebenza_ops.environments.env_file import ApplicationSecrets
from sebenza_ops.environments.models import Environment


def resolve_secrets(environment: Environment) -> ApplicationSecrets:
    """Build the application's URLs from the environment's connections. Logins and passwords are never kept elsewhere.

    Raises AirflowNotFoundException when a connection is missing.
    """
    from airflow.sdk import BaseHook

    database = BaseHook.get_connection(environment.database.conn_id)
    cache = BaseHook.get_connection(environment.cache.conn_id)
    database_url = (
        f"postgresql://{quote(database.login or '', safe='')}:{quote(database.password or '', safe='')}"
        f"@{environment.database.endpoint}/{environment.database.name}"
    )
    scheme = "rediss" if str(cache.extra_dejson.get("ssl", "")).lower() == "true" else "redis"
    login, password = quote(cache.login or "", safe=""), quote(cache.password or "", safe="")
    credentials = f"{login}:{password}@" if login or password else ""
    cache_url = f"{scheme}://{credentials}{environment.cache.address}/{cache.extra_dejson.get('db', 0)}"
    webhook = None
    if environment.alerts_webhook_conn_id is not None:
        connection = BaseHook.get_connection(environment.alerts_webhook_conn_id)
        port = f":{connection.port}" if connection.port else ""
        path = connection.extra_dejson.get("path", "")
        # As the http provider reads a connection: a host may be a whole URL.
        host = connection.host or ""
        base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
        webhook = SecretStr(f"{base}{port}{path}")
    return ApplicationSecrets(
        database_url=SecretStr(database_url), cache_url=SecretStr(cache_url), alerts_webhook=webhook
    )


def leading_to(secrets: ApplicationSecrets, database: str) -> ApplicationSecrets:
    """The application's secrets with another database of the same server."""
    url = secrets.database_url.get_secret_value()
    return secrets.model_copy(update={"database_url": SecretStr(f"{url.rpartition('/')[0]}/{database}")})
