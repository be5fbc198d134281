"""Gathering what a disaster recovery needs: the sites that do not serve now, and the right to change DNS."""

from __future__ import annotations

import time
from uuid import uuid4

from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.estate import probes
from sebenza_ops.estate.backup_gather import read_backups
from sebenza_ops.estate.gathered import DnsReading, DnsRecordReading, EscrowReading, SiteReading
from sebenza_ops.systems.age import escrow_key
from sebenza_ops.systems.database_server import DatabaseServer, ServerState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts

# A copy that is promised within 15 minutes is not awaited for so long by a check: then it is a warning.
COPY_WAIT_SECONDS = 60.0
_POLL_SECONDS = 1.0


def read_sites(environment: Environment) -> list[SiteReading]:
    """Every site that does not serve now; nothing in an environment that has one site."""
    return [read_site(environment, site.name) for site in environment.sites if site.name != environment.active_site]


def read_site(environment: Environment, name: str) -> SiteReading:
    """What a site that waits could take over with: its database, its storage, its backups."""
    place = environment.at_site(name)
    reading = SiteReading(name, primaries=_database_states(environment), standbys=_database_states(place))
    storage = probes.StorageProbe(place.object_store, environment.name)
    storage.write()
    storage.delete()
    reading.storage = storage.reading()
    if all(not error for error in reading.storage.steps.values()):
        reading.copy_seconds, reading.copy_error = _await_copy(environment, place)
    reading.backups = read_backups(place)
    reading.escrow = _read_escrow(place)
    return reading


def _read_escrow(place: Environment) -> EscrowReading:
    """How old the sealed credentials in a site's storage are; what is in them only the operators can tell."""
    from sebenza_ops.systems.object_store import ObjectStorage

    key = escrow_key(place.name)
    try:
        stored = ObjectStorage(place.object_store).keys(key).get(key)
    # Whatever the provider raises for what its connection lacks.
    except Exception as error:
        return EscrowReading(key, error=str(error)[:300])
    return EscrowReading(key, None if stored is None else max(0.0, time.time() - stored.timestamp()))


def _database_states(place: Environment) -> dict[str, ServerState | OutsideSystemError]:
    from airflow.sdk.exceptions import AirflowException

    hosts, conn_id = place.hosts_with_role(Role.DATABASE), place.database.ssh_conn_id
    if conn_id is None or not hosts:
        return {}

    def state(session: HostSession) -> ServerState:
        return DatabaseServer(place, session).state()

    try:
        return on_hosts(hosts, conn_id, state)
    # The hook refuses a connection that is missing or can't be used before it connects.
    except (AirflowException, ValueError) as error:
        return {host.name: OutsideSystemError(f"the connection {conn_id}: {error}", host=host.name) for host in hosts}


def _await_copy(environment: Environment, place: Environment) -> tuple[float | None, str]:
    """After how long an object that is stored now is in the site's copy; None, and why, when it is not seen there."""
    from sebenza_ops.systems.object_store import ObjectStorage

    key, content = f"copies/{environment.name}/{uuid4()}", b"written by check_environment, copied to the site\n"
    limit = min(float(place.site(place.active_site).copy_seconds), COPY_WAIT_SECONDS)
    try:
        source, copy = ObjectStorage(environment.object_store), ObjectStorage(place.object_store)
        source.put_bytes(key, content, "text/plain")
        began = time.monotonic()
        try:
            while copy.get_bytes(key) != content:
                if time.monotonic() - began > limit:
                    return None, f"not there within {limit:g} s"
                time.sleep(_POLL_SECONDS)
            return time.monotonic() - began, ""
        finally:
            source.hook.delete_objects(environment.object_store.bucket, source.full_key(key))
            copy.hook.delete_objects(place.object_store.bucket, copy.full_key(key))
    # Whatever the provider raises for what its connection lacks.
    except Exception as error:
        return None, str(error)[:300]


def read_dns(environment: Environment) -> DnsReading | None:
    """Every record, what everybody answers for it, and whether it may be changed. None without `dns`."""
    from airflow.sdk.exceptions import AirflowException

    from sebenza_ops.systems.dns import answers, zone_of

    policy = environment.dns
    if policy is None:
        return None
    try:
        zone = zone_of(policy)
    except (AirflowException, OutsideSystemError) as error:
        return DnsReading(error=str(error))
    records = {}
    for name in policy.names:
        try:
            found = zone.read(name)
        except OutsideSystemError as problem:
            records[name] = DnsRecordReading(None, str(problem))
            continue
        refusal = ""
        try:
            zone.check_right(name)
        except OutsideSystemError as problem:
            refusal = str(problem)
        records[name] = DnsRecordReading(found, right_error=refusal, answers=answers(policy, name))
    return DnsReading(records=records)
