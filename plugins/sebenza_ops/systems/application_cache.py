"""The application's cache, reached through the application hosts, which know the way to it."""

from __future__ import annotations

from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.ssh import Fence

TIMEOUT_SECONDS = 300.0


def forget_cached_rows(host: ApplicationHost, fence: Fence, pattern: str) -> int:
    """Remove all keys that match a glob pattern, in batches. Returns how many there were.

    Raises RemoteCommandError with the cache's own words when it can't be reached, or refuses.
    """
    environment = host.environment
    url = resolve_secrets(environment).cache_url.get_secret_value()
    arguments = [*host.fenced(fence), environment.application.node_bin_dir, pattern]
    result = host.session.run_script("cache_forget", arguments, stdin=f"{url}\n", timeout_seconds=TIMEOUT_SECONDS)
    said = result.stdout.strip()
    if not said.isdigit():
        raise NoDataError(f"how many keys were removed can't be read: {said[:200]!r}", host=host.name)
    return int(said)
