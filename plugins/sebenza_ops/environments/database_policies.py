"""Policies of procedures that move the database between its servers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sebenza_ops.environments.fields import Model, Seconds


class DatabaseSwitchPolicy(Model):
    """How the primary of the database is switched to a replica of the same site."""

    maximum_lag_bytes: Annotated[
        int,
        Field(gt=0, description="A planned switch is refused while the replica is further behind. Ours: one segment."),
    ] = 16 * 1024 * 1024
    drain_timeout_milliseconds: Annotated[
        int,
        Field(ge=0, le=60_000, description="Transactions that run have so long to end, clients paused. Ours: 1 s."),
    ] = 1000
    pause_limit_seconds: Annotated[
        int, Field(ge=5, le=300, description="Clients are held no longer, whatever happens. Ours: 20 s.")
    ] = 20
    stop_timeout_seconds: Annotated[
        Seconds, Field(description="The old primary must have stopped within this time. Ours: 15 s.")
    ] = 15
    promote_timeout_seconds: Annotated[
        Seconds, Field(description="The replica must take writes within this time. Ours: 30 s.")
    ] = 30
    rebuild_timeout_seconds: Annotated[
        Seconds, Field(description="Rewinding or copying the old primary is ended after so long. Ours: 6 hours.")
    ] = 6 * 3600
    lease_ttl_seconds: Annotated[
        Seconds, Field(description="A lease that is not renewed for so long expires. Ours: 2 minutes.")
    ] = 120
