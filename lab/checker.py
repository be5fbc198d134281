"""An independent judge of an environment of the lab: who is live, who says so, and does it fit together.

What checks an outcome must not share the procedures' mistakes, so this module shares no code with them:
it asks HAProxy's sockets, the processes of the machine, files and the application itself, by the standard
library alone. `python -m lab.checker production` exits with 0 when nothing is wrong.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import pwd
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from lab import paths

BACKENDS: Final = {"bk_blue": "blue", "bk_green": "green"}
MAP_FILE: Final = "etc/haproxy/maps/color.map"
MAP_KEY: Final = "active"
# What the files and the runtime map are compared with, host by host.
MARKERS: Final = ("current-color", "last-good-release")
REQUESTS_PER_LOAD_BALANCER: Final = 10
ASK_TIMEOUT_SECONDS: Final = 10.0
PM2_TIMEOUT_SECONDS: Final = 30.0


@dataclass
class Verdict:
    """What the estate says of an environment, and what does not fit (`problems`, empty when all does)."""

    environment: str
    live_color_by_lb: dict[str, str | None] = field(default_factory=dict)  # None: unknown, or no color
    map_file_by_lb: dict[str, str | None] = field(default_factory=dict)
    marker_by_host: dict[str, str | None] = field(default_factory=dict)  # None: missing
    last_good_by_host: dict[str, str | None] = field(default_factory=dict)
    healthy_servers: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # lb → color → servers
    answers: dict[str, dict[str, int]] = field(default_factory=dict)  # lb → "color release" → fresh requests
    processes: dict[str, dict[str, int]] = field(default_factory=dict)  # host → color → application processes
    releases: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # host → color → what they run
    pm2: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # host → color → PM2's status of each
    problems: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether every load balancer sends traffic to the same color."""
        return len(set(self.live_color_by_lb.values())) == 1 and None not in self.live_color_by_lb.values()

    @property
    def live_color(self) -> str | None:
        """The one live color; None when there is not exactly one."""
        return next(iter(self.live_color_by_lb.values())) if self.agrees else None

    @property
    def exactly_one_live(self) -> bool:
        """All load balancers answered, agree, and the application that answers through them is that color."""
        colors = {answer.split(" ")[0] for answers in self.answers.values() for answer in answers}
        return self.agrees and colors == {self.live_color}

    @property
    def release(self) -> str | None:
        """The one release that answers through all load balancers; None when there is not exactly one."""
        releases = {answer.split(" ")[1] for answers in self.answers.values() for answer in answers}
        return releases.pop() if len(releases) == 1 else None

    @property
    def map_file_matches_runtime(self) -> bool:
        """Whether a restart of any load balancer would leave traffic where it is."""
        return self.map_file_by_lb == self.live_color_by_lb

    @property
    def marker(self) -> str | None:
        """The color that the markers of all hosts name; None when they differ or one is missing."""
        values = set(self.marker_by_host.values())
        return values.pop() if len(values) == 1 else None

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        derived = ("agrees", "live_color", "exactly_one_live", "release", "map_file_matches_runtime", "marker")
        return asdict(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True)
class Estate:
    """Where the hosts of one environment are; read from what `python -m lab up` wrote."""

    hostname: str
    ca_file: Path
    load_balancers: dict[str, tuple[str, int]]
    application_hosts: list[str]
    processes_per_host: int

    @staticmethod
    def read(environment: str) -> Estate:
        """Raises FileNotFoundError without a lab, KeyError for an environment that it does not have."""
        lab = json.loads(paths.LAB_FILE.read_text())
        known = lab["environments"][environment]
        inventory = yaml.safe_load((paths.ENVIRONMENTS_DIR / f"{environment}.yaml").read_text())
        balancers = {name: urlsplit(url) for name, url in known["load_balancers"].items()}
        return Estate(
            hostname=known["hostname"],
            ca_file=Path(lab["ca_file"]),
            load_balancers={name: (str(url.hostname), url.port or 443) for name, url in balancers.items()},
            application_hosts=known["application_hosts"],
            processes_per_host=inventory["application"]["processes_per_host"],
        )


def check(environment: str = "production") -> Verdict:
    """Look at everything and judge; takes about a second and changes nothing."""
    estate = Estate.read(environment)
    verdict = Verdict(environment)
    for name, endpoint in estate.load_balancers.items():
        _check_load_balancer(verdict, estate, name, endpoint)
    for host in estate.application_hosts:
        _check_processes(verdict, host)
    for host in {*estate.load_balancers, *estate.application_hosts}:
        verdict.marker_by_host[host], verdict.last_good_by_host[host] = (_marker(host, name) for name in MARKERS)
    _judge_color(verdict)
    _judge_markers(verdict)
    _judge_capacity(verdict, estate)
    return verdict


def _check_load_balancer(verdict: Verdict, estate: Estate, name: str, endpoint: tuple[str, int]) -> None:
    map_file = paths.host_root(name) / MAP_FILE
    verdict.map_file_by_lb[name] = _map_color(map_file.read_text().splitlines()) if map_file.exists() else None
    verdict.live_color_by_lb[name] = None
    try:
        # Each line: an address of the entry, then the line of the map.
        entries = [line.partition(" ")[2] for line in haproxy(name, f"show map {map_file}").splitlines()]
        verdict.live_color_by_lb[name] = _map_color(entries)
        verdict.healthy_servers[name] = _healthy_servers(haproxy(name, "show stat"))
    except OSError as error:
        verdict.problems.append(f"{name}: HAProxy's admin socket does not answer: {error}")
    answers: Counter[str] = Counter()
    for _ in range(REQUESTS_PER_LOAD_BALANCER):
        try:
            answers[fresh_request(endpoint, estate.hostname, estate.ca_file)] += 1
        except (OSError, http.client.HTTPException) as error:
            verdict.problems.append(f"{name}: a request through it failed: {error}")
            break
    verdict.answers[name] = dict(answers)


def haproxy(host: str, command: str) -> str:
    """The answer of a load balancer's admin socket. Raises OSError when it does not answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ASK_TIMEOUT_SECONDS)
        connection.connect(str(paths.host_root(host) / "run/haproxy/admin.sock"))
        connection.sendall(f"{command}\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode().strip()


def _map_color(lines: Iterable[str]) -> str | None:
    """The color of the map's one entry; None when there is none, more than one, or an unknown backend."""
    entries = [line.split() for line in lines if line.strip()]
    values = [entry[1] for entry in entries if len(entry) == 2 and entry[0] == MAP_KEY]
    return BACKENDS.get(values[0]) if len(values) == len(entries) == 1 else None


def _healthy_servers(stat: str) -> dict[str, list[str]]:
    healthy: dict[str, list[str]] = {color: [] for color in BACKENDS.values()}
    for row in csv.DictReader(stat.removeprefix("# ").splitlines()):
        color = BACKENDS.get(row["pxname"])
        if color and row["svname"] not in ("FRONTEND", "BACKEND") and row["status"].startswith("UP"):
            healthy[color].append(row["svname"])
    return healthy


def fresh_request(endpoint: tuple[str, int], hostname: str, ca_file: Path) -> str:
    """Color and release ("blue v1.0.0-...") that answer one request on a new connection, TLS verified.

    Raises OSError or HTTPException when the answer is not a good one of the application.
    """
    context = ssl.create_default_context(cafile=str(ca_file))
    with (
        socket.create_connection(endpoint, timeout=ASK_TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=hostname) as secured,
    ):
        connection = http.client.HTTPConnection(hostname)
        connection.sock = secured
        connection.request("GET", "/version", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise http.client.HTTPException(f"HTTP {response.status} {body[:100]!r}")
    claimed = json.loads(body)
    color, release = response.getheader("X-Color", ""), response.getheader("X-Release", "")
    if (color, release) != (claimed["color"], claimed["release_id"]):
        raise http.client.HTTPException(f"headers say {color} {release}, /version says {claimed}")
    return f"{color} {release}"


def _marker(host: str, name: str) -> str | None:
    try:
        return (paths.host_root(host) / "var/deployment" / name).read_text(errors="replace").strip()
    except OSError:
        return None


def _check_processes(verdict: Verdict, host: str) -> None:
    found = application_processes(host)
    verdict.processes[host] = {color: len(releases) for color, releases in found.items()}
    verdict.releases[host] = {color: sorted(set(releases)) for color, releases in found.items()}
    try:
        verdict.pm2[host] = pm2_statuses(host)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        verdict.problems.append(f"{host}: PM2 does not say what it runs: {error}")


def application_processes(host: str) -> dict[str, list[str]]:
    """The releases that a host's live application processes run, per color: from /proc, whatever PM2 thinks.

    A process belongs to the color of the application name that it was started with, and runs the release
    whose directory it is in.
    """
    root = paths.host_root(host).resolve()
    found: dict[str, list[str]] = {color: [] for color in BACKENDS.values()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            directory = (process / "cwd").readlink()
            if directory.parent != root / "srv/sebenza/releases":
                continue
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or a kernel thread
        # PM2 gives this to the processes it looks after; a migration or a seed does not have it.
        given = [value.partition(b"=")[2] for value in variables if value.startswith(b"pm2_env=")]
        if given:
            color = json.loads(given[0])["name"].removeprefix("sebenza-")
            found.setdefault(color, []).append(directory.name)
    return found


def pm2_statuses(host: str) -> dict[str, list[str]]:
    """What PM2 says of the processes of each color: "online", "errored", ... Nothing when its daemon is not there."""
    home = paths.host_root(host) / "home/sebenza/.pm2"
    with socket.socket(socket.AF_UNIX) as daemon:
        # Asked without a daemon, PM2 would start one.
        if daemon.connect_ex(str(home / "rpc.sock")) != 0:
            return {}
    node = paths.node_bin_dir() / "node"
    account = pwd.getpwnam("sebenza")
    listed = subprocess.run(
        [str(node), str(paths.PM2), "-s", "jlist"],
        env={"PM2_HOME": str(home), "HOME": str(home.parent), "PATH": f"{node.parent}:/usr/bin:/bin"},
        user=account.pw_uid,
        group=account.pw_gid,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PM2_TIMEOUT_SECONDS,
        check=True,
    )
    statuses: dict[str, list[str]] = {}
    for process in json.loads(listed.stdout or "[]"):
        color = process["name"].removeprefix("sebenza-")
        statuses.setdefault(color, []).append(process["pm2_env"]["status"])
    return statuses


def _judge_color(verdict: Verdict) -> None:
    for name, color in verdict.live_color_by_lb.items():
        if color is None:
            verdict.problems.append(f"{name}: no live color in its map")
        if verdict.map_file_by_lb[name] != color:
            verdict.problems.append(
                f"{name}: the map file says {verdict.map_file_by_lb[name]}, the running map {color}: "
                "a reload would move traffic"
            )
        for answer in verdict.answers.get(name, {}):
            if answer.split(" ")[0] != color:
                verdict.problems.append(f"{name}: its map says {color}, but {answer} answers")
    if not verdict.agrees:
        verdict.problems.append(f"the load balancers disagree: {verdict.live_color_by_lb}")
    if any(verdict.answers.values()) and verdict.release is None:
        verdict.problems.append(f"more than one release answers: {verdict.answers}")


def _judge_markers(verdict: Verdict) -> None:
    for host, marker in sorted(verdict.marker_by_host.items()):
        if marker != verdict.live_color:
            verdict.problems.append(f"{host}: its marker says {marker!r}, live is {verdict.live_color}")
    if len(set(verdict.last_good_by_host.values())) > 1:
        verdict.problems.append(f"hosts disagree on the last good release: {verdict.last_good_by_host}")


def _judge_capacity(verdict: Verdict, estate: Estate) -> None:
    live = verdict.live_color
    if live is None:
        return
    for name, healthy in verdict.healthy_servers.items():
        if missing := sorted(set(estate.application_hosts) - set(healthy[live])):
            verdict.problems.append(f"{name}: {', '.join(missing)} not healthy in the live color {live}")
    for host in estate.application_hosts:
        running = verdict.processes[host].get(live, 0)
        if running != estate.processes_per_host:
            verdict.problems.append(
                f"{host}: {running} processes of the live color {live}, {estate.processes_per_host} expected"
            )
        if verdict.release and verdict.releases[host].get(live) != [verdict.release]:
            verdict.problems.append(f"{host}: {live} runs {verdict.releases[host].get(live)}, not {verdict.release}")
        for color, statuses in verdict.pm2.get(host, {}).items():
            online, alive = statuses.count("online"), verdict.processes[host].get(color, 0)
            if online != alive:
                verdict.problems.append(f"{host}: PM2 says {online} of {color} are online, {alive} are alive")


def main() -> int:
    """Print the verdict of an environment; the exit code is 1 when there are problems."""
    parser = argparse.ArgumentParser(prog="python -m lab.checker", description=__doc__)
    parser.add_argument("environment", nargs="?", default="production")
    parser.add_argument("--json", action="store_true", help="print all that was seen as JSON")
    arguments = parser.parse_args()
    try:
        verdict = check(arguments.environment)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing: bring the lab up with `python -m lab up`")
    except KeyError as error:
        parser.error(f"the lab has no environment {error}")
    if arguments.json:
        print(json.dumps(verdict.as_json(), indent=1))
    else:
        print(f"{verdict.environment}: live {verdict.live_color}, release {verdict.release}")
        print("\n".join(verdict.problems) or "no problems")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
