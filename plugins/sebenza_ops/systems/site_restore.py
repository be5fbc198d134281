"""A cluster that is restored at a site that takes over: beside what is there, then put in its place.

All of it from the repository, or its critical tables from the dump of a set and the rest later, while users are served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.database_restore import DatabaseRestore, StoredPiece
from sebenza_ops.systems.drill_instance import RepositoryKeys
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import READ_TIMEOUT_SECONDS, JobStatus, parse_job_status
from sebenza_ops.systems.point_restore import SWAP_TIMEOUT_SECONDS, PointRestore
from sebenza_ops.systems.ssh import Fence, HostSession

NOTHING = "-"
# Where there is no cluster, the databases of a new one are restored: some 30 MB, and the empty files of the large one.
OPEN_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class SiteReport:
    """A restored cluster that is stopped, ready to be put in.

    Attributes:
        restore_seconds: Until its files were there.
        replay_seconds: Until its WAL was replayed.
        load_seconds: Counting, and of a partial restore loading the critical tables.
        last_commit_at: The last commit that was replayed, in epoch seconds; None when there was none in the WAL.
        rows: The rows of each table of the database where they were counted; nothing when they were not.
    """

    restore_seconds: float
    replay_seconds: float
    load_seconds: float
    restored_bytes: int
    last_commit_at: float | None
    timeline: int
    system_identifier: str
    rows: Mapping[str, int]


def parse_site_report(text: str, rows: str, host: str) -> SiteReport:
    """What include/hosts/site_restore_start.sh has left. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        reached = found["reached"]
        last = reached["last_commit_at"]
        return SiteReport(
            restore_seconds=float(found["restore_seconds"]),
            replay_seconds=float(found["replay_seconds"]),
            load_seconds=float(found["load_seconds"]),
            restored_bytes=int(found["restored_bytes"]),
            last_commit_at=None if last is None else float(last),
            timeline=int(reached["timeline"]),
            system_identifier=str(reached["system_identifier"]),
            rows=parse_counted(rows, host),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the restore's result can't be read ({error}): {text[:300]!r}", host=host) from error


def parse_counted(text: str, host: str) -> dict[str, int]:
    """The rows of each table, as a restore has counted them. Raises NoDataError."""
    try:
        items = [json.loads(line) for line in filter(None, text.splitlines())]
        return {str(item["name"]): int(item["rows"]) for item in items}
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the counted rows can't be read ({error}): {text[:200]!r}", host=host) from error


class OpenRepository:
    """The repository as one host reads it, with keys that were given and not with those of its configuration.

    Args:
        environment: The environment at the host's site; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        job: A name of its own on the host.
    """

    def __init__(self, environment: Environment, session: HostSession, job: str) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._environment, self._policy, self._session, self._job = environment, policy, session, job
        self._work_dir = session.host.path(policy.work_dir)

    def open(self, keys: RepositoryKeys) -> Environment:
        """Returns the environment with a configuration of pgBackRest that uses the keys; `close` removes it."""
        host, database = self._session.host, self._environment.database
        version = str(database.major_version)
        data = host.path(database.data_dir.replace("{version}", version))
        place = [self._work_dir, self._job, host.path(self._policy.config_file), self._policy.stanza]
        cluster = [data, f"/usr/lib/postgresql/{version}/bin", database.name]
        self._session.run_script(
            "repository_open", [*place, *cluster], stdin=_lines(keys), timeout_seconds=OPEN_TIMEOUT_SECONDS
        )
        # As the host sees it from its own root: the readers put that before it.
        backup = self._policy.model_copy(update={"config_file": f"{self._policy.work_dir}/{self._job}/pgbackrest.conf"})
        policies = self._environment.policies.model_copy(update={"backup": backup})
        return self._environment.model_copy(update={"policies": policies})

    def close(self) -> None:
        """Remove the configuration with the keys."""
        self._session.run_script("repository_close", [self._work_dir, self._job])


class SiteRestore(PointRestore):
    """A run's restored cluster on the database host of the site that takes over, as the owner of the cluster.

    Args:
        environment: The environment at that site; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        key: The run (`recovery.run_record.job_key`).
    """

    def __init__(self, environment: Environment, session: HostSession, key: str) -> None:
        super().__init__(environment, session, key)
        self.job = f"{key}-site"
        self._rest_job = f"{key}-rest"
        self._environment, self._database = environment, environment.database.name
        self._server = [session.host.path(environment.database.socket_dir), str(environment.database.port)]

    def begin(
        self,
        fence: Fence,
        keys: RepositoryKeys,
        label: str,
        *,
        count_lsn: str,
        end_lsn: str,
        timeline: int,
        need_bytes: int,
    ) -> str:
        """Start restoring a set, detached. Returns "started", "running" or "done".

        Args:
            fence: The run's.
            keys: What opens the repository.
            label: The set.
            count_lsn: Where rows are counted; empty: nowhere.
            end_lsn: Up to where it is brought; empty: to the set's end, with the critical tables of its dump.
            timeline: The history that is followed.
            need_bytes: Free disk that it needs.
        """
        config = self._session.host.path(self._policy.config_file)
        what = [config, self._policy.stanza, label, count_lsn or NOTHING, end_lsn or NOTHING, str(timeline)]
        limits = [str(self._policy.processes), str(need_bytes), str(self._policy.timeout_seconds)]
        place = [*self._fenced(fence), self._work_dir, self.job]
        arguments = [*place, *what, self.restored, self._bin, self._database, *limits]
        answer = self._session.run_script("site_restore_start", arguments, stdin=_lines(keys), timeout_seconds=45)
        return _started(answer.stdout, self.host)

    def site_report(self) -> SiteReport:
        """The result, once it is done."""
        return parse_site_report(self._read(self.job, "result.json"), self._counted(self.job), self.host)

    def put_in(self, fence: Fence, system_identifier: str) -> str:
        """Put it in the place of whatever is there, if anything, which is kept. Neither may run."""
        arguments = [*self._fenced(fence), self.data, self.restored, self.aside, self._bin, system_identifier]
        result = self._session.run_script(
            "point_swap", [*arguments, "may-be-gone"], timeout_seconds=SWAP_TIMEOUT_SECONDS
        )
        return result.stdout.strip()

    def fetch(self, storage: ObjectStorage, pieces: Sequence[StoredPiece]) -> None:
        """Bring pieces of the set's dump to the host. Raises RemoteCommandError when one is not what was stored."""
        dump = DatabaseRestore(self._environment, self._session, "")
        dump.job = self.job
        dump.fetch(storage, pieces)

    def contents(self) -> str:
        """The table of contents of the dump, with what each entry depends on."""
        place = f"{self._work_dir}/{self.job}/dump"
        found = self._session.run(["find", place, "-mindepth", "1", "-maxdepth", "1"]).stdout.strip()
        argv = [f"{self._bin}/pg_restore", "--list", "--verbose", found]
        return self._session.run(argv, timeout_seconds=READ_TIMEOUT_SECONDS).stdout

    def write_lists(self, lists: Mapping[str, str]) -> None:
        """Write the lists by which parts of the dump are restored."""
        for name, text in lists.items():
            self._session.run_script("job_file_write", [self._work_dir, self.job, name], stdin=text)

    def begin_rest(self, fence: Fence) -> str:
        """Start restoring the rest into the running server, detached. Returns "started", "running" or "done"."""
        limits = [str(self._policy.processes), str(self._policy.timeout_seconds)]
        place = [*self._fenced(fence), self._work_dir, self._rest_job, self.job, self._bin]
        arguments = [*place, *self._server, self._database, *limits]
        answer = self._session.run_script("rest_restore_start", arguments, timeout_seconds=45)
        return _started(answer.stdout, self.host)

    def rest_status(self) -> JobStatus:
        """How the rest stands."""
        text = self._session.run_script("dump_status", [self._work_dir, self._rest_job]).stdout
        return parse_job_status(text, self.host)

    def rest_rows(self) -> dict[str, int]:
        """The rows of every table right after the rest was restored."""
        return parse_counted(self._counted(self._rest_job), self.host)

    def publish_rest(self, fence: Fence) -> str:
        """Give the rest to its owners, and let rows be deleted again. Returns "published" or "already"."""
        arguments = [*self._fenced(fence), self._work_dir, self.job, self._bin, *self._server, self._database]
        return self._session.run_script("rest_restore_publish", arguments, timeout_seconds=90).stdout.strip()

    def forget_dump(self) -> None:
        """Remove the dump from the host, once all of it is in the database."""
        self._session.run_script("dump_discard", [self._work_dir, self.job], timeout_seconds=120)

    def _read(self, job: str, name: str) -> str:
        return self._session.run_script("file_read", [f"{self._work_dir}/{job}/{name}"]).stdout

    def _counted(self, job: str) -> str:
        done = self._session.run_script("file_read", [f"{self._work_dir}/{job}/rows.jsonl"], check=False)
        return done.stdout if done.exit_status == 0 else ""


def _started(text: str, host: str) -> str:
    answer = text.strip()
    if answer not in {"started", "running", "done"}:
        raise OutsideSystemError(f"the restore was not started: {answer[:200]!r}", host=host)
    return answer


def _lines(keys: RepositoryKeys) -> str:
    return f"{keys.passphrase}\n{keys.key_id}\n{keys.secret}\n"
