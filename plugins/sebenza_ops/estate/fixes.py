"""The changes that would mend a finding, as text to copy: commands, and lines of configuration. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from sebenza_ops.environments.models import Color, Environment, Host, Role, Service
from sebenza_ops.systems.host_scripts import include_dir
from sebenza_ops.systems.services import RELOAD_SIGNALS

# Debian 12's packages of what the scripts in include/hosts call.
_PACKAGES = {
    "flock": "util-linux",
    "setsid": "util-linux",
    "awk": "mawk",
    "ps": "procps",
    **dict.fromkeys(("find", "xargs"), "findutils"),
    **dict.fromkeys(("sync", "mktemp", "timeout", "sha256sum", "base64", "df", "stat", "sort"), "coreutils"),
}


def on_host(host: Host, *commands: str) -> str:
    """Commands for one host, with a first line that says which."""
    return "\n".join([f"# on {host.name}, as an administrator", *commands])


def command(*argv: str) -> str:
    """One command line, quoted."""
    return shlex.join(argv)


def install_programs(host: Host, programs: Sequence[str]) -> str:
    """Install the packages that hold `programs`."""
    packages = sorted({_PACKAGES.get(program, program) for program in programs})
    return on_host(host, command("sudo", "apt-get", "install", "-y", *packages))


def make_directory(host: Host, path: str, owner: str, mode: str = "755") -> str:
    """Make a directory, or give the one that is there to `owner`."""
    return on_host(host, command("sudo", "install", "-d", "-o", owner, "-g", f"{owner}", "-m", mode, path))


def service_command(environment: Environment, action: str, service: Service, host: Host) -> str:
    """`reload` or `restart` a service, by the environment's service manager."""
    manager = environment.service_manager
    unit = environment.service_unit(service, host)
    if manager.kind == "systemd":
        return command("sudo", "systemctl", action, unit)
    if action == "reload":
        return command(*manager.control_command, "signal", RELOAD_SIGNALS.get(service, "HUP"), unit)
    return command(*manager.control_command, action, unit)


def section_lines(config: str, kind: str, name: str) -> str:
    """One section of an HAProxy configuration, with its first line; empty when there is none."""
    wanted = re.compile(rf"^{kind}\s+{re.escape(name)}\s*$")
    lines: list[str] = []
    inside = False
    for line in config.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            inside = bool(wanted.match(line))
        if inside:
            lines.append(line)
    return "\n".join(lines).rstrip()


def haproxy_config(environment: Environment, host: Host) -> str:
    """HAProxy's whole configuration for a load balancer: include/hosts/haproxy.cfg.j2 with the inventory's values."""
    balancing = environment.load_balancing
    servers = environment.hosts_with_role(Role.APPLICATION)
    return _render(
        "haproxy.cfg.j2",
        bind_address="",
        stats_address="",
        https_port=balancing.https_port,
        http_port=balancing.http_port,
        stats_port=balancing.stats_port,
        user="haproxy",
        group="haproxy",
        admin_group=environment.application.user,
        admin_socket=host.path(balancing.admin_socket),
        certificate=host.path("/etc/haproxy/certs/site.pem"),
        map_file=host.path(balancing.map_file),
        map_key=balancing.map_key,
        frontend=balancing.frontend,
        log_target="/dev/log local0",
        hostname=environment.public_hostname,
        health_path=environment.application.health_path,
        colors=_colors(environment),
        servers=[{"name": server.name, "address": server.address} for server in servers],
        source_address="",
    )


def use_backend_line(environment: Environment, host: Host) -> str:
    """The line of the frontend that asks the map which color is live."""
    config = haproxy_config(environment, host)
    return next(line for line in config.splitlines() if line.strip().startswith("use_backend"))


def stats_socket_line(environment: Environment, host: Host) -> str:
    """The line of section `global` that opens the admin socket to the login user's group."""
    config = haproxy_config(environment, host)
    return next(line for line in config.splitlines() if line.strip().startswith("stats socket"))


def backend_section(environment: Environment, host: Host, color: Color) -> str:
    """A color's whole backend."""
    config = haproxy_config(environment, host)
    return section_lines(config, "backend", environment.application.colors[color].backend)


def edit_haproxy(environment: Environment, host: Host, where: str, lines: str) -> str:
    """Lines to put into HAProxy's configuration, the check of the file, and the reload."""
    config_file = host.path(environment.load_balancing.config_file)
    return on_host(
        host,
        f"# in {config_file}, {where}:",
        lines,
        "# then",
        command("sudo", "haproxy", "-c", "-f", config_file)
        + " && "
        + service_command(environment, "reload", Service.HAPROXY, host),
    )


def nginx_config(environment: Environment, host: Host) -> str:
    """Nginx's configuration of an application host: one port a color."""
    text = _render(
        "nginx-sebenza.conf.j2",
        bind_address=host.address,
        process_address=host.address,
        log_dir="/var/log/nginx",
        colors=_colors(environment),
    )
    config_file = host.path("/etc/nginx/conf.d/sebenza.conf")
    return on_host(
        host,
        f"sudo tee {shlex.quote(config_file)} >/dev/null <<'CONFIGURATION'",
        text.rstrip(),
        "CONFIGURATION",
        "sudo nginx -t && " + service_command(environment, "reload", Service.NGINX, host),
    )


def write_map(environment: Environment, host: Host, backend: str) -> str:
    """Make the map file say what the running HAProxy does."""
    balancing = environment.load_balancing
    line = f"{balancing.map_key} {backend}"
    return on_host(
        host, f"printf '%s\\n' {shlex.quote(line)} | sudo tee {shlex.quote(host.path(balancing.map_file))} >/dev/null"
    )


def write_marker(environment: Environment, host: Host, color: str) -> str:
    """Make the marker say which color is live."""
    marker = host.path(f"{environment.application.marker_dir}/current-color")
    return on_host(
        host, f"printf '%s\\n' {shlex.quote(color)} >{shlex.quote(marker)}  # as {environment.application.user}"
    )


def runtime_api(environment: Environment, host: Host, *commands: str) -> str:
    """Commands for HAProxy's runtime API."""
    socket = host.path(environment.load_balancing.admin_socket)
    return on_host(
        host, *(f"echo {shlex.quote(text)} | socat - {shlex.quote('UNIX-CONNECT:' + socket)}" for text in commands)
    )


def pm2(environment: Environment, host: Host, *arguments: str) -> str:
    """A PM2 command as the application's user, with its home."""
    application = environment.application
    return command(
        "sudo",
        "-u",
        application.user,
        "env",
        f"PM2_HOME={host.path(application.pm2_home)}",
        f"{application.node_bin_dir}/node",
        application.pm2_path,
        *arguments,
    )


def scrape_config(environment: Environment) -> str:
    """Prometheus' job for the application: both colors of every host, with the labels that procedures ask for."""
    lines = ["# in prometheus.yml, below scrape_configs:", "  - job_name: sebenza-app"]
    lines += [
        "    metrics_path: " + environment.application.settings.monitoring.metrics_endpoint,
        "    static_configs:",
    ]
    for host in environment.hosts_with_role(Role.APPLICATION):
        for color, ports in environment.application.colors.items():
            lines.append(f'      - targets: ["{host.address}:{ports.port}"]')
            lines.append(
                f"        labels: {{environment: {environment.name}, color: {color.value}, host: {host.name}}}"
            )
    lines += ["# then", "promtool check config prometheus.yml && sudo systemctl reload prometheus"]
    return "\n".join(lines)


def add_connection(conn_id: str, conn_type: str, *options: str) -> str:
    """Make an Airflow connection; what is in capitals is yours to fill in."""
    return command("airflow", "connections", "add", conn_id, "--conn-type", conn_type) + " " + " ".join(options)


def _colors(environment: Environment) -> list[dict[str, object]]:
    return [
        {"name": color.value, "backend": entry.backend, "port": entry.port, "process_port": entry.process_port}
        for color, entry in environment.application.colors.items()
    ]


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment as Templates
    from jinja2 import StrictUndefined

    text = (include_dir() / "hosts" / template).read_text()
    # No HTML is made here; the values are names and paths that the inventory has checked.
    rendered: str = (
        Templates(undefined=StrictUndefined, autoescape=False, trim_blocks=True).from_string(text).render(**values)
    )
    return rendered
