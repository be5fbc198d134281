"""The policy of disaster recovery: what comes first, who owns what a drill finds, and when drills are."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import Field

from sebenza_ops.environments.fields import ConnectionId, Model, Port, Seconds, UtcTime

_TABLE = r"^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$"
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
        Field(description="schema.table: restored first by a partial recovery, which is refused without any."),
    ] = ()
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
