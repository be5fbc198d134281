"""pgBackRest on a database host: what is in its repository, and its commands as detached jobs that are found again.

Its exit status alone proves nothing: `verify` ends with 0 on a corrupt backup and says so in its text only, and it does
not miss a WAL segment that is gone; check_pgbackrest does. So texts are read, and outcomes looked up in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.environments.backup_policy import BackupPolicy
from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.repository_files import RepositoryLook, parse_look
from sebenza_ops.systems.ssh import Fence, HostSession

# Its own attempts at a storage that does not answer take most of a minute before it says so.
READ_TIMEOUT_SECONDS = 120.0
# `check` switches a WAL segment and waits for it, archive-timeout (60 s) at most.
CHECK_TIMEOUT_SECONDS = 150.0
# Two small files of every set are fetched, one after the other.
LOOK_TIMEOUT_SECONDS = 1800.0
# After an error was told, what is left of a command is killed: it was seen to linger for nine minutes.
GRACE_SECONDS = 20
# The annotation by which a run finds its set in the repository.
RUN_ANNOTATION = "sebenza-run"
# Codes of `info` (pgBackRest, command/info/info.c): no backup yet is no error.
_STATUS_OK, _STATUS_NO_BACKUP = 0, 2
_JOB_STATES = frozenset({"done", "failed", "running", "absent"})


@dataclass(frozen=True)
class RepositorySet:
    """A backup set in the repository. `has_error` means that pages with wrong checksums were copied.

    `stored_bytes` is what it has added, `repository_bytes` all that a restore of it reads, for `size_bytes` of files.
    """

    label: str
    backup_type: str
    started_at: datetime
    finished_at: datetime
    size_bytes: int
    stored_bytes: int
    based_on: str | None
    lsn_start: str
    lsn_stop: str
    wal_start: str
    wal_stop: str
    has_error: bool
    run: str | None = None
    repository_bytes: int = 0


@dataclass(frozen=True)
class RepositoryInfo:
    """What the repository holds of a stanza. `is_busy` tells of the host that was asked, not of others."""

    sets: tuple[RepositorySet, ...]
    archive_min: str | None
    archive_max: str | None
    system_identifier: str
    is_encrypted: bool
    is_busy: bool

    def of_run(self, run: str) -> RepositorySet | None:
        """The set that a run has made, or None."""
        return next((each for each in reversed(self.sets) if each.run == run), None)

    def chain(self, label: str) -> tuple[str, ...]:
        """A set and all that it needs, itself first. Empty when the repository has no such set."""
        by_label = {each.label: each for each in self.sets}
        found: list[str] = []
        current: str | None = label
        while current is not None and current in by_label:
            found.append(current)
            current = by_label[current].based_on
        return tuple(found)


def parse_info(text: str, host: str, stanza: str) -> RepositoryInfo:
    """The output of `info --output=json`. Raises NoDataError when the repository can't be read, with the reason."""
    try:
        # Not strict: with another key it quotes what it has deciphered, which is noise.
        found: dict[str, Any] = next(each for each in json.loads(text, strict=False) if each["name"] == stanza)
        status = found["status"]
        if status["code"] not in {_STATUS_OK, _STATUS_NO_BACKUP}:
            reasons = [each["status"]["message"] for each in found.get("repo", [])] or [status["message"]]
            raise NoDataError(
                f"the repository of stanza {stanza} can't be read: {_reason('; '.join(reasons))}", host=host
            )
        archives = found["archive"][-1:]
        return RepositoryInfo(
            sets=tuple(_set(each) for each in found["backup"]),
            archive_min=archives[0]["min"] if archives else None,
            archive_max=archives[0]["max"] if archives else None,
            system_identifier=str(found["db"][-1]["system-id"]) if found["db"] else "",
            is_encrypted=found["cipher"] not in {"none", "mixed"},
            is_busy=bool(status["lock"]["backup"]["held"]),
        )
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise NoDataError(
            f"what pgBackRest says of stanza {stanza} can't be read: {text[:200]!r}", host=host
        ) from error


def _reason(said: str) -> str:
    """What pgBackRest said, as far as people, and the ledger's database, can read it."""
    text = "".join(letter if letter.isascii() and (letter.isprintable() or letter == "\n") else "?" for letter in said)[
        :500
    ]
    # With the wrong passphrase everything is deciphered, into noise.
    return f"is the passphrase the one it was made with? {text}" if "FormatError" in said else text


def _set(found: Mapping[str, Any]) -> RepositorySet:
    return RepositorySet(
        label=str(found["label"]),
        backup_type=str(found["type"]),
        started_at=datetime.fromtimestamp(found["timestamp"]["start"], UTC),
        finished_at=datetime.fromtimestamp(found["timestamp"]["stop"], UTC),
        size_bytes=int(found["info"]["size"]),
        stored_bytes=int(found["info"]["repository"]["delta"]),
        repository_bytes=int(found["info"]["repository"]["size"]),
        based_on=found["prior"],
        lsn_start=str(found["lsn"]["start"]),
        lsn_stop=str(found["lsn"]["stop"]),
        wal_start=str(found["archive"]["start"]),
        wal_stop=str(found["archive"]["stop"]),
        has_error=bool(found.get("error")),
        run=(found.get("annotation") or {}).get(RUN_ANNOTATION),
    )


@dataclass(frozen=True)
class VerifyReport:
    """What reading all of the repository showed: what is wrong by set, and what is wrong in the WAL."""

    is_ok: bool
    valid: tuple[str, ...]
    damaged: Mapping[str, str] = field(default_factory=dict)
    archive: str = ""


_BACKUP_LINE = re.compile(
    r"^ *backup: (\S+), status: (\w[\w ]*?), total files checked: (\d+), total valid files: (\d+)", re.M
)
_ARCHIVE_LINE = re.compile(r"^ *archiveId: (\S+), total WAL checked: (\d+), total valid WAL: (\d+)", re.M)


def parse_verify(text: str, host: str) -> VerifyReport:
    """The output of `verify --output=text --verbose`. Raises NoDataError when it tells of no status."""
    status = re.search(r"^status: (\w+)", text, re.M)
    if status is None:
        raise NoDataError(f"verify says nothing of the repository's state: {text.strip()[-300:]!r}", host=host)
    valid, damaged, archive = [], {}, []
    for found in _BACKUP_LINE.finditer(text):
        label, state, checked, right = found.groups()
        if state == "valid" and checked == right and int(checked) > 0:
            valid.append(label)
        else:
            counts = text[found.end() :].lstrip(" ,").split("\n")[1:2]
            damaged[label] = f"{state}, {right} of {checked} files right; {''.join(counts).strip()}"
    for found in _ARCHIVE_LINE.finditer(text):
        archive_id, checked, right = found.groups()
        if checked != right:
            archive.append(f"{archive_id}: {right} of {checked} WAL segments right")
    return VerifyReport(
        is_ok=status[1] == "ok" and not damaged and not archive,
        valid=tuple(valid),
        damaged=damaged,
        archive="; ".join(archive) or ("" if status[1] == "ok" or damaged else f"status: {status[1]}"),
    )


@dataclass(frozen=True)
class ArchiveReport:
    """Whether the WAL since the oldest set is whole. `missing` has the first and last segment of each gap."""

    is_whole: bool
    message: str
    missing: tuple[tuple[str, str], ...] = ()

    def breaks(self, wal_start: str) -> bool:
        """Whether anything is missing that a set needs whose WAL begins there; True where that can't be told."""
        if self.is_whole:
            return False
        # Without the timeline: a switch of it is no gap.
        return not self.missing or any(last[8:] >= wal_start[8:] for _, last in self.missing)


def parse_archive_check(text: str, host: str) -> ArchiveReport:
    """The output of `check_pgbackrest --service=archives --output=json`. Raises NoDataError when it is none."""
    try:
        found = json.loads(text)[0]
        code, message = int(found["status"]["code"]), str(found["message"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NoDataError(f"what check_pgbackrest says can't be read: {text[:300]!r}", host=host) from error
    missing = tuple(re.findall(r"\(([0-9A-F]{24}) / ([0-9A-F]{24})\)", message))
    return ArchiveReport(code == 0, message, missing)


def parse_expiring(text: str) -> tuple[str, ...]:
    """The labels that `expire --dry-run` would remove, by its log at level info."""
    return tuple(re.findall(r"\[DRY-RUN\] repo\d+: remove expired backup (\S+)", text))


@dataclass(frozen=True)
class JobStatus:
    """How a detached command stands: "done", "failed", "running" or "absent"; its seconds, or the end of its log."""

    state: str
    seconds: float = 0.0
    log_tail: str = ""


def parse_job_status(text: str, host: str) -> JobStatus:
    """The output of include/hosts/dump_status.sh about a command. Raises NoDataError when it is none."""
    state, _, rest = text.partition("\n")
    if state not in _JOB_STATES:
        raise NoDataError(f"the state of the job can't be read: {text[:200]!r}", host=host)
    if state != "done":
        return JobStatus(state, log_tail=rest.strip())
    try:
        return JobStatus(state, seconds=float(json.loads(rest)["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the result of the job can't be read ({error}): {rest[:200]!r}", host=host) from error


class PgBackRest:
    """pgBackRest on one database host, as the owner of the cluster.

    Args:
        environment: The environment; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy: BackupPolicy = policy
        self._days = environment.policies.retention.backups_days
        self._session = session
        self._config = session.host.path(policy.config_file)
        self.work_dir = session.host.path(policy.work_dir)

    @property
    def host(self) -> str:
        """The host's name."""
        return self._session.host.name

    def info(self) -> RepositoryInfo:
        """What is in the repository. Raises NoDataError, with the reason, when that can't be told."""
        result = self._session.run(self._argv("info", "--output=json"), timeout_seconds=READ_TIMEOUT_SECONDS)
        return parse_info(result.stdout, self.host, self._policy.stanza)

    def check(self) -> None:
        """Archive a WAL segment and find it in the repository. Raises RemoteCommandError with pgBackRest's reason."""
        self._session.run(self._argv("check"), timeout_seconds=CHECK_TIMEOUT_SECONDS)

    def archives(self) -> ArchiveReport:
        """Whether a WAL segment is missing between the oldest set and now."""
        argv = ["check_pgbackrest", "--service=archives", f"--stanza={self._policy.stanza}", "-c", self._config]
        result = self._session.run([*argv, "--output=json"], timeout_seconds=READ_TIMEOUT_SECONDS, check=False)
        if not result.stdout.strip():
            raise NoDataError(f"check_pgbackrest gives no answer: {result.stderr.strip()[-300:]}", host=self.host)
        return parse_archive_check(result.stdout, self.host)

    def look(self, job: str = "") -> RepositoryLook:
        """Every file of the repository: there, as large as its manifest says, the small ones right.

        With the name of a job it is looked once: what was found is told again.
        """
        arguments = [self._config, self._policy.stanza, *([f"{self.work_dir}/{job}/look"] if job else [])]
        result = self._session.run_script("repository_look", arguments, timeout_seconds=LOOK_TIMEOUT_SECONDS)
        return parse_look(result.stdout, self._policy.stanza, self.host)

    def expiring(self, days: int) -> tuple[str, ...]:
        """The sets that are older than the policy keeps, by pgBackRest itself; nothing is removed."""
        options = ["--dry-run", *_retention(days), "--log-level-console=info"]
        result = self._session.run(self._argv("expire", *options), timeout_seconds=READ_TIMEOUT_SECONDS)
        if "expire command end: completed successfully" not in result.stdout:
            raise NoDataError(f"what would expire can't be read: {result.stdout[-300:]!r}", host=self.host)
        return parse_expiring(result.stdout)

    def start_backup(self, fence: Fence, job: str, backup_type: str, run: str, *, from_replica: bool) -> str:
        """Start a backup, detached. pgBackRest resumes an interrupted one. Returns "started", "running" or "done"."""
        options = [f"--type={backup_type}", f"--annotation={RUN_ANNOTATION}={run}", "--no-expire-auto"]
        # Nothing is removed by it; without the number it warns of a repository that only grows.
        options += [*_retention(self._days), "--log-level-console=info", f"--process-max={self._policy.processes}"]
        return self._start(fence, job, "backup", [*options, *(["--backup-standby"] if from_replica else [])])

    def start_verify(self, fence: Fence, job: str) -> str:
        """Start reading all of the repository, detached."""
        options = ["--output=text", "--verbose", f"--process-max={self._policy.processes}"]
        return self._start(fence, job, "verify", options)

    def start_expire(self, fence: Fence, job: str, days: int) -> str:
        """Start removing sets that are older than so many days, and the WAL that no set needs, detached."""
        return self._start(fence, job, "expire", [*_retention(days), "--log-level-console=info"])

    def status(self, job: str) -> JobStatus:
        """How a job stands."""
        text = self._session.run_script("dump_status", [self.work_dir, job]).stdout
        return parse_job_status(text, self.host)

    def output(self, job: str) -> str:
        """What a job has said."""
        return self._session.run_script("file_read", [f"{self.work_dir}/{job}/log"]).stdout

    def _start(self, fence: Fence, job: str, command: str, options: Sequence[str]) -> str:
        place = [self.work_dir, job, self._config, self._policy.stanza]
        limits = [str(self._policy.timeout_seconds), str(GRACE_SECONDS)]
        arguments = [*fence.arguments(self.work_dir), *place, *limits, command, *options]
        answer = self._session.run_script("pgbackrest_start", arguments, timeout_seconds=45).stdout.strip()
        if answer not in {"started", "running", "done"}:
            raise OutsideSystemError(f"{command} was not started: {answer[:200]!r}", host=self.host)
        return answer

    def _argv(self, *arguments: str) -> list[str]:
        return ["pgbackrest", f"--config={self._config}", f"--stanza={self._policy.stanza}", *arguments]


def _retention(days: int) -> list[str]:
    # By time, and pgBackRest keeps the newest full set that is older: what lies within the days can be reached.
    return ["--repo1-retention-full-type=time", f"--repo1-retention-full={days}"]
