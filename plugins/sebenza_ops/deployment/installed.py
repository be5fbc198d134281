"""What the application hosts themselves know of the releases on them, for when nobody else does."""

from __future__ import annotations

import json

from pydantic import ValidationError

from sebenza_ops.deployment.builds import release_storage
from sebenza_ops.deployment.reconcile import ApplicationHostStates
from sebenza_ops.deployment.release import Release, manifest_key
from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.application_hosts import ApplicationHost, ApplicationHostState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts

# The archive's size is not written on the hosts. It serves the check for free disk only, before an installation.
UNKNOWN_SIZE_BYTES = 1


class InstalledReleases:
    """Releases on the application hosts.

    Args:
        environment: The environment.
        hosts: State of its application hosts, by name.
    """

    def __init__(self, environment: Environment, hosts: ApplicationHostStates) -> None:
        self._environment = environment
        self._hosts = {name: state for name, state in hosts.items() if isinstance(state, ApplicationHostState)}

    def find(self, name: str) -> Release | None:
        """A release by its id, or by its version when only one on the hosts has it; None when there is no such one."""
        known = {release_id for state in self._hosts.values() for release_id in state.releases}
        # A release id is the version and twelve digits of the commit.
        matching = [found for found in known if found == name or found.rpartition("-")[0] == name]
        if len(matching) != 1:
            return None
        for host, state in self._hosts.items():
            if matching[0] in state.releases:
                release = self._read(host, matching[0])
                if release is not None:
                    return release
        return None

    def _read(self, host_name: str, release_id: str) -> Release | None:
        environment = self._environment

        def read(session: HostSession) -> tuple[str | None, str | None]:
            host = ApplicationHost(environment, session)
            directory = host.release_dir(release_id)
            return host.read_file(f"{directory}/release.json"), host.read_file(f"{directory}/.artifact-sha256")

        answer = on_hosts([environment.host(host_name)], environment.ssh_conn_id, read)[host_name]
        if isinstance(answer, OutsideSystemError) or answer[0] is None or answer[1] is None:
            return None
        try:
            found = json.loads(answer[0])
            return self._manifest(str(found["sha"])) or Release.model_validate(
                {"node_version": "unknown", **found, "sha256": answer[1].strip(), "size_bytes": UNKNOWN_SIZE_BYTES}
            )
        except (ValueError, KeyError, TypeError):
            return None

    def _manifest(self, sha: str) -> Release | None:
        """The whole manifest, while object storage answers."""
        try:
            found = release_storage(self._environment).get_json(manifest_key(sha))
            return Release.model_validate(found) if found is not None else None
        except (OutsideSystemError, ValidationError):
            return None
