"""What a load balancer must have: HAProxy that can be switched by its map, and TLS that users trust. Pure rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sebenza_ops.environments.models import Color, Environment, Host, Role
from sebenza_ops.estate import fixes
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import HostReading, TlsReading
from sebenza_ops.systems.haproxy import MISSING, BackendState, parse_map_value, parse_stat

# include/hosts/haproxy.cfg.j2 needs it: uuid() and http-request return with a string are of 2.2, the rest of 2.4.
MINIMUM_HAPROXY = (2, 4)
# certbot renews 30 days before the end (https://eff-certbot.readthedocs.io): under 21 days it has failed for a week.
CERTIFICATE_WARNING_DAYS = 21
CERTIFICATE_MISSING_DAYS = 3

_NO_ANSWER = "!no-answer"
_SCRIPT = "check_load_balancer"


@dataclass(frozen=True)
class ServerEntry:
    """A server as `show servers state` lists it."""

    name: str
    address: str
    port: int


def parse_servers(text: str) -> dict[str, list[ServerEntry]]:
    """The servers of `show servers state`, by backend. Columns are found by their names: versions differ."""
    columns: list[str] = []
    found: dict[str, list[ServerEntry]] = {}
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#"):
            columns = words[1:]
        elif len(words) == len(columns) and columns:
            row = dict(zip(columns, words, strict=True))
            entry = ServerEntry(row.get("srv_name", ""), row.get("srv_addr", ""), int(row.get("srv_port", "0")))
            found.setdefault(row.get("be_name", ""), []).append(entry)
    return found


def section_of(config: str, kinds: str, name: str) -> list[str] | None:
    """The lines of a section ("frontend|listen", "fe_https") in a configuration; None when there is no such section."""
    lines: list[str] | None = None
    inside = False
    for line in config.splitlines():
        words = line.split()
        if line[:1].isspace() or not words:
            if inside and lines is not None and words:
                lines.append(line.strip())
            continue
        inside = bool(re.fullmatch(kinds, words[0])) and words[1:2] == [name]
        if inside:
            lines = lines or []
    return lines


def check_load_balancer(environment: Environment, host: Host, reading: HostReading) -> Findings:
    """HAProxy of one host: its admin socket, version, map, backends, servers and files."""
    findings = Findings(host.name)
    if _SCRIPT not in reading.texts:
        return findings
    if not check_admin_socket(findings, environment, host, reading):
        check_configuration(findings, environment, host, reading)
        return findings
    check_version(findings, host, reading)
    check_configuration(findings, environment, host, reading)
    backends = parse_stat(reading.part(_SCRIPT, "stat"))
    for color in Color:
        check_backend(findings, environment, host, reading, color, backends)
    check_map(findings, environment, host, reading)
    return findings


def check_admin_socket(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> bool:
    """The runtime API, at level admin. Returns whether it answers."""
    path = host.path(environment.load_balancing.admin_socket)
    fix = fixes.edit_haproxy(environment, host, "section global", fixes.stats_socket_line(environment, host))
    needed = f"{path} with level admin, for {environment.application.user}"
    socket = reading.part(_SCRIPT, "socket").split()
    if not socket or socket[0] == MISSING:
        findings.missing("admin socket", f"no socket at {path}", needed, fix)
        return False
    if socket[0] != "yes":
        findings.missing("admin socket", f"{path} is {' '.join(socket[1:])}: the login may not use it", needed, fix)
        return False
    level = reading.part(_SCRIPT, "level")
    if level == _NO_ANSWER or not level:
        findings.missing("admin socket", f"{path} does not answer", "HAProxy runs and socat is installed", fix)
        return False
    if level != "admin":
        findings.missing("admin socket", f"its level is {level}", needed, fix)
    else:
        findings.ok("admin socket", f"level admin, {' '.join(socket[1:])}")
    return True


def check_version(findings: Findings, host: Host, reading: HostReading) -> None:
    """The running HAProxy's version."""
    info = dict(line.split(": ", 1) for line in reading.part(_SCRIPT, "info").splitlines() if ": " in line)
    version = info.get("Version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    needed = f"HAProxy {'.'.join(map(str, MINIMUM_HAPROXY))} or newer"
    if not numbers:
        findings.no_data("HAProxy version", "HAProxy did not say", needed)
    elif numbers < MINIMUM_HAPROXY:
        fix = fixes.on_host(host, "sudo apt-get install -y haproxy  # Debian 12 has 2.6")
        findings.missing("HAProxy version", version, needed, fix)
    else:
        findings.ok("HAProxy version", version)


def check_configuration(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """The frontend must ask the map, and must not fall back to a color by itself."""
    balancing = environment.load_balancing
    config = reading.part(_SCRIPT, "config")
    needed = f"frontend {balancing.frontend} asks {host.path(balancing.map_file)} which backend is live"
    if config in {"!missing", "!unreadable", ""}:
        loaded = f"({host.path(balancing.map_file)})" in reading.part(_SCRIPT, "maps")
        found = f"{host.path(balancing.config_file)} {'is not there' if config == MISSING else 'can not be read'}"
        fix = (
            "load_balancing:\n  config_file: PATH  # in the inventory"
            if config == MISSING
            else fixes.on_host(host, fixes.command("sudo", "chmod", "o+r", host.path(balancing.config_file)))
        )
        report = findings.warning if loaded else findings.missing
        report("map in configuration", found + (", the running HAProxy has the map" if loaded else ""), needed, fix)
        return
    lines = section_of(config, "frontend|listen", balancing.frontend)
    line = fixes.use_backend_line(environment, host)
    if lines is None:
        where = (
            f"the frontend that serves users, called {balancing.frontend} (or name yours in load_balancing.frontend)"
        )
        fix = fixes.edit_haproxy(environment, host, where, line)
        findings.missing("map in configuration", f"no frontend {balancing.frontend}", needed, fix)
        return
    asks = [_map_of(rule) for rule in lines if rule.startswith("use_backend")]
    mine = [entry for entry in asks if entry is not None and entry[0] == host.path(balancing.map_file)]
    if not mine:
        fix = fixes.edit_haproxy(
            environment, host, f"frontend {balancing.frontend}, before any other use_backend", line
        )
        findings.missing("map in configuration", f"frontend {balancing.frontend} does not ask the map", needed, fix)
        return
    colors = {entry.backend for entry in environment.application.colors.values()}
    fallbacks = {entry[1] for entry in mine} | {
        rule.split()[1] for rule in lines if rule.startswith("default_backend") and len(rule.split()) > 1
    }
    guessed = sorted(fallbacks & colors)
    if guessed:
        findings.warning(
            "map in configuration",
            f"without an entry in the map, traffic goes to {guessed[0]}",
            "a backend that answers 503: a guessed color may be the one that is being replaced",
            fixes.edit_haproxy(environment, host, f"frontend {balancing.frontend}, instead", line),
        )
        return
    findings.ok("map in configuration", f"frontend {balancing.frontend} asks it")


def _map_of(rule: str) -> tuple[str, str] | None:
    """File and default of the map in `use_backend %[…map(FILE,DEFAULT)]`; None for another rule."""
    found = re.search(r"map(?:_str)?\(([^,)]+)(?:,([^)]*))?\)", rule)
    return (found[1].strip(), (found[2] or "").strip()) if found else None


def check_backend(
    findings: Findings,
    environment: Environment,
    host: Host,
    reading: HostReading,
    color: Color,
    backends: dict[str, BackendState],
) -> None:
    """A color's backend must have exactly the inventory's application hosts, each with a health check."""
    ports = environment.application.colors[color]
    check = f"backend {ports.backend}"
    fix = fixes.edit_haproxy(environment, host, "a section", fixes.backend_section(environment, host, color))
    wanted = {server.name: server for server in environment.hosts_with_role(Role.APPLICATION)}
    needed = f"servers {', '.join(wanted)} on port {ports.port}, with health checks"
    state = backends.get(ports.backend)
    if state is None:
        findings.missing(check, "HAProxy does not have it", needed, fix)
        return
    problems = []
    servers = {entry.name: entry for entry in parse_servers(reading.part(_SCRIPT, "servers")).get(ports.backend, [])}
    status = {server.name: server.status for server in state.servers}
    for name, server in wanted.items():
        entry = servers.get(name)
        if name not in status:
            problems.append(f"no server {name}")
        elif entry is not None and _differs(entry, server, ports.port):
            problems.append(f"{name} is {entry.address}:{entry.port}, not {server.address}:{ports.port}")
        elif status[name].startswith("no check"):
            problems.append(f"{name} has no health check")
    problems += [f"{name} is no application host of the inventory" for name in status if name not in wanted]
    shown = ", ".join(f"{name} {status[name]}" for name in wanted if name in status)
    set_aside = [name for name in wanted if status.get(name, "").startswith(("MAINT", "DRAIN"))]
    if problems:
        findings.missing(check, "; ".join(problems), needed, fix)
    elif set_aside:
        ready = [f"set server {ports.backend}/{name} state ready" for name in set_aside]
        findings.warning(check, shown, "no server is set aside", fixes.runtime_api(environment, host, *ready))
    else:
        findings.ok(check, shown)


def _differs(entry: ServerEntry, server: Host, port: int) -> bool:
    # A name in the inventory may be any address; only addresses can be compared.
    is_address = re.fullmatch(r"[0-9.]+", server.address) is not None
    return entry.port != port or (is_address and entry.address not in {server.address, "-"})


def check_map(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """The running map, the map's file and the marker must name the same color."""
    balancing = environment.load_balancing
    backends = {entry.backend: color.value for color, entry in environment.application.colors.items()}
    path = host.path(balancing.map_file)
    running = parse_map_value(reading.part(_SCRIPT, "map"), balancing.map_key)
    if f"({path})" not in reading.part(_SCRIPT, "maps"):
        fix = (
            fixes.write_map(environment, host, next(iter(backends)))
            + "\n"
            + fixes.edit_haproxy(
                environment, host, f"frontend {balancing.frontend}", fixes.use_backend_line(environment, host)
            )
        )
        findings.missing("map", f"the running HAProxy has no map {path}", f"{path}, with the live color's backend", fix)
        return
    if running not in backends:
        fix = fixes.runtime_api(environment, host, f"add map {path} {balancing.map_key} BACKEND-OF-THE-LIVE-COLOR")
        found = f"the running map says {running or 'nothing'} for {balancing.map_key}"
        findings.missing("map", found, f"one of {', '.join(backends)}", fix)
        return
    file_text = reading.part(_SCRIPT, "file")
    in_file = None if file_text == MISSING else parse_map_value(file_text, balancing.map_key)
    if in_file != running:
        findings.missing(
            "map",
            f"running {running}, file {in_file or 'nothing'}",
            "file and running map agree: the next reload would move traffic",
            fixes.write_map(environment, host, running),
        )
    else:
        findings.ok("map", f"{running}, running and in its file")
    color, marker = backends[running], reading.part(_SCRIPT, "marker")
    if marker != color:
        found = "none" if marker in {MISSING, ""} else marker[:40]
        needed = f"{color}, as the load balancer does (the next deployment repairs it)"
        findings.warning("marker", found, needed, fixes.write_marker(environment, host, color))
    else:
        findings.ok("marker", color)


def running_colors(environment: Environment, readings: list[HostReading]) -> dict[str, Color | None]:
    """The color to which each reachable load balancer sends, by its name; None where it can't be told."""
    colors = {entry.backend: color for color, entry in environment.application.colors.items()}
    return {
        reading.host: colors.get(
            parse_map_value(reading.part(_SCRIPT, "map"), environment.load_balancing.map_key) or ""
        )
        for reading in readings
        if _SCRIPT in reading.texts
    }


def check_agreement(findings: Findings, environment: Environment, colors: dict[str, Color | None]) -> None:
    """All load balancers must send to one color."""
    known = {name: color for name, color in colors.items() if color is not None}
    shown = ", ".join(f"{name} {color}" for name, color in known.items())
    if len(set(known.values())) > 1:
        options = " or ".join(
            f"set map {environment.load_balancing.map_file} {environment.load_balancing.map_key} {entry.backend}"
            for entry in environment.application.colors.values()
        )
        fix = f"# decide which color is right, then on the other load balancers, through the runtime API:\n{options}"
        findings.missing("live color", f"the load balancers disagree: {shown}", "one live color on all of them", fix)
    elif known:
        findings.ok("live color", f"{next(iter(known.values()))} ({', '.join(known)})")
    else:
        findings.no_data("live color", "no load balancer could tell", "one live color on all load balancers")


def check_tls(environment: Environment, host: Host, reading: TlsReading, now: datetime) -> Findings:
    """HTTPS as users meet it: a trusted certificate for the public host name, and no old protocol."""
    findings = Findings(host.name)
    balancing, hostname = environment.load_balancing, environment.public_hostname
    where = f"{host.address}:{balancing.https_port}"
    if not reading.reachable:
        fix = fixes.on_host(host, f"sudo ss -ltnp 'sport = :{balancing.https_port}'")
        findings.missing("HTTPS", f"{where}: {reading.error}", f"HTTPS for {hostname} from the workers", fix)
        return findings
    _check_certificate(findings, environment, host, reading, now)
    old = [
        version for version, taken in reading.versions.items() if taken and version in _TOO_OLD[minimum(environment)]
    ]
    if old:
        fix = fixes.edit_haproxy(
            environment, host, "section global", f"    ssl-default-bind-options ssl-min-ver TLSv{minimum(environment)}"
        )
        findings.missing("TLS versions", f"takes {', '.join(old)}", f"TLS {minimum(environment)} or newer only", fix)
    elif any(reading.versions.values()):
        taken = ", ".join(version for version, answer in reading.versions.items() if answer)
        findings.ok("TLS versions", f"takes {taken} only")
    if reading.redirect.startswith("https://"):
        findings.ok("HTTP", f"port {balancing.http_port} redirects to HTTPS")
    else:
        fix = fixes.edit_haproxy(
            environment,
            host,
            "a section",
            f"frontend fe_http\n    bind :{balancing.http_port}\n    http-request redirect scheme https code 301",
        )
        found = f"port {balancing.http_port}: {reading.redirect or 'no answer'}"
        findings.warning("HTTP", found, "a redirect to HTTPS", fix)
    return findings


_TOO_OLD = {"1.2": {"TLS 1.0", "TLS 1.1"}, "1.3": {"TLS 1.0", "TLS 1.1", "TLS 1.2"}}


def minimum(environment: Environment) -> str:
    """The oldest TLS version that the environment's policy allows."""
    return environment.policies.certificates.minimum_tls


def _check_certificate(
    findings: Findings, environment: Environment, host: Host, reading: TlsReading, now: datetime
) -> None:
    hostname = environment.public_hostname
    needed = f"a certificate for {hostname} that is trusted, for at least {CERTIFICATE_WARNING_DAYS} days"
    renew = fixes.on_host(host, f"sudo certbot certificates  # then: sudo certbot renew --cert-name {hostname}")
    if reading.error:
        trust = (
            "" if environment.load_balancing.ca_file else "# an own CA: its file on the workers, in the inventory:\n"
        )
        own = f"{trust}load_balancing:\n  ca_file: PATH" if trust else ""
        findings.missing("certificate", reading.error, needed, "\n".join(filter(None, (renew, own))))
        return
    if reading.expires_at is None:
        findings.no_data("certificate", "its end could not be read", needed)
        return
    days = (reading.expires_at - now).total_seconds() / 86400
    found = f"for {hostname}, until {reading.expires_at:%Y-%m-%d} ({days:.0f} days)"
    if days < CERTIFICATE_MISSING_DAYS:
        findings.missing("certificate", found, needed, renew)
    elif days < CERTIFICATE_WARNING_DAYS:
        findings.warning("certificate", found, needed, renew)
    else:
        findings.ok("certificate", found)
