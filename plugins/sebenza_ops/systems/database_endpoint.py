"""The stable address of the database: HAProxy in TCP mode, one server for each database host.

Its check passes on the primary only, so that it follows the primary by itself; a procedure holds clients back here, and
takes a former primary away (include/hosts/database-endpoint.cfg.j2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.ssh import Fence, HostSession


@dataclass(frozen=True)
class EndpointServer:
    """A database server as the endpoint sees it.

    Attributes:
        is_up: Its check passes: it is a primary.
        is_away: It is in maintenance: no client gets there, whatever it is.
        sessions: Clients that are connected to it.
        since_seconds: For how long it has been as it is.
    """

    name: str
    is_up: bool
    is_away: bool
    sessions: int
    since_seconds: int


@dataclass(frozen=True)
class EndpointState:
    """One endpoint host at one moment; the servers in `stays_away` are in maintenance after its next start too."""

    host: str
    servers: Mapping[str, EndpointServer] = field(default_factory=dict)
    paused_until: int = 0
    stays_away: frozenset[str] = frozenset()
    now_milliseconds: int = 0

    @property
    def leads_to(self) -> tuple[str, ...]:
        """The servers that clients may get; one, unless something is wrong."""
        return tuple(server.name for server in self.servers.values() if server.is_up and not server.is_away)

    @property
    def is_paused(self) -> bool:
        """Whether new connections wait."""
        return self.paused_until * 1000 > self.now_milliseconds


def parse_endpoint_state(text: str, host: str) -> EndpointState:
    """The output of include/hosts/endpoint_state.sh. Raises NoDataError when it is none."""
    parts: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("== "):
            parts[line[3:]] = []
        elif parts and line:
            parts[next(reversed(parts))].append(line)
    try:
        counters = {row.split(",")[0]: row.split(",") for row in parts["stat"]}
        servers = {}
        for row in parts["servers"]:
            name, operational, administrative = row.split()
            servers[name] = EndpointServer(
                name=name,
                # HAProxy Management Guide, 9.3, "show servers state": 2 is up; 1 is forced maintenance.
                is_up=operational == "2",
                is_away=bool(int(administrative) & 1),
                sessions=int(counters[name][1] or 0),
                since_seconds=int(counters[name][3] or 0),
            )
        if not servers:
            raise ValueError("it names no server")
        pairs = [row.split() for row in parts["file"] if not row.startswith("!")]
        return EndpointState(
            host=host,
            servers=servers,
            paused_until=int(parts["pause"][0]),
            stays_away=frozenset(name for name, administrative in pairs if int(administrative) & 1),
            now_milliseconds=int(parts["now"][0]),
        )
    except (IndexError, KeyError, ValueError) as error:
        raise NoDataError(
            f"where the database's endpoint leads can't be read ({error}): {text[:300]!r}", host=host
        ) from error


class DatabaseEndpoint:
    """The endpoint on one of its hosts.

    Args:
        environment: The environment.
        session: A session of the host.

    Every method may raise HostUnreachableError and RemoteCommandError; those that change something also FencedOffError.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        self._session = session
        proxy, host = environment.database.proxy, session.host
        self._proxy, self._socket = proxy.name, host.path(proxy.admin_socket)
        self._map, self._file = host.path(proxy.pause_map), host.path(proxy.state_file)
        self._state_dir = host.path(environment.application.state_dir)

    def state(self) -> EndpointState:
        """Where it leads now. Raises NoDataError."""
        arguments = [self._socket, self._proxy, self._map, self._file]
        result = self._session.run_script("endpoint_state", arguments, timeout_seconds=15)
        return parse_endpoint_state(result.stdout, self._session.host.name)

    def pause(self, fence: Fence, seconds: int) -> int:
        """Let new connections wait for so long at most; 0 lets them go on. Returns the host's time in milliseconds."""
        arguments = [*fence.arguments(self._state_dir), self._socket, self._map, str(seconds)]
        return int(self._session.run_script("endpoint_pause", arguments).stdout.strip())

    def lead(self, fence: Fence, old: str, new: str) -> int:
        """Lead clients to the new primary at once, and none to the old one; those that wait go on.

        Returns the host's time in milliseconds.
        """
        place = [self._socket, self._proxy, self._file, self._map, old, new]
        result = self._session.run_script("endpoint_lead", [*fence.arguments(self._state_dir), *place])
        return int(result.stdout.strip())

    def take_away(self, fence: Fence, server: str) -> None:
        """No client gets to this server any more, over restarts too; sessions there are ended."""
        self._set(fence, server, "maint", "yes", "-")

    def give_back(self, fence: Fence, server: str, *, is_primary: bool = False) -> int:
        """Clients may get to this server while its check passes; at once when it is known to be the primary.

        Returns the host's time in milliseconds.
        """
        return self._set(fence, server, "ready", "no", "up" if is_primary else "down")

    def _set(self, fence: Fence, server: str, state: str, shut: str, health: str) -> int:
        place = [self._socket, self._proxy, self._file, server, state, shut, health]
        result = self._session.run_script("endpoint_server", [*fence.arguments(self._state_dir), *place])
        return int(result.stdout.strip())
