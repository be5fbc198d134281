"""The build host: refs become commits there, and commits become artifacts, each built once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sebenza_ops.environments.models import Build
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession

UPLOAD_TIMEOUT_SECONDS = 330
AUDIT_TIMEOUT_SECONDS = 90
BUILD_STATES = frozenset({"done", "failed", "running", "absent"})


class UnknownRefError(OutsideSystemError):
    """The repository has no such tag, branch or commit."""


@dataclass(frozen=True)
class BuildStatus:
    """How a commit's build stands: "done", "failed", "running" or "absent"; its result, or the end of its log."""

    state: str
    result: dict[str, Any] | None = None
    log_tail: str = ""


def parse_status(text: str, host: str) -> BuildStatus:
    """The output of include/hosts/build_status.sh. Raises NoDataError when it is none."""
    state, _, rest = text.partition("\n")
    if state not in BUILD_STATES:
        raise NoDataError(f"the state of the build can't be read: {text[:200]!r}", host=host)
    if state == "done":
        try:
            return BuildStatus(state, result=json.loads(rest))
        except ValueError as error:
            raise NoDataError(f"the result of the build can't be read ({error}): {rest[:200]!r}", host=host) from error
    return BuildStatus(state, log_tail=rest.strip())


class BuildHost:
    """The build host over an SSH session."""

    def __init__(self, build: Build, session: HostSession) -> None:
        self._session = session
        self._repository = build.host.path(build.repository_path)
        self._work_dir = build.host.path(build.work_dir)
        self._node_bin_dir = build.node_bin_dir

    def resolve(self, ref: str) -> tuple[str, str]:
        """The commit's SHA and the version that a tag gives it. Raises UnknownRefError."""
        result = self._session.run_script("build_resolve", [self._repository, ref], check=False)
        if result.exit_status == 3:
            raise UnknownRefError(
                f"version {ref!r} is no tag, branch or commit of {self._repository}: push it, or correct `version`",
                host=self._session.host.name,
            )
        if result.exit_status != 0:
            raise OutsideSystemError(
                f"git could not look up {ref!r}: {result.stderr.strip()}", host=self._session.host.name
            )
        sha, version = result.stdout.split()
        return sha, version

    def start(self, sha: str, version: str, release_id: str) -> str:
        """Start the commit's build, detached. Returns "started", "running" (it was already) or "done"."""
        arguments = [self._repository, self._work_dir, sha, version, release_id, self._node_bin_dir]
        return self._session.run_script("build_start", arguments).stdout.strip()

    def status(self, sha: str) -> BuildStatus:
        """How the commit's build stands."""
        text = self._session.run_script("build_status", [self._work_dir, sha]).stdout
        return parse_status(text, self._session.host.name)

    def audit(self, sha: str) -> str:
        """What `npm audit --json` says of a commit's dependencies; judge it, its exit status says nothing."""
        arguments = [self._repository, sha, self._node_bin_dir]
        return self._session.run_script("build_audit", arguments, timeout_seconds=AUDIT_TIMEOUT_SECONDS).stdout

    def commits_between(self, old_sha: str, new_sha: str) -> list[str]:
        """The commits that a release has and another has not, newest first, one line each, 100 at most."""
        return self._session.run_script("build_log", [self._repository, old_sha, new_sha]).stdout.splitlines()

    def upload(self, sha: str, destination: str) -> None:
        """Send the artifact. `destination` is a signed URL and, after it, certificates to trust."""
        arguments = [self._work_dir, sha]
        self._session.run_script("build_upload", arguments, stdin=destination, timeout_seconds=UPLOAD_TIMEOUT_SECONDS)
