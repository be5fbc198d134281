"""What a restore and a disaster recovery need of database hosts and of the site that waits. Pure rules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath

from sebenza_ops.environments.models import Environment, Host, Role
from sebenza_ops.estate import fixes
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import BackupReading, EscrowReading

# From the guard's beginning to the server's start: its own wait (GUARD_SECONDS, 30 by default), four times.
GUARD_RAN_SECONDS = 120
# Sealed weekly by its schedule; a day more for a run that was late.
ESCROW_SECONDS = 8 * 24 * 3600
GUARD_FILE = "/usr/local/lib/sebenza/database-guard.sh"


def check_beside(findings: Findings, environment: Environment, host: Host, reading: BackupReading) -> None:
    """A restored cluster is made beside the one that runs, and exchanged with it by renaming."""
    data = host.path(_data_dir(environment))
    above, check = str(PurePosixPath(data).parent), "restore: beside the data directory"
    needed = f"the owner of the cluster writes in {above}: a restored cluster is made there, and exchanged by renaming"
    fix = fixes.on_host(
        host, fixes.command("sudo", "chown", "postgres:", above), f"# {data} must be no mount of its own"
    )
    if reading.part("beside") == "writable":
        findings.ok(check, f"{above} can be written")
    elif reading.part("beside"):
        findings.missing(check, f"{above} can't be written", needed, fix)
    else:
        findings.no_data(check, "no answer", needed, fix)


def check_guard(findings: Findings, environment: Environment, host: Host, reading: BackupReading) -> None:
    """The guard ran before the server's last start, and asks the servers of every other site."""
    if environment.policies.disaster_recovery is None:
        return
    wanted = witnesses(environment, host)
    needed = (
        f"database-guard.sh runs before every start and asks {', '.join(wanted)}: else a server of a lost site takes "
        "writes when it comes back"
    )
    fix = guard_fix(environment, host, wanted)
    started, _, said = reading.part("guard").partition("\n")
    if not started.strip().isdigit():
        findings.no_data("database guard", "when the server was started can't be told", needed, fix)
        return
    ran, _, asks = said.strip().partition(" ")
    if not ran.isdigit():
        findings.missing("database guard", "it has never run", needed, fix)
    elif not 0 <= int(started) - int(ran) <= GUARD_RAN_SECONDS:
        found = f"it did not run before the server's last start ({_moment(started)}), but at {_moment(ran)}"
        findings.missing("database guard", found, needed, fix)
    elif not set(wanted) <= set(asks.split()):
        findings.missing("database guard", f"it asks {asks or 'nobody'}", needed, fix)
    else:
        findings.ok("database guard", f"ran before the last start, asks {asks}")


def witnesses(environment: Environment, host: Host) -> tuple[str, ...]:
    """The database servers of the other sites, which the guard of a host asks."""
    port = environment.database.port
    others = [site.name for site in environment.sites if site.name != host.site]
    return tuple(
        f"{other.address}:{port}" for site in others for other in environment.hosts_with_role(Role.DATABASE, site=site)
    )


def guard_fix(environment: Environment, host: Host, wanted: tuple[str, ...]) -> str:
    """The drop-in for systemd that runs the guard, and how it is installed."""
    version, database = environment.database.major_version, environment.database
    state_dir, data = host.path(database.state_dir), host.path(_data_dir(environment))
    return fixes.on_host(
        host,
        "# copy include/hosts/database-guard.sh of Sebenza Ops there first, as /tmp/database-guard.sh",
        fixes.command("sudo", "install", "-D", "-m", "755", "/tmp/database-guard.sh", GUARD_FILE),
        "# /etc/systemd/system/postgresql@.service.d/guard.conf",
        "[Service]",
        f"Environment=GUARD_DATA={data} GUARD_BIN=/usr/lib/postgresql/{version}/bin GUARD_USER=sebenza_health",
        f'Environment="GUARD_WITNESSES={" ".join(wanted)}" GUARD_SECONDS=30',
        f"Environment=GUARD_ALONE_FILE={state_dir}/start-alone",
        f"ExecStartPre=/usr/sbin/runuser -u postgres -- {GUARD_FILE}",
        "# then, and restart the server when that suits, the replica first",
        fixes.command("sudo", "systemctl", "daemon-reload"),
    )


def _data_dir(environment: Environment) -> str:
    return environment.database.data_dir.replace("{version}", str(environment.database.major_version))


def _moment(seconds: str) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")


def check_escrow(findings: Findings, environment: Environment, reading: EscrowReading | None) -> None:
    """The credentials are at the site that waits, sealed not long ago."""
    recovery, check = environment.policies.disaster_recovery, "escrow"
    if recovery is None:
        return
    needed = (
        "the credentials of a recovery, sealed by escrow_credentials every week: with them alone it goes on from there"
    )
    run = f"make run DAG=escrow_credentials.{environment.name}"
    if recovery.escrow is None:
        fix = "# policies.disaster_recovery.escrow in the inventory (docs/disaster-recovery.md, escrow_credentials)"
        findings.missing(check, "the inventory has no policies.disaster_recovery.escrow", needed, fix)
    elif reading is None or reading.error:
        findings.no_data(check, reading.error if reading is not None else "it was not looked for", needed, run)
    elif reading.age_seconds is None:
        findings.missing(check, f"there is no {reading.key}", needed, run)
    elif reading.age_seconds > ESCROW_SECONDS:
        found = f"{reading.key} is {reading.age_seconds / 86400:.0f} days old"
        findings.missing(check, found, needed, f"{run}\n# and switch its schedule on: it runs weekly")
    else:
        findings.ok(check, f"{reading.key}, sealed {reading.age_seconds / 86400:.1f} days ago")
