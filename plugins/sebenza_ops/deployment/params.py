"""Parameters that deployment procedures share, and the checks that a form's schema can't make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from sebenza_ops.deployment.release import is_valid_ref
from sebenza_ops.procedures import reason_param

# The form's own check; `is_valid_ref` is stricter. Browsers and Airflow both read this one. To Python alone a `$` is
# also before a last line feed.
VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$(?!\n)"
TARGET_PATTERN = r"^$(?!\n)|^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$(?!\n)"
MOMENT_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,15}(Z|[+-][0-9]{2}:?[0-9]{2})?$(?!\n)"


def version_param() -> Param:
    """The release to deploy or build."""
    return Param(
        type="string",
        pattern=VERSION_PATTERN,
        description="A tag, branch or commit of the application's repository, for example v1.1.0.",
    )


def policy_override_param(what: str, minimum: int, maximum: int) -> Param:
    """A whole number that replaces one of the environment's policy, for this run; empty: the policy's own."""
    return Param(
        None,
        type=["null", "integer"],
        minimum=minimum,
        maximum=maximum,
        description=f"{what}, in place of the environment's policy.",
    )


def force_reason_param() -> Param:
    """Why a release that was marked bad is deployed again; empty: it is not."""
    return reason_param("Why a release that is marked bad here is deployed all the same.")


def cure_reason_param() -> Param:
    """Why this release is the cure of an environment that is unwell already; empty: then nothing is moved."""
    return reason_param(
        "Why this release is the cure, when the environment is unwell before the change: it is refused otherwise."
    )


def check_deployment_params(params: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, for what the form's schema does not catch."""
    version = str(params.get("version", ""))
    if not is_valid_ref(version):
        raise ValueError(f"version: {version!r} can't be a git ref: expected letters, digits and . _ / - only")
