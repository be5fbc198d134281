"""What a pipeline attests of a commit, signed: the gates that only CI can know. Pure.

The document lies beside the artifact. It is signed with HMAC-SHA-256 (RFC 2104, FIPS 180-4) over its exact bytes, with
a key that CI and Airflow share; it counts for one commit, and for a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sebenza_ops.deployment.release import SHA_PATTERN

ALGORITHM = "hmac-sha256"
# RFC 2104, 3: keys shorter than the hash's output weaken it.
MINIMUM_KEY_BYTES = 32
# A few gates and names; more is no attestation.
MAXIMUM_BYTES = 64 * 1024
# Clocks of a pipeline and of a worker differ.
CLOCK_SKEW = timedelta(minutes=2)

AttestedGateName = Literal["review_approved", "tests_passed", "security_scan", "performance_benchmark"]
Text = Annotated[str, Field(max_length=1000)]
Person = Annotated[str, Field(min_length=1, max_length=200)]


class AttestationRefused(Exception):
    """There is an attestation, and it does not count; the message says why."""


class UnsignedAttestation(AttestationRefused):
    """Its signature is missing or is not of our key: it was not made by our pipeline, or changed since."""


class OtherCommitAttested(AttestationRefused):
    """It is about another commit."""


class AttestationExpired(AttestationRefused):
    """Its time is over, or has not begun."""


class MalformedAttestation(AttestationRefused):
    """It is signed by us and says something that can't be understood."""


class AttestedGate(BaseModel):
    """What the pipeline found at one gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["pass", "fail", "no_data"]
    detail: Text = ""
    url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=1000)] | None = None


class Pipeline(BaseModel):
    """The run of the pipeline that attests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=200)]
    url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=1000)] | None = None


class Attestation(BaseModel):
    """What a pipeline says of one commit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    sha: Annotated[str, Field(pattern=SHA_PATTERN)]
    version: Annotated[str, Field(max_length=200)] = ""
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    pipeline: Pipeline
    requested_by: Person | None = None
    author: Person
    committer: Person | None = None
    reviewers: tuple[Person, ...] = ()
    gates: dict[AttestedGateName, AttestedGate] = {}


def sign(attestation: Attestation, key: str) -> bytes:
    """The signed document as it is stored: JSON with `algorithm`, `payload` (base64) and `signature` (hex).

    Raises ValueError for a key that is too short.
    """
    payload = json.dumps(attestation.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
    envelope = {
        "algorithm": ALGORITHM,
        "payload": base64.b64encode(payload).decode(),
        "signature": _signature(payload, key),
    }
    return json.dumps(envelope, indent=1).encode()


def verify(document: bytes, key: str, sha: str, now: datetime) -> Attestation:
    """The attestation in a stored document, if it counts for this commit at this time.

    Raises:
        ValueError: The key is too short.
        UnsignedAttestation: It is not signed with the key.
        OtherCommitAttested: It is about another commit.
        AttestationExpired: Its time is over, or has not begun.
        MalformedAttestation: It is signed, and not an attestation.
    """
    payload = _signed_payload(document, key)
    try:
        attestation = Attestation.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise MalformedAttestation(f"the attestation is no attestation: {place}: {first['msg']}") from error
    if attestation.sha != sha:
        raise OtherCommitAttested(f"the attestation is about commit {attestation.sha[:12]}, not {sha[:12]}")
    if now >= attestation.expires_at:
        raise AttestationExpired(
            f"the attestation has expired at {attestation.expires_at.isoformat(timespec='seconds')}: "
            "run the pipeline again"
        )
    if attestation.issued_at > now + CLOCK_SKEW:
        raise AttestationExpired(
            f"the attestation begins at {attestation.issued_at.isoformat(timespec='seconds')}: a clock is wrong"
        )
    return attestation


def _signed_payload(document: bytes, key: str) -> bytes:
    if len(document) > MAXIMUM_BYTES:
        raise UnsignedAttestation(f"the attestation has {len(document)} bytes, {MAXIMUM_BYTES} are allowed")
    try:
        envelope = json.loads(document)
        algorithm, signature = str(envelope["algorithm"]), str(envelope["signature"])
        payload = base64.b64decode(str(envelope["payload"]), validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise UnsignedAttestation(f"the attestation is no signed document ({type(error).__name__})") from error
    if algorithm != ALGORITHM:
        raise UnsignedAttestation(f"the attestation is signed with {algorithm[:40]!r}, expected {ALGORITHM}")
    if not hmac.compare_digest(_signature(payload, key).encode(), signature.encode()):
        raise UnsignedAttestation(
            "the attestation's signature is not of our key: it was changed, or somebody else made it"
        )
    return payload


def _signature(payload: bytes, key: str) -> str:
    if len(key.encode()) < MINIMUM_KEY_BYTES:
        raise ValueError(f"the attestation's key has fewer than {MINIMUM_KEY_BYTES} bytes")
    return hmac.new(key.encode(), payload, hashlib.sha256).hexdigest()
