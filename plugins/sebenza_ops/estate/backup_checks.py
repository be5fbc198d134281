"""What backups need on every database host: pgBackRest, its repository, an archive that works. Pure rules."""

from __future__ import annotations

import hashlib
import re

from sebenza_ops.environments.backup_policy import BackupPolicy
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.estate import fixes
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import BackupReading
from sebenza_ops.estate.recovery_checks import check_beside, check_guard
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import parse_info

SCRIPT = "check_backup"
# The first with annotations, by which a run finds its set again (pgBackRest's release notes, 2.41).
MINIMUM_VERSION = (2, 41)
PACKAGES = ("pgbackrest", "check-pgbackrest", "util-linux-extra")
PAGE = "# docs/backup.md has the whole file"


def salted(salt: str, secret: str) -> str:
    """A secret as include/hosts/check_backup.sh tells it."""
    return hashlib.sha256(f"{salt}{secret}".encode()).hexdigest()


def check_backups(environment: Environment, host: Host, reading: BackupReading) -> Findings:
    """Everything that a database host needs for backups; nothing in an environment without a policy for them."""
    findings = Findings(host.name)
    policy = environment.policies.backup
    if policy is None:
        return findings
    if reading.error:
        needed = f"a login as the owner of the cluster, by {environment.database.ssh_conn_id}"
        fix = fixes.on_host(
            host,
            "# put the connection's public key into ~postgres/.ssh/authorized_keys, and allow the login in sshd_config",
        )
        findings.missing("backup: access", reading.error, needed, fix)
        return findings
    findings.ok("backup: access", "logged in as the owner of the cluster")
    if not _check_programs(findings, host, reading):
        return findings
    if _check_config(findings, policy, host, reading):
        _check_secret(findings, policy.cipher_conn_id, "passphrase", reading.cipher_matches)
        _check_secret(findings, policy.repository_conn_id, "storage key", reading.key_matches)
    _check_work_dir(findings, policy, host, reading)
    _check_settings(findings, environment, policy, host, reading)
    _check_repository(findings, policy, host, reading)
    check_beside(findings, environment, host, reading)
    check_guard(findings, environment, host, reading)
    return findings


def _check_programs(findings: Findings, host: Host, reading: BackupReading) -> bool:
    lines = [line.split("\t") for line in reading.part("programs").splitlines()]
    missing = [name for name, *where in lines if where == ["!missing"]]
    if not lines or missing:
        install = fixes.on_host(host, fixes.command("sudo", "apt-get", "install", "-y", *PACKAGES))
        findings.missing(
            "backup: programs", f"missing: {', '.join(missing) or 'no answer'}", ", ".join(PACKAGES), install
        )
        return False
    found = re.search(r"(\d+)\.(\d+)", reading.part("version"))
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < MINIMUM_VERSION:
        needed = "2.41 or newer: a run finds its set again by an annotation"
        install = fixes.on_host(host, fixes.command("sudo", "apt-get", "install", "-y", "pgbackrest"))
        findings.missing("backup: pgBackRest", reading.part("version") or "no answer", needed, install)
        return False
    findings.ok("backup: pgBackRest", reading.part("version"))
    return True


def _check_config(findings: Findings, policy: BackupPolicy, host: Host, reading: BackupReading) -> bool:
    file, text = host.path(policy.config_file), reading.part("config")
    if text.startswith("!") or not text:
        found = f"{file} {text.removeprefix('!') or 'could not be looked at'}"
        findings.missing("backup: configuration", found, f"{file}, readable by the owner of the cluster alone", PAGE)
        return False
    mode = text.split()[-1]
    if mode[-1] != "0":
        fix = fixes.on_host(host, fixes.command("sudo", "chmod", "640", file))
        findings.missing(
            "backup: configuration", f"{file} is {text}", "no rights for others: it has the passphrase", fix
        )
    else:
        findings.ok("backup: configuration", f"{file}, {text}")
    return True


def _check_secret(findings: Findings, conn_id: str, name: str, matches: bool | None) -> None:
    """The connection is what opens the backups when this host is gone: it must be the one that closes them."""
    check = f"backup: {name}"
    if matches is None:
        findings.no_data(check, f"the connection {conn_id} can't be compared", "a connection with a password")
    elif matches:
        findings.ok(check, f"as in the connection {conn_id}")
    else:
        needed = f"the same as in {conn_id}: without it nobody opens the backups when this host is gone"
        findings.missing(check, "another one than in the connection", needed, f"# correct the connection {conn_id}")


def _check_work_dir(findings: Findings, policy: BackupPolicy, host: Host, reading: BackupReading) -> None:
    path, text = host.path(policy.work_dir), reading.part("work_dir")
    if text.startswith("!") or not text:
        fix = fixes.make_directory(host, path, "postgres", "750")
        findings.missing(
            "backup: work_dir", f"{path} can't be written", "the owner of the cluster writes dumps there", fix
        )
    elif text.split()[-1][-1] != "0":
        fix = fixes.on_host(host, fixes.command("sudo", "chmod", "750", path))
        findings.warning(
            "backup: work_dir", f"{path} is {text}", "no rights for others: dumps hold customers' data", fix
        )
    else:
        findings.ok("backup: work_dir", f"{path}, {text}")


def _check_settings(
    findings: Findings, environment: Environment, policy: BackupPolicy, host: Host, reading: BackupReading
) -> None:
    found = dict(line.split("\t", 1) for line in reading.part("settings").splitlines() if "\t" in line)
    if "archive_mode" not in found:
        findings.no_data("backup: archiving", reading.part("settings")[:200] or "no answer", "settings, by Unix socket")
        return
    config = host.path(policy.config_file)
    wanted = f"pgbackrest --config={config} --stanza={policy.stanza} archive-push %p"
    set_it = (
        f"-- on {host.name}, then restart PostgreSQL\nALTER SYSTEM SET archive_mode = on;\n"
        f"ALTER SYSTEM SET archive_timeout = 60;\nALTER SYSTEM SET archive_command = '{wanted}';"
    )
    command = found.get("archive_command", "")
    if found["archive_mode"] == "off" or "archive-push" not in command:
        shown = f"archive_mode {found['archive_mode']}, archive_command {command or '(empty)'}"
        findings.missing("backup: archiving", shown, f"archive_mode on, and {wanted}", set_it)
    else:
        findings.ok("backup: archiving", command)
    if found.get("archive_timeout") == "0":
        needed = "60: else a quiet database archives nothing for hours"
        findings.warning("backup: archive_timeout", "0", needed, set_it)
    if found.get("data_checksums") != "on":
        needed = "on: else a backup copies damaged pages and nobody sees it"
        findings.warning(
            "backup: checksums", "off", needed, f"# with PostgreSQL stopped, on {host.name}\npg_checksums -e"
        )
    if found.get("superuser") != "true":
        needed = "a superuser: pgBackRest begins and ends backups"
        findings.missing("backup: role", "the login is no superuser", needed, "# log in as the owner of the cluster")
    # No dump is made at a site that waits, and it must not keep old rows at the primary.
    dumped = policy.logical_dump is not None and environment.serves
    if found.get("in_recovery") == "true" and found.get("hot_standby_feedback") == "off" and dumped:
        needed = "on: else the primary's clean-up ends a long dump of this replica"
        fix = f"-- on {host.name}\nALTER SYSTEM SET hot_standby_feedback = on;\nSELECT pg_reload_conf();"
        findings.warning("backup: hot_standby_feedback", "off", needed, fix)


def _check_repository(findings: Findings, policy: BackupPolicy, host: Host, reading: BackupReading) -> None:
    create = fixes.command("pgbackrest", f"--config={host.path(policy.config_file)}", f"--stanza={policy.stanza}")
    fix = f"# on the primary, as the owner of the cluster\n{create} stanza-create\n{create} check"
    try:
        info = parse_info(reading.part("info"), host.name, policy.stanza)
    except NoDataError as error:
        found = str(error).removeprefix(f"{host.name}: ")
        findings.missing("backup: repository", found, f"stanza {policy.stanza} in a repository that answers", fix)
        return
    if not info.is_encrypted:
        needed = "encrypted: a copy of the storage is a copy of all data"
        findings.missing("backup: encryption", "the repository is not encrypted", needed, PAGE)
    newest = info.sets[-1].label if info.sets else "no backup yet"
    findings.ok("backup: repository", f"stanza {policy.stanza}, {len(info.sets)} sets, newest: {newest}")
