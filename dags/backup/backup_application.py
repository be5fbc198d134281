"""
# Back up the application

Archives the application and the configuration of every host, encrypted, in object storage, and proves each archive by
reading it back.

## When to run

By itself, on the days of the environment's backups (`policies.backup`), at the time of `policies.application_backup`.
By hand before work on a host that could lose its files.

## What it changes

Nothing of the environment. On every host at once, spares too:

1. What belongs to the host's roles is listed, with hash, owner and mode of every file; a place that is declared and not
   there is said. Too little disk is refused before anything is made.
2. It is archived and encrypted on the host, sent to object storage, and removed from the host.
3. The archive is fetched back, decrypted and read to its last byte. Every file must be as it was listed. What changed
   while it was read is named, and the archive made anew.
4. The set is entered into the catalog. Sets that are older than `policies.retention.backups_days` are removed, never
   the last good one of a host.

Modules, build output and logs are left out: releases come back from release storage, by their SHA-256.

## How it undoes itself

There is nothing to undo. A run that was killed leaves nothing that looks like a set; cleared, it makes what is missing.

## What can't run beside it

Another backup of the application, and a restore of a host: then it tries again every ten minutes for an hour, and
fails, so that nobody believes in a backup that was not made. Its lease is its own: deployments, rollbacks and backups
of the database neither wait for it nor does it wait for them. A freeze does not stop it.
"""

from airflow.sdk import Asset, chain, dag

from sebenza_ops.backup.archive_operators import (
    AcquireBackupLeaseOperator,
    ArchiveHostsOperator,
    FinishBackupOperator,
    RetainArchivesOperator,
)
from sebenza_ops.backup.archive_rules import schedule_of
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy, backup = environment.policies.application_backup, environment.policies.backup
    assert policy is not None
    assert backup is not None

    @dag(
        dag_id=procedure_id("backup_application", environment),
        dag_display_name=f"Back up the application: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(environment, "backup", schedule=schedule_of(policy, backup)),
    )
    def backup_application() -> None:
        name = environment.name
        lease = AcquireBackupLeaseOperator(task_id="acquire_lease", environment=name)
        archived = ArchiveHostsOperator(
            task_id="archive_hosts", environment=name, outlets=[Asset(name=f"application_backup.{name}")]
        )
        retained = RetainArchivesOperator(task_id="retain_archives", environment=name)
        finished = FinishBackupOperator(task_id="finish", environment=name).as_teardown(
            setups=lease, on_failure_fail_dagrun=True
        )
        chain(lease, archived, retained, finished)

    backup_application()


for environment in environments_with("application_backup"):
    make_dag(environment)
