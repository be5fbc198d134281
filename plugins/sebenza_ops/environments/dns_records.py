"""The DNS records that lead users to the site that serves them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.fields import Address, ConnectionId, Endpoint, Model, Seconds


class Dns(Model):
    """Where an environment's names are kept, and who must have seen a change before it counts."""

    backend: Annotated[
        Literal["rfc2136", "route53"],
        Field(description="rfc2136: dynamic updates, signed with TSIG; route53: Amazon's."),
    ]
    conn_id: Annotated[
        ConnectionId,
        Field(
            description="Airflow connection. rfc2136: host and port of the server that takes updates, login the key's "
            "name, password its secret in base64; route53: an aws connection."
        ),
    ]
    zone: Annotated[Address, Field(description="The zone, for example sebenza.com.")]
    names: Annotated[
        tuple[Address, ...],
        Field(min_length=1, description="Its records of type A that lead to the active site's load balancers."),
    ]
    servers: Annotated[
        tuple[Endpoint, ...],
        Field(min_length=1, description="Authoritative servers (host:port): all must answer the new value."),
    ]
    resolvers: Annotated[
        tuple[Endpoint, ...],
        Field(min_length=1, description="Resolvers that users ask (host:port): all must answer the new value."),
    ]
    ttl_seconds: Annotated[
        int, Field(ge=1, le=86_400, description="TTL of the records in ordinary times. Ours: 5 minutes.")
    ] = 300
    ttl_before_switch_seconds: Annotated[
        int, Field(ge=1, le=3600, description="TTL from before a switch until it is proven. Ours: 30 s.")
    ] = 30
    propagation_timeout_seconds: Annotated[
        Seconds, Field(description="Servers and resolvers must agree within this time. Ours: 10 minutes.")
    ] = 600
    tsig_algorithm: Annotated[
        Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"], Field(description="How updates are signed (rfc2136).")
    ] = "hmac-sha256"
    hosted_zone_id: Annotated[
        str | None, Field(pattern=r"^[A-Z0-9]{1,32}$", description="The zone's id (route53).")
    ] = None
