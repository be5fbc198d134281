"""Reading what the pipeline attests of a release, from beside its artifact."""

from __future__ import annotations

from datetime import UTC, datetime

from sebenza_ops.deployment.attestation import Attestation, AttestationRefused, verify
from sebenza_ops.deployment.builds import release_storage
from sebenza_ops.deployment.release import Release, attestation_key
from sebenza_ops.environments.models import Environment

__all__ = ["AttestationMissing", "AttestationRefused", "read_attestation"]


class AttestationMissing(Exception):
    """There is no attestation for the release, or no key to check it with: that is no data."""


def read_attestation(environment: Environment, release: Release, conn_id: str) -> Attestation:
    """What the pipeline attests of a release.

    Args:
        environment: The environment to deploy to.
        release: The release.
        conn_id: The Airflow connection whose password is the key.

    Raises:
        AttestationMissing: There is none, or no key.
        AttestationRefused: There is one, and it does not count.
        OutsideSystemError: Object storage does not answer.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        key = BaseHook.get_connection(conn_id).password or ""
    except AirflowNotFoundException as error:
        raise AttestationMissing(f"there is no connection {conn_id} with the key to check attestations with") from error
    document = release_storage(environment).get_bytes(attestation_key(release.sha))
    if document is None:
        raise AttestationMissing(f"no pipeline has attested {release.release_id}")
    try:
        return verify(document, key, release.sha, datetime.now(UTC))
    except ValueError as error:
        raise AttestationMissing(f"connection {conn_id}: {error}") from error
