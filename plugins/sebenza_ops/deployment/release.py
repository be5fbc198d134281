"""Releases: what the build leaves in object storage, and under which keys."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# git-check-ref-format(1), narrowed: what a tag, branch or commit of ours may look like. No leading dash, no "..".
REF_PATTERN = r"(?!.*\.\.)(?!.*//)[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(?<![./])"
SHA_PATTERN = r"^[0-9a-f]{40}$"
# The name of a directory on every host, and a string in PM2's file: nothing that JavaScript or a shell could read.
RELEASE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"


class Migration(BaseModel):
    """One schema migration of a release. `phase` is "expand" (old releases still work) or "contract"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    name: str
    phase: Literal["expand", "contract"]


class Release(BaseModel):
    """An immutable artifact and its manifest: what is deployed, and how it is recognized."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    sha: str = Field(pattern=SHA_PATTERN)
    release_id: str = Field(pattern=RELEASE_ID_PATTERN)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    node_version: str
    schema_revision: int
    migrations: tuple[Migration, ...] = ()
    expand_only: bool = True


def release_id(version: str, sha: str) -> str:
    """The release's name on hosts and in headers: the version and the commit's first twelve digits."""
    # A tag may hold whatever git lets it, "+" and "$" among them.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", version)[:160].lstrip("._-") or "release"
    return f"{name}-{sha[:12]}"


def artifact_key(sha: str) -> str:
    """Where a commit's artifact lies in object storage."""
    return f"releases/{sha}/artifact.tar.gz"


def manifest_key(sha: str) -> str:
    """Where a commit's manifest lies. It is written last: an artifact without it does not exist."""
    return f"releases/{sha}/manifest.json"


def attestation_key(sha: str) -> str:
    """Where a pipeline's signed attestation of a commit lies in object storage."""
    return f"releases/{sha}/attestation.json"


def is_valid_ref(ref: str) -> bool:
    """Whether a text may be looked up as a git ref at all."""
    return re.fullmatch(REF_PATTERN, ref) is not None


def release_from_result(result: dict[str, object]) -> Release:
    """The manifest of a finished build. `expand_only` is whether none of its migrations is a contract migration."""
    release = Release.model_validate(result)
    return release.model_copy(update={"expand_only": all(m.phase == "expand" for m in release.migrations)})
