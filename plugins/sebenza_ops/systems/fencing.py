"""Fencing tokens on the hosts themselves: the highest one that each host and load balancer has seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import Fence, HostSession, on_hosts


@dataclass(frozen=True)
class SeenToken:
    """The highest fencing token that a host has seen, and whose it was."""

    token: int
    holder: str = ""
    since: str = ""


def parse_seen_token(host: str, text: str) -> SeenToken:
    """A fence file's line, "TOKEN HOLDER SINCE". Raises NoDataError for anything else."""
    words = text.split()
    if not words or not (words[0].isascii() and words[0].isdigit()):
        raise NoDataError(f"unreadable fence file {text.strip()!r}", host=host)
    return SeenToken(int(words[0]), *words[1:3])


def changed_hosts(environment: Environment) -> tuple[Host, ...]:
    """The hosts that a change of this environment may touch: its load balancers and its application hosts."""
    return tuple(
        host
        for host in environment.active_hosts
        if not host.spare and {"load_balancer", "application"} & {str(role) for role in host.roles}
    )


def read_tokens(environment: Environment, hosts: Iterable[Host]) -> dict[str, SeenToken | OutsideSystemError]:
    """The token that each host has seen, or why it can't be told, by the host's name."""

    def read(session: HostSession) -> SeenToken:
        state_dir = session.host.path(environment.application.state_dir)
        text = session.run_script("fence_read", [state_dir, environment.name], timeout_seconds=10).stdout
        return parse_seen_token(session.host.name, text)

    return on_hosts(hosts, environment.ssh_conn_id, read)


def raise_tokens(
    environment: Environment, hosts: Iterable[Host], fence: Fence
) -> dict[str, SeenToken | OutsideSystemError]:
    """Make each host refuse tokens lower than the fence's from now on. Returns what each has then seen."""

    def raise_(session: HostSession) -> SeenToken:
        state_dir = session.host.path(environment.application.state_dir)
        text = session.run_script("fence_raise", fence.arguments(state_dir), timeout_seconds=30).stdout
        return parse_seen_token(session.host.name, text)

    return on_hosts(hosts, environment.ssh_conn_id, raise_)
