"""HAProxy: what it does now (map, counters, servers), and which color gets new requests.

Traffic is switched by one atomic command of the runtime API, `set map`, on a map whose value is the backend's name
(measured: 0 failed and 0 misrouted requests). Counters are those of `show stat`
(HAProxy Management Guide, 9.1 "CSV format").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sebenza_ops.environments.models import Color, Environment, Host
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import Fence, HostSession

MISSING = "!missing"


@dataclass(frozen=True)
class ServerState:
    """A server of a backend as the load balancer sees it. `is_up` is False for anything but UP."""

    name: str
    status: str
    sessions_current: int
    requests_total: int = 0
    responses_5xx: int = 0
    responses_total: int | None = None

    @property
    def is_up(self) -> bool:
        """Whether the server passes its health checks ("UP", or "UP 1/2" on its way down)."""
        return self.status.startswith("UP")

    @property
    def is_out_on_purpose(self) -> bool:
        """Whether people or a procedure took the server out of rotation ("MAINT", "MAINT (via x)", "DRAIN")."""
        return self.status.startswith(("MAINT", "DRAIN"))

    @property
    def is_drained(self) -> bool:
        """Whether it passes its health checks and gets no new requests ("DRAIN"); DOWN while the checks fail."""
        return self.status.startswith("DRAIN")


@dataclass(frozen=True)
class BackendState:
    """A backend's counters since the load balancer's start, and its servers.

    `requests_total` counts requests as they begin; `responses_total` (None: not counted) and `responses_5xx` count
    answers.
    """

    name: str
    requests_total: int
    responses_5xx: int
    sessions_current: int
    queue_current: int
    response_time_ms: int
    servers: tuple[ServerState, ...] = ()
    responses_total: int | None = None

    @property
    def servers_up(self) -> int:
        """How many servers pass their health checks."""
        return sum(server.is_up for server in self.servers)

    def named(self, names: Collection[str]) -> tuple[ServerState, ...]:
        """The servers with these names."""
        return tuple(server for server in self.servers if server.name in names)


@dataclass(frozen=True)
class LoadBalancerState:
    """One load balancer at one moment.

    `runtime_backend` is what the running HAProxy does with new requests; `file_backend` and `marker` are what its
    files say (None where there is no such file or line).
    """

    host: str
    at: datetime
    runtime_backend: str | None
    file_backend: str | None
    marker: str | None
    backends: dict[str, BackendState] = field(default_factory=dict)
    uptime_seconds: int = 0
    process_id: int = 0
    version: str = ""

    def backend(self, name: str) -> BackendState:
        """The backend's state. Raises NoDataError when HAProxy does not have it."""
        try:
            return self.backends[name]
        except KeyError:
            raise NoDataError(f"HAProxy reports no backend {name}", host=self.host) from None


def parse_sections(text: str) -> dict[str, str]:
    """The parts of a host script's output that begin with a line "== name"."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("== "):
            current = sections.setdefault(line[3:].strip(), [])
        else:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in sections.items()}


def parse_map_value(text: str, key: str) -> str | None:
    """The value of `key` in a map: the lines of a file ("key value") or of `show map` ("0x… key value")."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith("0x"):
            words = words[1:]
        if len(words) == 2 and words[0] == key:
            return words[1]
    return None


def parse_stat(text: str) -> dict[str, BackendState]:
    """The backends of `show stat`, with their servers. Empty when the text is no such answer, or is cut off."""
    rows = list(csv.DictReader(io.StringIO(text.lstrip("# "))))
    # A row without its last columns would read as zero sessions and zero errors.
    if any(None in row.values() for row in rows):
        return {}
    servers: dict[str, list[ServerState]] = {}
    for row in rows:
        if row.get("type") == "2":
            state = ServerState(
                name=row["svname"],
                status=row["status"],
                sessions_current=_number(row, "scur"),
                requests_total=_number(row, "stot"),
                responses_5xx=_number(row, "hrsp_5xx"),
                responses_total=_responses(row),
            )
            servers.setdefault(row["pxname"], []).append(state)
    return {
        row["pxname"]: BackendState(
            name=row["pxname"],
            requests_total=_number(row, "stot"),
            responses_5xx=_number(row, "hrsp_5xx"),
            sessions_current=_number(row, "scur"),
            queue_current=_number(row, "qcur"),
            response_time_ms=_number(row, "rtime"),
            servers=tuple(servers.get(row["pxname"], ())),
            responses_total=_responses(row),
        )
        for row in rows
        if row.get("type") == "1"
    }


def _number(row: dict[str, str], column: str) -> int:
    value = row.get(column) or "0"
    return int(value) if value.lstrip("-").isdigit() else 0


def _responses(row: dict[str, str]) -> int | None:
    """All answers, whatever their status; None where HAProxy counts none (mode tcp leaves the columns empty)."""
    columns = [f"hrsp_{kind}" for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")]
    return sum(_number(row, column) for column in columns) if any(row.get(column) for column in columns) else None


def parse_state(host: str, text: str, key: str, at: datetime) -> LoadBalancerState:
    """A load balancer's state from the output of include/hosts/lb_state.sh.

    Raises NoDataError when HAProxy's answer can't be read.
    """
    sections = parse_sections(text)
    backends = parse_stat(sections.get("stat", ""))
    if not backends:
        raise NoDataError(
            "HAProxy's admin socket gave no statistics: does HAProxy run, may the login use it?", host=host
        )
    info = dict(line.split(": ", 1) for line in sections.get("info", "").splitlines() if ": " in line)
    marker = sections.get("marker", MISSING)
    file_text = sections.get("file", MISSING)
    return LoadBalancerState(
        host=host,
        at=at,
        runtime_backend=parse_map_value(sections.get("map", ""), key),
        file_backend=None if file_text == MISSING else parse_map_value(file_text, key),
        marker=None if marker == MISSING else marker,
        backends=backends,
        uptime_seconds=int(info.get("Uptime_sec", "0") or 0),
        process_id=int(info.get("Pid", "0") or 0),
        version=info.get("Version", ""),
    )


class LoadBalancer:
    """One HAProxy of an environment, over an SSH session.

    Args:
        environment: The inventory's environment.
        session: A session to one of its load balancers.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        self.environment = environment
        self.session = session
        host: Host = session.host
        balancing = environment.load_balancing
        application = environment.application
        self._socket = host.path(balancing.admin_socket)
        self._map_file = host.path(balancing.map_file)
        self._key = balancing.map_key
        self._marker_file = host.path(f"{application.marker_dir}/current-color")
        self._state_dir = host.path(application.state_dir)

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.session.host.name

    def backend_of(self, color: Color) -> str:
        """The name of the color's backend."""
        return self.environment.application.colors[color].backend

    def state(self, timeout_seconds: float = 10.0) -> LoadBalancerState:
        """What it does now. Raises NoDataError, HostUnreachableError."""
        arguments = [self._socket, self._map_file, self._marker_file]
        result = self.session.run_script("lb_state", arguments, timeout_seconds=timeout_seconds, check=False)
        return parse_state(self.name, result.stdout, self._key, datetime.now(UTC))

    def switch(self, color: Color, fence: Fence, timeout_seconds: float = 25.0) -> None:
        """Send all new requests to `color`, in the running process only, verified by reading back.

        Raises:
            FencedOffError: A later change holds the environment.
            OutsideSystemError: HAProxy refused, or says something else afterwards.
        """
        backend = self.backend_of(color)
        arguments = [*fence.arguments(self._state_dir), self._socket, self._map_file, self._key, backend]
        result = self.session.run_script("lb_switch", arguments, timeout_seconds=timeout_seconds)
        if result.stdout.strip() != backend:
            raise OutsideSystemError(f"HAProxy's map says {result.stdout.strip()!r}, not {backend}", host=self.name)

    def persist(self, color: Color, fence: Fence) -> None:
        """Write the map file and the marker, atomically, so that `color` survives a reload and a restart.

        The running process goes first and the file follows: a file ahead of it would switch at the next reload.
        """
        arguments = [
            *fence.arguments(self._state_dir),
            self._socket,
            self._map_file,
            self._key,
            self.backend_of(color),
            self._marker_file,
            color.value,
        ]
        self.session.run_script("lb_persist", arguments)

    def rotate(self, color: Color, servers: Sequence[str], *, in_rotation: bool, minimum: int, fence: Fence) -> None:
        """Put servers of a color into rotation, or drain them, in the running process only, verified by reading back.

        A drain that would leave fewer than `minimum` other servers in rotation is refused by the same command, and so
        is a server in maintenance, which people took out.

        Raises:
            FencedOffError: A later change holds the environment.
            OutsideSystemError: It was refused; what is in rotation has not changed, or not for all servers.
        """
        state = "ready" if in_rotation else "drain"
        arguments = [
            *fence.arguments(self._state_dir),
            self._socket,
            self.backend_of(color),
            state,
            str(minimum),
            *servers,
        ]
        self.session.run_script("lb_server", arguments, timeout_seconds=25.0)

    def probe(self, urls: Sequence[str], timeout_seconds: float = 3.0) -> dict[str, tuple[int, str]]:
        """Ask URLs from this host. Returns (HTTP status, body) by URL; status 0 where nobody answered."""
        return parse_probe(self.probe_text(urls, timeout_seconds))

    def probe_text(self, urls: Sequence[str], timeout_seconds: float = 3.0) -> str:
        """Ask URLs from this host. Returns the script's own words, as the waits judge them."""
        arguments = [f"{timeout_seconds:g}", self.environment.public_hostname, *urls]
        return self.session.run_script("lb_probe", arguments, timeout_seconds=timeout_seconds + 10).stdout

    def warm_up(self, urls: Sequence[str], requests_each: int) -> tuple[int, int]:
        """Ask every URL `requests_each` times from this host. Returns how many answered below 500, and how many not."""
        arguments = [str(requests_each), self.environment.public_hostname, *urls]
        result = self.session.run_script("lb_warm", arguments, timeout_seconds=60)
        answered, failed = result.stdout.split()
        return int(answered), int(failed)


def parse_probe(text: str) -> dict[str, tuple[int, str]]:
    """(HTTP status, body) by URL, from the output of include/hosts/lb_probe.sh. A line that is cut off is no answer."""
    from base64 import b64decode

    answers: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        url, _, rest = line.partition(" ")
        code, _, body = rest.partition(" ")
        try:
            answers[url] = (int(code), b64decode(body, validate=True).decode(errors="replace"))
        except ValueError:
            continue
    return answers
