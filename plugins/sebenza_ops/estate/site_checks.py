"""Whether a site that waits could take over, and whether DNS could lead there. Pure rules."""

from __future__ import annotations

from sebenza_ops.environments.models import Dns, Environment
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import DnsReading, DnsRecordReading, SiteReading
from sebenza_ops.estate.recovery_checks import check_escrow
from sebenza_ops.estate.system_checks import check_storage
from sebenza_ops.systems.database_server import ServerState

# Ours, as `policies.database_switch.maximum_lag_bytes`: what a line between sites carries in seconds.
LAG_BYTES = 64 * 1024**2


def check_site(environment: Environment, reading: SiteReading) -> list[Findings]:
    """The database, the storage and the copy of a site that does not serve."""
    place = environment.at_site(reading.site)
    storage, site = Findings(f"object storage ({reading.site})"), Findings(f"site {reading.site}")
    if reading.storage is not None:
        check_storage(storage, place, reading.storage)
    _check_copy(storage, environment, reading)
    if environment.site(reading.site).kind == "secondary":
        check_escrow(storage, environment, reading.escrow)
    _check_standbys(site, environment, reading)
    return [site, storage]


def _check_copy(findings: Findings, environment: Environment, reading: SiteReading) -> None:
    promised = environment.site(reading.site).copy_seconds
    needed = f"what is stored now is in this site's copy within {promised} s (sites.copy_seconds)"
    fix = "# the replication of the bucket (S3: rules of the source bucket), or its service on the copy's host"
    if reading.copy_seconds is not None and reading.copy_seconds <= promised:
        findings.ok("copy", f"an object was there after {reading.copy_seconds:.0f} s")
    elif reading.copy_seconds is not None:
        findings.missing("copy", f"an object was there after {reading.copy_seconds:.0f} s", needed, fix)
    elif not reading.copy_error:
        findings.no_data("copy", "not tried: the storage does not work", needed, fix)
    else:
        findings.missing("copy", reading.copy_error, needed, fix)


def _check_standbys(findings: Findings, environment: Environment, reading: SiteReading) -> None:
    primary = next(
        (state for state in reading.primaries.values() if isinstance(state, ServerState) and state.is_primary), None
    )
    if not reading.standbys:
        findings.no_data("standby", "it could not be asked", "database.ssh_conn_id, and a database host at this site")
    for name, state in reading.standbys.items():
        check = f"standby {name}"
        needed = f"it streams from the primary of site {environment.active_site}"
        fix = (
            f"# on {name}: primary_conninfo leads to {environment.database.endpoint}, restore_command to this site's "
            "copy of the archive;\n# a replica that has left the primary's history is copied anew (docs/recovery.md)"
        )
        if not isinstance(state, ServerState):
            findings.missing(check, str(state).removeprefix(f"{name}: "), needed, fix)
        elif state.is_primary:
            fence = "# two servers take writes: find out which one users reach, and fence the other (docs/recovery.md)"
            findings.missing(check, f"{state.words}, while site {environment.active_site} serves", needed, fence)
        elif not state.is_streaming:
            findings.missing(check, state.words, needed, fix)
        elif primary is None:
            findings.no_data(check, f"{state.words}; the primary could not be asked", needed)
        elif state.system_identifier != primary.system_identifier or state.timeline != primary.timeline:
            findings.missing(check, f"{state.words}; the primary is {primary.words}", needed, fix)
        else:
            _check_lag(findings, check, state, max(primary.lsn - state.lsn, 0))


def _check_lag(findings: Findings, check: str, state: ServerState, lag_bytes: int) -> None:
    found = f"{state.words}, {lag_bytes} B behind"
    if state.replay_paused:
        needed = "replay that goes on: what is not replayed is not there to be looked at"
        findings.warning(
            check, f"{found}, replay is paused", needed, f"-- on {state.host}\nSELECT pg_wal_replay_resume();"
        )
    elif lag_bytes > LAG_BYTES:
        needed = f"at most {LAG_BYTES} B: so much would be lost with the primary's site"
        findings.warning(check, found, needed, "# the line between the sites, or the standby's disk")
    else:
        findings.ok(check, found)


def check_dns(environment: Environment, reading: DnsReading) -> Findings:
    """The records lead to the active site, everybody answers them, and the key may change them."""
    findings, dns = Findings("dns"), environment.dns
    if dns is None:
        return findings
    if reading.error:
        needed = f"the connection {dns.conn_id}, with which a recovery leads users to another site"
        findings.missing("connection", reading.error, needed, f"# correct the Airflow connection {dns.conn_id}")
        return findings
    for name, record in reading.records.items():
        _check_record(findings, environment, dns, name, record)
    return findings


def _check_record(findings: Findings, environment: Environment, dns: Dns, name: str, reading: DnsRecordReading) -> None:
    wanted = tuple(sorted(environment.public_addresses(environment.active_site)))
    if reading.record is None:
        needed = f"a record of type A with {', '.join(wanted)}"
        findings.missing(f"record {name}", reading.error, needed, f"{name}. {dns.ttl_seconds} IN A {wanted[0]}")
        return
    found = f"{', '.join(reading.record.values)}, TTL {reading.record.ttl_seconds} s"
    if reading.record.values != wanted:
        needed = (
            f"{', '.join(wanted)}: the load balancers of site {environment.active_site}, which serves (active_site)"
        )
        findings.missing(f"record {name}", found, needed, "# active_site in the inventory, or the record, is not true")
    elif reading.record.ttl_seconds > dns.ttl_seconds:
        needed = f"{dns.ttl_seconds} s (dns.ttl_seconds): for so long users are led to a site that is gone"
        findings.warning(f"record {name}", found, needed, f"{name}. {dns.ttl_seconds} IN A {wanted[0]}")
    else:
        findings.ok(f"record {name}", found)
    if reading.right_error:
        needed = f"the key of {dns.conn_id} may change it"
        findings.missing(
            f"update {name}", reading.right_error, needed, "# the policy of the server that keeps the zone"
        )
    else:
        findings.ok(f"update {name}", "a change that changes nothing was taken")
    for server, answer in reading.answers.items():
        check = f"answer of {server}"
        if answer.values == reading.record.values:
            findings.ok(check, f"{name}: {', '.join(answer.values)}")
        else:
            needed = f"{', '.join(reading.record.values)}, as the zone has it; a recovery waits until all answer alike"
            findings.warning(
                check, f"{name}: {answer.words}", needed, "# a cache that was full a moment ago: look again"
            )
