"""Which installed releases an application host does not need any more. A pure rule."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def releases_to_prune(installed: Sequence[str], protected: Collection[str], keep: int) -> tuple[str, ...]:
    """The installed releases to remove, the newest first.

    Args:
        installed: What is installed, the newest first.
        protected: What runs, what is good, and what a rollback may need: never removed, and counted as kept.
        keep: So many stay, the protected ones first; more when more are protected.
    """
    unprotected = [release_id for release_id in installed if release_id not in protected]
    left = max(keep - (len(installed) - len(unprotected)), 0)
    return tuple(unprotected[left:])
