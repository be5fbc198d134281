"""The policy of disaster recovery: what comes first, who owns what a drill finds, and when drills are."""

from __future__ import annotations

import datetime
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from sebenza_ops.environments.components import Service
from sebenza_ops.environments.fields import ConnectionId, Model, Port, Seconds, UtcTime

_TABLE = r"^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$"
_PATH = r"^/[A-Za-z0-9._~/-]*$"
_RECIPIENT = r"^age1[02-9ac-hj-np-z]{58}$"


class EscrowPolicy(Model):
    """Credentials that must survive the primary site: sealed for people, kept at the secondary site."""

    recipient: Annotated[
        str,
        Field(pattern=_RECIPIENT, description="Public part of the operators' age key: `age-keygen -y`. Not secret."),
    ]
    identity_conn_id: Annotated[
        ConnectionId,
        Field(
            description="Airflow connection whose password is the operators' age identity. It opens the escrow: only "
            "where drills run, and in the secondary site's credentials file."
        ),
    ]


class DisasterRecoveryPolicy(Model):
    """How the environment is recovered at its secondary site, which it needs."""

    owner: Annotated[
        str, Field(min_length=1, description="Who owns what a drill or a recovery finds. Ours: devops.")
    ] = "devops"
    critical_tables: Annotated[
        tuple[Annotated[str, Field(pattern=_TABLE)], ...],
        Field(
            description="schema.table: restored first by a partial recovery, which is refused without any. What they "
            "refer to comes with them; name every table that a page which must work writes to."
        ),
    ] = ()
    critical_paths: Annotated[
        tuple[Annotated[str, Field(pattern=_PATH)], ...],
        Field(description="Pages that a partial recovery proves before the rest is restored."),
    ] = ()
    critical_services: Annotated[
        tuple[Service, ...],
        Field(
            description="Services of the site that a partial recovery starts first; the others are started with the "
            "rest. Default: all of them."
        ),
    ] = (Service.REDIS, Service.PM2, Service.NGINX, Service.HAPROXY)
    maximum_lag_seconds: Annotated[
        Seconds | None,
        Field(description="A standby further behind is not recommended. Default: the recovery point objective."),
    ] = None
    health_timeout_seconds: Annotated[
        Seconds, Field(description="The application there must be healthy within this time. Ours: 120 s.")
    ] = 120
    drill_day: Annotated[
        int, Field(ge=1, le=28, description="Day of the month of the drill. Manual, Monthly Tasks: monthly.")
    ] = 15
    drill_start: Annotated[UtcTime, Field(description='When a drill begins, UTC, for example "03:30". Ours.')] = (
        datetime.time(3, 30)
    )
    drill_port: Annotated[
        Port, Field(description="Where a drill's copy of the database listens, on the site's database host. Ours.")
    ] = 5499
    lease_ttl_seconds: Annotated[
        Seconds, Field(description="A lease that is not renewed for so long expires. Ours: 2 minutes.")
    ] = 120
    escrow: Annotated[EscrowPolicy | None, Field(description="Credentials that are kept at the secondary site.")] = None

    @field_validator("critical_services")
    @classmethod
    def _check_services(cls, services: tuple[Service, ...]) -> tuple[Service, ...]:
        missing = [each.value for each in (Service.PM2, Service.NGINX, Service.HAPROXY) if each not in services]
        if missing:
            raise ValueError(f"expected {', '.join(missing)}, too: without them nobody is served")
        return services

    @model_validator(mode="after")
    def _check_critical(self) -> Self:
        if self.critical_paths and not self.critical_tables:
            raise ValueError("expected critical_tables, which critical_paths are served from")
        return self
