"""Real name servers of these tests: one that takes updates, one that copies its zone, and a resolver with a cache."""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.waiting import scaled
from sebenza_ops.environments.models import Dns
from tests.systems.processes import LOOPBACK, accepts, free_port, server

# No name of the reserved ones: resolvers answer those themselves.
ZONE = "sebenza.net"
NAME = f"app.{ZONE}"
OTHER_NAME = f"other.{ZONE}"
FIRST = ("192.0.2.11", "192.0.2.12")
TTL_SECONDS = 2
KEY = "updater"
#: A key that the server knows, and that may change nothing.
KEY_WITHOUT_RIGHTS = "reader"

_ZONE_FILE = """\
$TTL {ttl}
@ SOA ns.{zone}. ops.{zone}. 1 3600 600 86400 1
@ NS ns.{zone}.
ns A 127.0.0.1
app A 192.0.2.11
app A 192.0.2.12
other A 192.0.2.99
"""

_KNOT = """\
server:
    listen: {listen}
    rundir: {directory}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: {directory}
key:
  - id: updater
    algorithm: hmac-sha256
    secret: {updater}
  - id: reader
    algorithm: hmac-sha256
    secret: {reader}
"""

_PRIMARY = """\
remote:
  - id: copy
    address: {copy}
acl:
  - id: update
    key: updater
    action: update
    update-type: A
    update-owner: name
    update-owner-match: equal
    update-owner-name: [{name}.]
  - id: transfer
    address: 127.0.0.1
    action: transfer
zone:
  - domain: {zone}
    storage: {directory}
    file: zone
    zonefile-sync: 0
    acl: [update, transfer]
    notify: copy
"""

_COPY = """\
remote:
  - id: primary
    address: {primary}
acl:
  - id: notify
    address: 127.0.0.1
    action: notify
zone:
  - domain: {zone}
    storage: {directory}
    master: primary
    acl: notify
"""

_UNBOUND = """\
server:
    interface: 127.0.0.1@{port}
    do-daemonize: no
    use-syslog: no
    logfile: ""
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    num-threads: 1
    do-ip6: no
    do-not-query-localhost: no
    module-config: "iterator"
    cache-max-negative-ttl: 1
remote-control:
    control-enable: no
stub-zone:
    name: "{zone}"
    stub-addr: 127.0.0.1@{primary_port}
"""


@dataclass
class NameServers:
    """Where they listen, and their keys."""

    directory: Path
    primary_port: int = field(default_factory=free_port)
    copy_port: int = field(default_factory=free_port)
    resolver_port: int = field(default_factory=free_port)
    keys: dict[str, str] = field(
        default_factory=lambda: {
            name: base64.b64encode(secrets.token_bytes(32)).decode() for name in (KEY, KEY_WITHOUT_RIGHTS)
        }
    )

    def dns(self, **changes: object) -> Dns:
        """The inventory's part that names these servers."""
        known: dict[str, object] = {
            "backend": "rfc2136",
            "conn_id": "dns_test",
            "zone": ZONE,
            "names": (NAME,),
            "servers": (f"{LOOPBACK}:{self.primary_port}", f"{LOOPBACK}:{self.copy_port}"),
            "resolvers": (f"{LOOPBACK}:{self.resolver_port}",),
            "ttl_seconds": TTL_SECONDS,
            "ttl_before_switch_seconds": 1,
            "propagation_timeout_seconds": 20,
        }
        return Dns.model_validate(known | changes)

    def write(self) -> None:
        """Write every server's configuration, and the zone."""
        primary, copy = self._place("primary"), self._place("copy")
        (primary / "zone").write_text(_ZONE_FILE.format(zone=ZONE, ttl=TTL_SECONDS))
        values = {"zone": ZONE, "name": NAME, "copy": self._at(self.copy_port), "primary": self._at(self.primary_port)}
        for directory, port, own in ((primary, self.primary_port, _PRIMARY), (copy, self.copy_port, _COPY)):
            text = _KNOT.format(listen=self._at(port), directory=directory, **self.keys)
            (directory / "knot.conf").write_text(text + own.format(directory=directory, **values))
        resolver = self._place("resolver")
        text = _UNBOUND.format(port=self.resolver_port, directory=resolver, zone=ZONE, primary_port=self.primary_port)
        (resolver / "unbound.conf").write_text(text)

    def _place(self, name: str) -> Path:
        place = self.directory / name
        place.mkdir()
        return place

    @staticmethod
    def _at(port: int) -> str:
        return f"{LOOPBACK}@{port}"

    def control(self, *arguments: str) -> None:
        """Tell the primary server something (knotc)."""
        command = [_program("knotc"), "-c", str(self.directory / "primary/knot.conf"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=scaled(10))

    def knot(self, name: str) -> list[str]:
        """The command of one of the authoritative servers."""
        return [_program("knotd"), "-c", str(self.directory / name / "knot.conf")]


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    assert found is not None, f"{name} is not installed: make setup"
    return found


@contextmanager
def name_servers() -> Iterator[NameServers]:
    """All three, running; they know the zone when the block begins."""
    # Not the test's own directory: the path of Knot's control socket must be short.
    with tempfile.TemporaryDirectory(prefix="dns-") as directory:
        known = NameServers(Path(directory))
        known.write()
        unbound = [_program("unbound"), "-d", "-c", str(known.directory / "resolver/unbound.conf")]
        with (
            server(known.knot("primary"), known.directory / "primary.log", lambda: accepts(known.primary_port)),
            server(known.knot("copy"), known.directory / "copy.log", lambda: accepts(known.copy_port)),
            server(unbound, known.directory / "resolver.log", lambda: accepts(known.resolver_port)),
        ):
            yield known
