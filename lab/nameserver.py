"""The lab's name servers: an authoritative one that takes signed updates, and a resolver with a cache."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from lab import paths
from lab.accounts import DNS_USER, RESOLVER_USER, make_directory, write_as
from lab.addresses import CLIENT_NETWORK, DNS_PORT, address
from lab.hosts import ENVIRONMENTS, LabEnvironment
from lab.rendering import render
from lab.secrets import lab_secrets
from lab.waiting import LabError, scaled, until

AUTHORITATIVE: Final = "dns1"
RESOLVER: Final = "dns2"
ZONE: Final = "sebenza.com"
KEY_NAME: Final = "sebenza-ops"

# A rehearsal must not wait for minutes until a cache forgets.
TTL_SECONDS: Final = 10
TTL_BEFORE_SWITCH_SECONDS: Final = 2

_TIMEOUT_SECONDS = 2.0


def write_server(host: str, root: Path) -> None:
    """Write the authoritative server's configuration, and its zone unless it has one."""
    for directory in ("run/knot", "var/lib/knot"):
        make_directory(root / directory, DNS_USER, 0o750)
    values = {"key_name": KEY_NAME, "secret": lab_secrets().dns_key, "names": list(_records())}
    write_as(root / "etc/knot/knot.conf", render("knot.conf.j2", **_common(host), **values), DNS_USER, 0o600)
    zone = root / f"var/lib/knot/{ZONE}.zone"
    # Afterwards it is the server's own: what procedures have changed stays.
    if not zone.exists():
        write_as(zone, render("zone.j2", **_common(host), ttl_seconds=TTL_SECONDS, records=_records()), DNS_USER)


def write_resolver(host: str, root: Path) -> None:
    """Write the resolver's configuration."""
    for directory in ("run/unbound", "var/lib/unbound"):
        make_directory(root / directory, RESOLVER_USER, 0o750)
    write_as(root / "etc/unbound/unbound.conf", render("unbound.conf.j2", **_common(host)))


def _common(host: str) -> dict[str, Any]:
    return {
        "host": host,
        "root": paths.host_root(host),
        "address": address(host),
        "port": DNS_PORT,
        "network": CLIENT_NETWORK,
        "zone": ZONE,
        "server": address(AUTHORITATIVE),
    }


def _records() -> dict[str, list[str]]:
    return {environment.hostname: addresses_of(environment) for environment in ENVIRONMENTS.values()}


def addresses_of(environment: LabEnvironment) -> list[str]:
    """What DNS answers for an environment while its hosts at this site serve."""
    return [address(host) for host in environment.load_balancers]


def ask(server: str, name: str) -> list[str]:
    """The addresses that a server of the lab answers for a name, sorted. `OSError` when it does not answer."""
    query = dns.message.make_query(name, "A")
    try:
        answer = dns.query.udp(query, address(server), timeout=_TIMEOUT_SECONDS, port=DNS_PORT)
    except dns.exception.Timeout as error:
        raise TimeoutError(f"{server} does not answer") from error
    return sorted(str(item) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A for item in rrset)


def _answers(server: str, name: str) -> bool:
    return bool(ask(server, name))


def await_answers() -> None:
    """Wait until both servers answer for every environment. Raises LabError that names who does not."""
    for server in (AUTHORITATIVE, RESOLVER):
        for environment in ENVIRONMENTS.values():
            name = environment.hostname
            until(partial(_answers, server, name), f"{server}: answers for {name}", 20)


def reset() -> None:
    """Let every environment's name lead to its primary site again, whatever procedures have changed."""
    update = _signed_update()
    for name, addresses in _records().items():
        update.replace(f"{name}.", TTL_SECONDS, "A", *addresses)
    code = _send(update)
    if code != dns.rcode.NOERROR:
        raise LabError(f"{AUTHORITATIVE}: refuses the update of {ZONE}: {dns.rcode.to_text(code)}")


def _signed_update() -> dns.update.UpdateMessage:
    keyring = dns.tsigkeyring.from_text({KEY_NAME: lab_secrets().dns_key})
    return dns.update.UpdateMessage(ZONE, keyring=keyring, keyalgorithm=dns.tsig.HMAC_SHA256)


def _send(update: dns.update.UpdateMessage) -> dns.rcode.Rcode:
    return dns.query.tcp(update, address(AUTHORITATIVE), timeout=_TIMEOUT_SECONDS, port=DNS_PORT).rcode()


def _takes_updates() -> bool:
    update = _signed_update()
    # No host has it: what is taken away is not there.
    update.delete(f"{ENVIRONMENTS['production'].hostname}.", "A", "0.0.0.0")
    return _send(update) == dns.rcode.NOERROR


def refuse_updates(refuse: bool) -> None:
    """Let the authoritative server refuse every update, or take them again; it answers questions either way."""
    command = [str(paths.program("knotc")), "-c", str(paths.host_root(AUTHORITATIVE) / "etc/knot/knot.conf")]
    command += ["zone-freeze" if refuse else "zone-thaw", ZONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(15), check=False)
    if done.returncode != 0:
        raise LabError(f"{AUTHORITATIVE}: knotc {command[3]}: {(done.stderr or done.stdout).strip()}")
    # knotc only asks for it.
    until(lambda: _takes_updates() != refuse, f"{AUTHORITATIVE}: {command[3]} is in force", 10)
