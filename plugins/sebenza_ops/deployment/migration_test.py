"""The gate "migrations tested": a release's pending migrations, run for real on a copy of staging's database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sebenza_ops.deployment.builds import release_storage
from sebenza_ops.deployment.release import Release, artifact_key
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.environments.policies import MigrationPolicy
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_migrations import AppliedMigration, Phase, parse_applied
from sebenza_ops.systems.application_secrets import leading_to, resolve_secrets
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.haproxy import parse_sections
from sebenza_ops.systems.scratch_database import scratch_database
from sebenza_ops.systems.ssh import HostSession, open_session

PHASES: tuple[Phase, ...] = ("expand", "contract")
SEPARATOR = "====="
# PostgreSQL 15, Table-level locks: these conflict with what an INSERT, UPDATE or DELETE takes; the last one with
# reading, too.
BLOCKING_MODES = frozenset({"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"})


class TestedMigration(BaseModel):
    """One migration on the copy: how long it took, and the locks that it held, each as "mode relation"."""

    model_config = ConfigDict(frozen=True)
    # Not a test of pytest's.
    __test__ = False

    number: int
    name: str
    phase: Phase
    seconds: float
    locks: tuple[str, ...] = ()

    @property
    def blocking_locks(self) -> tuple[str, ...]:
        """The locks that keep others from writing or reading."""
        return tuple(lock for lock in self.locks if lock.partition(" ")[0] in BLOCKING_MODES)


class MigrationTest(BaseModel):
    """What the test found. "no_data" means that it could not be made, which is no good news.

    Attributes:
        verdict: "pass", "fail" or "no_data".
        seconds: How long it took, copying included.
        migrations: The migrations that ran, in their order; empty when none was pending.
        problem: Why it did not pass; empty when it did.
    """

    model_config = ConfigDict(frozen=True)

    verdict: Literal["pass", "fail", "no_data"]
    seconds: float
    migrations: tuple[TestedMigration, ...] = ()
    problem: str = ""

    def text(self) -> str:
        """The result for people, in Markdown."""
        lines = [f"Migrations tested: **{self.verdict}** in {self.seconds:.1f} s. {self.problem}".rstrip()]
        for one in self.migrations:
            locks = ", ".join(one.locks) or "no lock on what was there before"
            lines.append(f"- {one.number} {one.name} ({one.phase}): {one.seconds:.2f} s; {locks}")
        if not self.migrations and not self.problem:
            lines.append("- no migration is pending")
        return "\n".join(lines)


def test_migrations(environment: Environment, release: Release) -> MigrationTest:
    """Run the release's pending migrations on a copy of the environment's database, expand first.

    Nothing of the environment is changed: the copy is removed, the release is fetched beside those that are installed.

    Args:
        environment: The environment whose data and hosts are used: staging.
        release: The release.
    """
    began = time.monotonic()
    policy = environment.policies.migrations
    try:
        with scratch_database(environment, policy.test_timeout_seconds) as name:
            ran, problem = _run(environment, release, name)
    except (OutsideSystemError, ValueError) as error:
        problem = f"the test could not be made: {error}"
        return MigrationTest(verdict="no_data", seconds=time.monotonic() - began, problem=problem)
    return judge_test(ran, problem, policy, time.monotonic() - began)


# pytest would take the name of the entry point for a test's.
test_migrations.__test__ = False  # type: ignore[attr-defined]


def judge_test(
    migrations: Sequence[TestedMigration], problem: str, policy: MigrationPolicy, seconds: float
) -> MigrationTest:
    """The verdict: fail when a migration failed, or when an expand migration keeps users out for too long.

    Args:
        migrations: The migrations that ran.
        problem: What the one that failed has said; empty when none did.
        policy: The limits.
        seconds: How long the test took.
    """
    limit = policy.maximum_blocking_seconds
    problems = [problem] if problem else []
    problems += [
        f"migration {one.number} ({one.name}) held {', '.join(one.blocking_locks)} for up to {one.seconds:.1f} s, "
        f"allowed are {limit:g} s: users could not work meanwhile"
        for one in migrations
        if one.phase == "expand" and one.blocking_locks and one.seconds > limit
    ]
    return MigrationTest(
        verdict="fail" if problems else "pass",
        seconds=seconds,
        migrations=tuple(migrations),
        problem="; ".join(problems),
    )


def parse_test(host: str, text: str) -> tuple[list[TestedMigration], str]:
    """The output of include/hosts/migration_test.sh: what ran, and the failure's own words.

    Raises NoDataError when it can't be read.
    """
    sections = parse_sections(text)
    ran: list[TestedMigration] = []
    for phase in PHASES:
        status = sections.get(f"{phase}_status", "").strip()
        if not status.isdigit():
            raise NoDataError(f"the test's output can't be read: {text.strip()[-300:]!r}", host=host)
        printed = sections.get(phase, "").strip()
        ran += [_tested(one) for one in parse_applied(host, printed or "[]")]
        if status != "0":
            return ran, sections.get("said", "").strip() or f"the {phase} migrations ended with exit status {status}"
    return ran, ""


def _tested(one: AppliedMigration) -> TestedMigration:
    return TestedMigration(number=one.number, name=one.name, phase=one.phase, seconds=one.seconds, locks=one.locks)


def _run(environment: Environment, release: Release, scratch: str) -> tuple[list[TestedMigration], str]:
    policy, application = environment.policies.migrations, environment.application
    source = release_storage(environment).transfer_source(artifact_key(release.sha))
    secrets = resolve_secrets(environment)
    host = environment.hosts_with_role(Role.APPLICATION)[0]
    settings = render_env_file(environment, Color.BLUE, host, release.release_id, leading_to(secrets, scratch))

    def test(session: HostSession) -> tuple[list[TestedMigration], str]:
        releases_dir = ApplicationHost(environment, session).release_dir(release.release_id).rpartition("/")[0]
        arguments = [
            releases_dir,
            release.release_id,
            release.sha256,
            str(release.size_bytes),
            application.node_bin_dir,
            str(policy.lock_timeout_milliseconds),
            str(policy.statement_timeout_seconds * 1000),
        ]
        result = session.run_script(
            "migration_test",
            arguments,
            stdin=f"{source.rstrip()}\n{SEPARATOR}\n{settings}",
            timeout_seconds=policy.test_timeout_seconds,
        )
        return parse_test(session.host.name, result.stdout)

    with open_session(host, environment.ssh_conn_id) as session:
        return test(session)
