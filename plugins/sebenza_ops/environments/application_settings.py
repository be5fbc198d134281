"""The application's own configuration (manual, Environment Configuration), typed, without its secrets.

The manual's `EnvironmentConfig` also holds the URLs of database, cache and alerts webhook. Those carry
credentials, so they are no part of these settings: see `env_file.ApplicationSecrets`. The port belongs
to a color, not to the application: see `models.ColorPorts`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.fields import Model

NodeEnvironment = Literal["production", "staging", "development"]


class AppSettings(Model):
    """The manual's `app`."""

    log_level: Annotated[
        Literal["error", "warn", "info", "debug"],
        Field(description="LOG_LEVEL. Manual's default: info; staging: debug."),
    ] = "info"
    session_timeout_seconds: Annotated[
        int, Field(gt=0, le=604_800, description="SESSION_TIMEOUT. Manual's default: 3600 s.")
    ] = 3600


class DatabaseSettings(Model):
    """The manual's `database`, without its URL."""

    pool_size: Annotated[
        int,
        Field(ge=1, le=200, description="DB_POOL_SIZE, per process. Manual's default: 10; production: 20."),
    ] = 10
    query_timeout_milliseconds: Annotated[
        int, Field(gt=0, le=3_600_000, description="DB_QUERY_TIMEOUT. Manual's default: 30000 ms.")
    ] = 30_000


class CacheSettings(Model):
    """The manual's `cache`, without its URL."""

    ttl_seconds: Annotated[int, Field(gt=0, le=604_800, description="CACHE_TTL. Manual's default: 3600 s.")] = 3600


class MonitoringSettings(Model):
    """The manual's `monitoring`, without its webhook."""

    enabled: Annotated[
        bool,
        Field(description="METRICS_ENABLED. Manual: true in production and staging; unset means false."),
    ] = True
    metrics_endpoint: Annotated[
        str, Field(pattern=r"^/[A-Za-z0-9/_-]+$", description="METRICS_ENDPOINT. Manual, Prometheus: /metrics.")
    ] = "/metrics"


class ApplicationSettings(Model):
    """What the application reads from its environment, per environment and without secrets."""

    environment: Annotated[
        NodeEnvironment | None,
        Field(description="NODE_ENV. Default: the environment's name, when it is one of the three."),
    ] = None
    app: Annotated[AppSettings, Field(description="Logging and sessions.")] = AppSettings()
    database: Annotated[DatabaseSettings, Field(description="Connection pool.")] = DatabaseSettings()
    cache: Annotated[CacheSettings, Field(description="Cache.")] = CacheSettings()
    monitoring: Annotated[MonitoringSettings, Field(description="Metrics.")] = MonitoringSettings()
