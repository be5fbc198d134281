"""A pipeline's attestation for the lab: what CI would sign and upload for a commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from lab.inventory import storage_client
from lab.releases import resolve
from lab.secrets import lab_secrets
from sebenza_ops.deployment.attestation import Attestation, AttestedGate, AttestedGateName, Pipeline, sign
from sebenza_ops.deployment.release import attestation_key

BUCKET = "sebenza"


def attestation_of(sha: str, **changes: Any) -> Attestation:
    """An attestation of a commit in which everything is well, with these fields changed."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "sha": sha,
        "issued_at": now,
        "expires_at": now + timedelta(hours=12),
        "pipeline": Pipeline(id="lab", url="https://ci.example/pipelines/lab"),
        "author": "naledi",
        "reviewers": ("sipho",),
        "gates": {name: AttestedGate(verdict="pass", detail="by the lab") for name in get_args(AttestedGateName)},
    }
    return Attestation.model_validate(values | changes)


def attest(
    version: str,
    *,
    author: str = "naledi",
    reviewers: Sequence[str] = ("sipho",),
    requested_by: str | None = None,
    expires_in_seconds: float = 12 * 3600,
    failed: Iterable[str] = (),
) -> str:
    """Sign and upload what a pipeline would for a version of the sample application. Returns the commit's SHA."""
    sha = resolve(version)
    now, bad = datetime.now(UTC), set(failed)
    gates = {
        name: AttestedGate(verdict="fail" if name in bad else "pass", detail="by the lab")
        for name in get_args(AttestedGateName)
    }
    attestation = attestation_of(
        sha,
        version=version,
        author=author,
        reviewers=tuple(reviewers),
        requested_by=requested_by,
        issued_at=min(now, now + timedelta(seconds=expires_in_seconds)),
        expires_at=now + timedelta(seconds=expires_in_seconds),
        gates=gates,
    )
    put(sha, sign(attestation, lab_secrets().attestation_key))
    return sha


def put(sha: str, document: bytes) -> None:
    """Store a document as a commit's attestation, whatever it is."""
    storage_client().put_object(Bucket=BUCKET, Key=attestation_key(sha), Body=document)


def remove(sha: str) -> None:
    """Remove a commit's attestation."""
    storage_client().delete_object(Bucket=BUCKET, Key=attestation_key(sha))
