"""Building releases once: from a git ref to an artifact and its manifest in object storage."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sebenza_ops.deployment.release import (
    Release,
    artifact_key,
    is_valid_ref,
    manifest_key,
    release_from_result,
    release_id,
)
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Build, Environment
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.ledger import Release as ReleaseRecord
from sebenza_ops.systems.build_host import BuildHost
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.ssh import open_session

BUILD_TIMEOUT_SECONDS = 900.0
QUICK_BUILD_SECONDS = 2.0
POLL_INTERVAL_SECONDS = 1.0


def release_storage(environment: Environment) -> ObjectStorage:
    """Where artifacts lie: one place for all environments, so that what staging has proven is what production gets."""
    build = load_inventory().build
    return ObjectStorage(environment.object_store if build is None else build.object_store)


class BuildFailedError(Exception):
    """The release could not be built; the end of the build's log says why."""


class BuildRunning(Exception):
    """The build goes on by itself on the build host. Carries how to wait for it."""

    def __init__(self, build: Build, sha: str, ledger: Ledger, holder: Holder) -> None:
        super().__init__(f"the build of {sha} runs")
        self.build, self.sha, self.ledger, self.holder = build, sha, ledger, holder
        self.timeout_seconds = BUILD_TIMEOUT_SECONDS

    def trigger(self) -> Any:
        """The trigger that fires when the build has ended."""
        from sebenza_ops.deployment.triggers import HostScriptTrigger

        host = self.build.host
        return HostScriptTrigger(
            waiting_for=f"the build of {self.sha[:12]}",
            judge_name="missing_build",
            judge_arguments={},
            ssh_conn_id=self.build.ssh_conn_id,
            hosts=[host.model_dump(mode="json")],
            script="build_status",
            arguments={host.name: [host.path(self.build.work_dir), self.sha]},
            interval_seconds=POLL_INTERVAL_SECONDS,
            deadline=time.time() + self.timeout_seconds,
        )


class ReleaseBuilder:
    """Finds or builds releases.

    Args:
        ledger: Where releases are recorded.
        holder: The run that asks.
    """

    def __init__(self, ledger: Ledger, holder: Holder) -> None:
        inventory = load_inventory()
        if inventory.build is None:
            problems = "; ".join(str(error) for error in inventory.errors.values())
            raise ValueError(f"the inventory describes no build host (a file with kind: build). {problems}".strip())
        self._build = inventory.build
        self._ledger, self._holder = ledger, holder
        self._storage = ObjectStorage(self._build.object_store)

    def ensure(self, ref: str) -> Release:
        """The release of a git ref, built if it never was.

        Raises:
            ValueError: The text can't be a git ref.
            UnknownRefError: The repository has no such ref.
            BuildRunning: It is being built; ask again when it has ended.
            BuildFailedError: The build failed.
        """
        if not is_valid_ref(ref):
            raise ValueError(f"version {ref!r} can't be a git ref: expected letters, digits and . _ / - only")
        with open_session(self._build.host, self._build.ssh_conn_id) as session:
            builder = BuildHost(self._build, session)
            sha, version = builder.resolve(ref)
            stored = self._stored(sha)
            if stored is not None:
                self._record(stored)
                return stored
            result = self._built(builder, sha, version)
            try:
                release = release_from_result(result)
            except ValidationError as error:
                raise BuildFailedError(
                    f"the build of {version} ({sha[:12]}) gave no valid manifest: a migration needs a number and a "
                    f"line '-- phase: expand' or '-- phase: contract' ({error})"
                ) from error
            self._store(builder, release)
            return release

    def _stored(self, sha: str) -> Release | None:
        manifest = self._storage.get_json(manifest_key(sha))
        if manifest is None:
            return None
        try:
            release = Release.model_validate(manifest)
        except ValidationError as error:
            raise OutsideSystemError(
                f"{manifest_key(sha)} is no manifest of a release: delete it to have {sha[:12]} built anew ({error})",
                host="object storage",
            ) from error
        size = self._storage.size_bytes(artifact_key(sha))
        if size != release.size_bytes:
            raise OutsideSystemError(
                f"the artifact of {release.release_id} has {size} bytes, its manifest says {release.size_bytes}: "
                f"restore {artifact_key(sha)}, or delete {manifest_key(sha)} to have it built anew",
                host="object storage",
            )
        return release

    def _built(self, builder: BuildHost, sha: str, version: str) -> dict[str, Any]:
        builder.start(sha, version, release_id(version, sha))
        until = time.monotonic() + QUICK_BUILD_SECONDS
        while True:
            status = builder.status(sha)
            if status.state == "done" and status.result is not None:
                return status.result
            if status.state == "failed":
                raise BuildFailedError(f"the build of {version} ({sha[:12]}) failed:\n{status.log_tail}")
            if time.monotonic() >= until:
                raise BuildRunning(self._build, sha, self._ledger, self._holder)
            time.sleep(POLL_INTERVAL_SECONDS / 2)

    def _store(self, builder: BuildHost, release: Release) -> None:
        key = artifact_key(release.sha)
        if self._storage.size_bytes(key) != release.size_bytes:
            builder.upload(release.sha, self._storage.transfer_source(key, "put_object"))
        size = self._storage.size_bytes(key)
        if size != release.size_bytes:
            raise OutsideSystemError(
                f"{key} has {size} bytes after the upload, expected {release.size_bytes}", host="object storage"
            )
        # The manifest is written last: only with it does the release exist.
        manifest = release.model_dump_json(indent=2).encode()
        self._storage.put_bytes(manifest_key(release.sha), manifest, "application/json")
        self._record(release)

    def _record(self, release: Release) -> None:
        self._ledger.releases.record(
            ReleaseRecord(
                release_id=release.release_id,
                version=release.version,
                sha=release.sha,
                artifact_key=artifact_key(release.sha),
                artifact_sha256=release.sha256,
                size_bytes=release.size_bytes,
                node_version=release.node_version,
                schema_revision=str(release.schema_revision),
                expand_only=release.expand_only,
                built_at=datetime.now(UTC),
                built_by=self._holder,
                manifest=release.model_dump(mode="json"),
            )
        )
