"""Gathering what backups need: asks every database host as the owner of its cluster."""

from __future__ import annotations

import secrets

from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.estate.backup_checks import SCRIPT, salted
from sebenza_ops.estate.gathered import BackupReading
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import parse_sections
from sebenza_ops.systems.ssh import HostSession, on_hosts

SCRIPT_TIMEOUT_SECONDS = 60.0


def read_backups(environment: Environment) -> dict[str, BackupReading]:
    """What every database host says, by its name; empty in an environment without a policy for backups."""
    policy, conn_id = environment.policies.backup, environment.database.ssh_conn_id
    hosts = environment.hosts_with_role(Role.DATABASE)
    if policy is None or conn_id is None:
        return {}
    salt = secrets.token_hex(16)
    cipher, key = _secret(policy.cipher_conn_id), _secret(policy.repository_conn_id)

    def read(session: HostSession) -> BackupReading:
        host, database = session.host, environment.database
        place = [host.path(policy.work_dir), host.path(policy.config_file), policy.stanza]
        version = str(database.major_version)
        server = [version, host.path(database.socket_dir), str(database.port)]
        server += [host.path(database.data_dir.replace("{version}", version)), host.path(database.state_dir)]
        result = session.run_script(
            SCRIPT, [*place, *server], stdin=f"{salt}\n", timeout_seconds=SCRIPT_TIMEOUT_SECONDS, check=False
        )
        reading = BackupReading(host.name, parts=parse_sections(result.stdout))
        if result.exit_status != 0 and not result.stdout:
            reading.error = f"{SCRIPT} ended with {result.exit_status}: {result.stderr.strip()[-200:]}"
        reading.cipher_matches = reading.part("cipher") == salted(salt, cipher) if cipher else None
        reading.key_matches = reading.part("key") == salted(salt, key) if key else None
        return reading

    from airflow.sdk.exceptions import AirflowException

    try:
        answers = on_hosts(hosts, conn_id, read)
    # The hook refuses a connection that is missing or can't be used before it connects.
    except (AirflowException, ValueError) as error:
        return {host.name: BackupReading(host.name, error=f"the connection {conn_id}: {error}") for host in hosts}
    return {
        name: BackupReading(name, error=str(answer).removeprefix(f"{name}: "))
        if isinstance(answer, OutsideSystemError)
        else answer
        for name, answer in answers.items()
    }


def _secret(conn_id: str) -> str:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return str(BaseHook.get_connection(conn_id).password or "")
    except AirflowNotFoundException:
        return ""
