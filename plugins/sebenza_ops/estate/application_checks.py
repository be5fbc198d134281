"""What an application host must have: Node.js, a PM2 that its user owns, its ports, its settings. Pure rules."""

from __future__ import annotations

import json
import re
from typing import Any

from sebenza_ops.environments.env_file import compare_settings
from sebenza_ops.environments.models import Color, Environment, Host, Role, Service
from sebenza_ops.estate import fixes
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import HostReading
from sebenza_ops.systems.haproxy import MISSING

MINIMUM_NODE_MAJOR = 18
"""Manual, Application Servers: Node.js 18.x."""
MINIMUM_PM2_MAJOR = 5

_SCRIPT = "check_application"
_NGINX_WITHOUT_PROCESS = {502, 503, 504}


def check_application_host(environment: Environment, host: Host, reading: HostReading, live: Color | None) -> Findings:
    """Everything that an application host must have beside what every host has.

    Args:
        environment: The inventory's environment.
        host: The host.
        reading: What it said.
        live: The color that takes traffic, None when it is not known; a spare host has none.
    """
    findings = Findings(host.name)
    if _SCRIPT not in reading.texts:
        return findings
    if not check_node(findings, environment, host, reading):
        return findings
    check_daemon(findings, environment, host, reading)
    processes = parse_processes(reading.part(_SCRIPT, "processes"))
    if processes is not None:
        check_processes(findings, environment, host, processes, None if host.spare else live)
        check_saved(findings, environment, host, reading, processes)
    check_process_ports(findings, environment, host, reading, processes or [])
    check_reach(findings, environment, host, reading)
    check_marker(findings, environment, host, reading, None if host.spare else live)
    return findings


def parse_processes(text: str) -> list[dict[str, Any]] | None:
    """PM2's processes as check_application.sh shows them; None when the daemon did not answer."""
    try:
        listed = json.loads(text)
    except ValueError:
        return None
    return listed if isinstance(listed, list) else None


def _major(version: str) -> int | None:
    found = re.fullmatch(r"v?(\d+)(?:\.\d+)*\S*", version.strip())
    return int(found[1]) if found else None


def check_node(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> bool:
    """Node.js and PM2 at the inventory's paths. Returns whether Node.js runs: everything else is asked through it."""
    application = environment.application
    node = f"{application.node_bin_dir}/node"
    major = _major(reading.part(_SCRIPT, "node"))
    needed = f"Node.js {MINIMUM_NODE_MAJOR} or newer at {node}"
    where = "# elsewhere? in the inventory:\napplication:\n  node_bin_dir: DIRECTORY"
    install = fixes.on_host(host, "sudo apt-get install -y nodejs npm", where)
    if major is None:
        findings.missing("Node.js", reading.part(_SCRIPT, "node")[:120] or "no answer", needed, install)
        return False
    if major < MINIMUM_NODE_MAJOR:
        findings.missing("Node.js", reading.part(_SCRIPT, "node"), needed, install)
    else:
        findings.ok("Node.js", f"{reading.part(_SCRIPT, 'node')} at {node}")
    version = reading.part(_SCRIPT, "pm2")
    pm2_major = _major(version) if version else None
    needed = f"PM2 {MINIMUM_PM2_MAJOR} or newer at {application.pm2_path}"
    install = fixes.on_host(
        host, "sudo npm install -g pm2", "# elsewhere? in the inventory:\napplication:\n  pm2_path: FILE"
    )
    if pm2_major is None or pm2_major < MINIMUM_PM2_MAJOR:
        findings.missing("PM2", version or f"no PM2 at {application.pm2_path}", needed, install)
    else:
        findings.ok("PM2", f"{version} at {application.pm2_path}")
    return True


def check_daemon(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """PM2's daemon must run, for one owner, and no second one may fight it for the ports."""
    application = environment.application
    home = host.path(application.pm2_home)
    needed = f"a daemon of {application.user} with PM2_HOME={home}, kept up by the service manager"
    start = _start_daemon(environment, host)
    words = reading.part(_SCRIPT, "daemon").split()
    if len(words) != 3:
        findings.missing("PM2 daemon", f"none for {home}", needed, start)
    elif words[1] != application.user:
        stop = fixes.on_host(host, f"sudo -u {words[1]} env PM2_HOME={home} {application.pm2_path} kill") + "\n" + start
        findings.missing("PM2 daemon", f"process {words[0]} belongs to {words[1]}", needed, stop)
    elif words[2] != "yes":
        fix = fixes.on_host(host, fixes.command("sudo", "chown", "-R", f"{application.user}:", home))
        findings.missing("PM2 daemon", f"its socket in {home} can not be used by the login", needed, fix)
    else:
        findings.ok("PM2 daemon", f"process {words[0]} of {words[1]}")
    others = _other_daemons(host, reading, own_pid=words[0] if words else "")
    if others:
        # PM2 cuts the title, so the home that it shows is good for people only.
        look = [f"sudo cat /proc/{pid}/environ | tr '\\0' '\\n' | grep -E '^(PM2_HOME|HOME)='" for pid, _, _ in others]
        kill = [f"sudo kill {pid}" for pid, _, _ in others]
        findings.warning(
            "other PM2 daemons",
            "; ".join(f"process {pid} of {user} in {where}" for pid, user, where in others),
            "one PM2 daemon: a second one starts the same application on the same ports",
            fixes.on_host(
                host, *look, "# look what it runs (pm2 list as that user); its end ends its processes too", *kill
            ),
        )


def _start_daemon(environment: Environment, host: Host) -> str:
    """Start PM2's daemon through the service manager; with systemd, make the unit first."""
    application = environment.application
    start = fixes.service_command(environment, "start", Service.PM2, host)
    if environment.service_manager.kind != "systemd":
        return fixes.on_host(host, start)
    home = host.path(application.pm2_home).rpartition("/")[0]
    startup = fixes.command(application.pm2_path, "startup", "systemd", "-u", application.user, "--hp", home)
    return fixes.on_host(host, f"sudo env PATH={application.node_bin_dir}:$PATH {startup}", start)


def _other_daemons(host: Host, reading: HostReading, own_pid: str) -> list[tuple[str, str, str]]:
    found = []
    for line in reading.part(_SCRIPT, "daemons").splitlines():
        match = re.match(r"\s*(\d+)\s+(\S+)\s+PM2 v[0-9.]+: God Daemon \(([^)]*)", line)
        if match is None or match[1] == own_pid:
            continue
        # Hosts that share a machine (the lab's) see each other's daemons; PM2 cuts the title.
        if host.root_dir == "/" or match[3].startswith(f"{host.root_dir}/"):
            found.append((match[1], match[2], match[3]))
    return found


def check_processes(
    findings: Findings, environment: Environment, host: Host, processes: list[dict[str, Any]], live: Color | None
) -> None:
    """The live color must run in full; what runs under other names is not ours to move."""
    application = environment.application
    if live is not None:
        name = application.process_name(live)
        online = [process for process in processes if process["name"] == name and process["status"] == "online"]
        wanted = application.processes_per_host
        releases = sorted({str(process.get("cwd") or "").rstrip("/").rpartition("/")[2] for process in online})
        found = f"{len(online)} of {wanted} online as {name}"
        if not online:
            start = fixes.on_host(host, fixes.pm2(environment, host, "start", _ecosystem(environment, host, live)))
            adopt = "# never deployed by these procedures? deploy_blue_green brings it to the names of the inventory"
            findings.missing("processes", found, f"the live color {live} runs as {name}", f"{start}\n{adopt}")
        elif len(online) != wanted or len(releases) > 1:
            needed = f"{wanted} processes of one release"
            restart = fixes.on_host(host, fixes.pm2(environment, host, "reload", name))
            findings.warning("processes", f"{found}, releases {', '.join(releases)}", needed, restart)
        else:
            findings.ok("processes", f"{found}, release {releases[0]}")
    known = {application.process_name(color) for color in Color}
    foreign = sorted({str(process["name"]) for process in processes} - known)
    if foreign:
        delete = fixes.on_host(
            host, "# once a deployment has replaced it:", fixes.pm2(environment, host, "delete", *foreign)
        )
        findings.warning(
            "other processes",
            f"PM2 also runs {', '.join(foreign)}",
            f"only {', '.join(sorted(known))}: the procedures leave others alone, also when these hold a port",
            delete,
        )
    broken = sorted({str(p["name"]) for p in processes if p["name"] in known and p["status"] == "errored"})
    if broken:
        logs = [fixes.pm2(environment, host, "logs", name, "--nostream", "--lines", "50") for name in broken]
        findings.warning(
            "crashed processes", f"{', '.join(broken)} errored", "no crash loop", fixes.on_host(host, *logs)
        )


def _ecosystem(environment: Environment, host: Host, color: Color) -> str:
    return host.path(f"{environment.application.colors_dir}/{color.value}/ecosystem.config.js")


def check_saved(
    findings: Findings, environment: Environment, host: Host, reading: HostReading, processes: list[dict[str, Any]]
) -> None:
    """What PM2 has saved is what comes back when the host starts again."""
    running = sorted({str(process["name"]) for process in processes if process["status"] == "online"})
    saved_list = parse_processes(reading.part(_SCRIPT, "saved"))
    saved = sorted({str(process["name"]) for process in saved_list or []})
    directories = {str(process.get("cwd")) for process in processes if process["status"] == "online"}
    saved_directories = {str(process.get("cwd")) for process in saved_list or []}
    save = fixes.on_host(host, fixes.pm2(environment, host, "save", "--force"))
    if saved == running and directories == saved_directories:
        findings.ok("pm2 save", ", ".join(saved) or "nothing runs, nothing is saved")
    elif not running and saved_list is None:
        findings.ok("pm2 save", "nothing runs, nothing is saved")
    else:
        state = "nothing" if saved_list is None else ", ".join(saved) or "no process"
        if saved == running:
            state += " of another release"
        needed = f"saved: {', '.join(running) or 'no process'}, as it runs; the rest would not come back"
        findings.warning("pm2 save", f"saved: {state}", needed, save)


def check_process_ports(
    findings: Findings, environment: Environment, host: Host, reading: HostReading, processes: list[dict[str, Any]]
) -> None:
    """A color's process port must answer when the color runs, and be free when it does not."""
    reach = _reach(reading)
    for color, ports in environment.application.colors.items():
        check = f"port {ports.process_port} ({color})"
        name = environment.application.process_name(color)
        is_running = any(process["name"] == name and process["status"] == "online" for process in processes)
        state = reach.get(f"port {ports.process_port}", "")
        if not state:
            findings.no_data(check, "it could not be tried", f"answers when {name} runs, else is free")
        elif is_running and state == "open":
            findings.ok(check, f"{name} answers")
        elif not is_running and state == "refused":
            findings.ok(check, "free")
        elif is_running:
            logs = fixes.pm2(environment, host, "logs", name, "--nostream", "--lines", "50")
            needed = f"{name} listens on {host.address}:{ports.process_port} (APP_HOST, APP_PORT)"
            findings.missing(check, f"{name} runs, the port is {state}", needed, fixes.on_host(host, logs))
        else:
            who = fixes.on_host(
                host, f"sudo ss -ltnp 'sport = :{ports.process_port}'  # stop it, or choose another port"
            )
            needed = f"free, for {name} (application.colors.{color}.process_port)"
            findings.missing(check, f"{state}, but PM2 runs no {name}", needed, who)


def _reach(reading: HostReading) -> dict[str, str]:
    found = {}
    for line in reading.part(_SCRIPT, "reach").splitlines():
        match = re.match(r"(database|cache|port \d+) (.*)", line)
        if match is not None:
            found[match[1]] = match[2]
    return found


def check_reach(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """The application must reach its database and cache, and each must speak its protocol.

    Where another site serves, the database's endpoint leads nowhere until this site has a primary.
    """
    reach = _reach(reading)
    endpoints = (
        ("database", environment.database.endpoint, ("answered S", "answered N")),
        ("cache", environment.cache.address, ("answered +PONG", "answered -NOAUTH", "answered -DENIED")),
    )
    for name, where, good in endpoints:
        state = reach.get(name, "")
        check = f"reach the {name}"
        needed = f"{where} answers from this host as a {'PostgreSQL' if name == 'database' else 'Redis'} server"
        address, _, port = where.rpartition(":")
        fix = fixes.on_host(host, f"nc -vz {address} {port}  # refused: its listen address; silent: a firewall between")
        if state.startswith(good):
            findings.ok(check, f"{where} answers")
        elif name == "database" and not environment.serves and state in {"closed", "ECONNRESET", "silent"}:
            findings.ok(check, f"{where} takes connections, and has no primary to lead to while another site serves")
        elif name == "cache" and state.startswith("silent"):
            # With TLS a Redis waits for another greeting; that it takes the connection is all that can be told.
            findings.warning(check, f"{where} takes the connection and is silent", "an answer to PING, or TLS", fix)
        elif not state:
            findings.no_data(check, "it could not be tried", needed, fix)
        else:
            findings.missing(check, f"{where}: {state}", needed, fix)


def check_marker(
    findings: Findings, environment: Environment, host: Host, reading: HostReading, live: Color | None
) -> None:
    """The marker must name the live color. A deployment repairs it from the load balancers."""
    if live is None or Role.LOAD_BALANCER in host.roles:
        return
    marker = reading.part(_SCRIPT, "marker")
    if marker == live.value:
        last_good = reading.part(_SCRIPT, "last_good")
        known = f", last good release {last_good}" if last_good not in {"", MISSING} else ", no last good release yet"
        findings.ok("marker", f"{marker}{known}")
        return
    found = "none" if marker in {"", MISSING} else marker[:40]
    needed = f"{live}, as the load balancers do (the next deployment repairs it)"
    findings.warning("marker", found, needed, fixes.write_marker(environment, host, live.value))


def check_color_port(
    findings: Findings,
    environment: Environment,
    color: Color,
    load_balancer: str,
    status: int | None,
    live: Color | None,
) -> None:
    """What a load balancer meets on a color's port: Nginx always, and a healthy application when the color is live."""
    port = environment.application.colors[color].port
    check = f"port {port} ({color}) from {load_balancer}"
    host = environment.host(findings.host)
    path = environment.application.health_path
    if status is None:
        findings.no_data(check, f"{load_balancer} could not try", f"{path} answers")
    elif status == 0:
        needed = "Nginx answers on both colors' ports, from the load balancers"
        findings.missing(check, "nobody answers", needed, fixes.nginx_config(environment, host))
    elif status == 200:
        findings.ok(check, f"{path} answers 200")
    elif color is live and not host.spare:
        logs = fixes.pm2(environment, host, "logs", environment.application.process_name(color), "--nostream")
        needed = f"{path} answers 200: the color takes traffic"
        findings.missing(check, f"{path} answers {status}", needed, fixes.on_host(host, logs))
    elif status in _NGINX_WITHOUT_PROCESS:
        findings.ok(check, f"Nginx answers ({status}: the color does not run)")
    else:
        needed = f"{path} answers 200, or 502 while the color does not run"
        findings.warning(check, f"{path} answers {status}", needed, fixes.nginx_config(environment, host))


def check_settings(
    findings: Findings,
    environment: Environment,
    color: Color,
    reading: HostReading,
    expected: str | None,
    live: Color | None,
    salt: bytes,
) -> None:
    """The color's env file against the one that a deployment would write. Secrets are compared, never shown."""
    check = f"settings ({color})"
    modes = dict(line.split(" ", 1) for line in reading.part(_SCRIPT, "env_files").splitlines() if " " in line)
    host = environment.host(findings.host)
    path = host.path(f"{environment.application.colors_dir}/{color.value}/app.env")
    actual = reading.env_files.get(color)
    if actual is None:
        if color is live and not host.spare:
            needed = f"{path}, as a deployment writes it"
            deploy = f'airflow dags trigger deploy_blue_green.{environment.name} --conf \'{{"version": "VERSION"}}\''
            found = f"no {path}: not deployed by these procedures yet" if color.value not in modes else "unreadable"
            findings.warning(check, found, needed, deploy)
        return
    user = environment.application.user
    if modes.get(color.value) != f"{user} 600":
        fix = fixes.on_host(host, f"sudo chown {user}: {path} && sudo chmod 600 {path}")
        found = f"{path} is {modes.get(color.value, 'unknown')}"
        findings.missing(f"secrecy of {color}'s settings", found, f"{user} 600: it holds secrets", fix)
    if expected is None:
        findings.no_data(check, "what it should be is not known: a connection is missing", "no drift")
        return
    drifts = compare_settings(expected, actual, salt)
    if drifts:
        report = findings.warning
        fix = "# the next deployment writes it anew; or correct application.settings, or the connection that differs"
        report(check, "; ".join(str(drift) for drift in drifts), "as the inventory and the connections say", fix)
    else:
        findings.ok(check, "as the inventory and the connections say")
