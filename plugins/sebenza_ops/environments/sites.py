"""Sites: where an environment runs, and what of it is another one's at the disaster recovery site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sebenza_ops.environments.components import Cache, Monitoring, ObjectStore
from sebenza_ops.environments.fields import ConnectionId, Endpoint, IPv4, Model, Name, Seconds

if TYPE_CHECKING:
    from sebenza_ops.environments.models import Environment


class SiteDatabase(Model):
    """The database of a site that is not the environment's first. What is not here is as in `database`."""

    conn_id: Annotated[ConnectionId, Field(description="Airflow connection: login and password, at this site.")]
    endpoint: Annotated[Endpoint, Field(description="host:port that leads to this site's primary once it has one.")]
    replicas: Annotated[
        int, Field(ge=0, description="Streaming replicas that this site's primary has, once it is one.")
    ] = 0
    ssh_conn_id: Annotated[
        ConnectionId | None, Field(description="Airflow connection: login to its database hosts, where it differs.")
    ] = None


class Site(Model):
    """A place where hosts stand; the disaster recovery site is the secondary one.

    Fields beside `name`, `kind` and `public_addresses` replace the environment's own while the site is active.
    """

    name: Annotated[Name, Field(description="Name of the site; hosts refer to it.")]
    kind: Annotated[
        Literal["primary", "secondary"],
        Field(description="primary serves the users; secondary is the disaster recovery site."),
    ] = "primary"
    public_addresses: Annotated[
        tuple[IPv4, ...],
        Field(description="What DNS answers while this site serves. None: the addresses of its load balancers."),
    ] = ()
    ssh_conn_id: Annotated[
        ConnectionId | None, Field(description="Airflow connection: login to its hosts, where it differs.")
    ] = None
    database: Annotated[SiteDatabase | None, Field(description="Its database.")] = None
    cache: Annotated[Cache | None, Field(description="Its Redis.")] = None
    object_store: Annotated[
        ObjectStore | None, Field(description="Its copy of the object storage, which needs nothing of another site.")
    ] = None
    repository_conn_id: Annotated[
        ConnectionId | None,
        Field(description="Airflow connection: key and secret of the backups' repository in its copy."),
    ] = None
    copy_seconds: Annotated[
        Seconds,
        Field(description="How far its copy may be behind. S3 Replication Time Control promises 15 minutes."),
    ] = 900
    monitoring: Annotated[Monitoring | None, Field(description="Its Prometheus and Alertmanager.")] = None


def changes_at(environment: Environment, site: Site) -> dict[str, Any]:
    """Return the fields of an environment that are others while `site` serves."""
    changes: dict[str, Any] = {"active_site": site.name}
    for part in ("ssh_conn_id", "cache", "object_store", "monitoring"):
        if getattr(site, part) is not None:
            changes[part] = getattr(site, part)
    if site.database is not None:
        own = {field: value for field, value in site.database if value is not None}
        changes["database"] = environment.database.model_copy(update=own)
    backup = environment.policies.backup
    if site.repository_conn_id is not None and backup is not None:
        backup = backup.model_copy(update={"repository_conn_id": site.repository_conn_id})
        changes["policies"] = environment.policies.model_copy(update={"backup": backup})
    return changes
