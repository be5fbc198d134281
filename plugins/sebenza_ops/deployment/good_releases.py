"""Which releases were verified, as the hosts themselves know it: for a rollback while the ledger is down.

Beside `last-good-release` every host keeps `good-releases`, one line: the releases that were verified here, the newest
first. A release that is left because it was bad is taken off the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Host
from sebenza_ops.systems.application_hosts import ApplicationHost, ApplicationHostState
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts

GOOD_RELEASES, LAST_GOOD_RELEASE = "good-releases", "last-good-release"
# As many as a host keeps releases (issue 3: keep 5), and some that a rollback would install anew.
KEPT = 10


def with_newest(known: Sequence[str], release_id: str) -> list[str]:
    """The line after a release was verified: it comes first, and once."""
    return [release_id, *(name for name in known if name != release_id)][:KEPT]


def good_on_hosts(states: Mapping[str, ApplicationHostState | OutsideSystemError]) -> list[str]:
    """The releases that every host that answers calls good, the newest first.

    A host without a line knows nothing, and is not counted. Where none has a line, it is the last good release, if all
    hosts have the same.
    """
    known = [state for state in states.values() if isinstance(state, ApplicationHostState)]
    lines = [state.good_releases for state in known if state.good_releases]
    if lines:
        return [name for name in lines[0] if all(name in line for line in lines[1:])]
    last = {state.last_good_release for state in known if state.last_good_release}
    return [last.pop()] if len(last) == 1 else []


def remember_good(host: ApplicationHost, run: ChangeRun, release_id: str) -> None:
    """Put a verified release first on a host's line; call it before `last-good-release` is written anew."""
    known = _read(host, GOOD_RELEASES) or _read(host, LAST_GOOD_RELEASE)
    host.write_marker(run.fence, GOOD_RELEASES, " ".join(with_newest(known, release_id)))


def forget_good(run: ChangeRun, hosts: Iterable[Host], release_id: str) -> None:
    """Take a release that was left off the hosts' lines. A host that can't be told is said so, and stops nothing.

    Raises FencedOffError: a later change holds the environment.
    """

    def forget(session: HostSession) -> None:
        host = ApplicationHost(run.environment, session)
        known = _read(host, GOOD_RELEASES)
        if release_id in known:
            host.write_marker(run.fence, GOOD_RELEASES, " ".join(name for name in known if name != release_id))

    for name, error in on_hosts(hosts, run.environment.ssh_conn_id, forget).items():
        if isinstance(error, FencedOffError):
            raise error
        if error is not None:
            run.note(f"it still calls {release_id} good: {error}", "warning", host=name)


def _read(host: ApplicationHost, marker: str) -> list[str]:
    return (host.read_marker(marker) or "").split()
