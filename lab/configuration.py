"""Writes the file tree of every host: configuration, keys, directories, ownership."""

from __future__ import annotations

from pathlib import Path

from lab import accounts, backups, nameserver, object_copy, paths, postgres_protocol, tls
from lab.accounts import DATABASE_USER, LOGIN_USER, make_directory, write_as
from lab.addresses import (
    CLIENT_NETWORK,
    COLOR_PORTS,
    HTTP_PORT,
    HTTPS_PORT,
    POSTGRES_PORT,
    REDIS_PORT,
    SSH_PORT,
    STATS_PORT,
    STORAGE_PORT,
    address,
    endpoint,
)
from lab.hosts import (
    ENVIRONMENTS,
    SECONDARY_SITE,
    SERVICES,
    LabEnvironment,
    endpoint_of,
    environment_of,
    has_secondary_site,
    places,
    present_hosts,
)
from lab.programs import MARKER_VARIABLE, Program, marker, programs
from lab.rendering import render
from lab.secrets import lab_secrets

HEALTH_USER = "sebenza_health"
REPLICATION_USER = "sebenza_replication"

# Relative to a load balancer's root.
MAP_FILE = "etc/haproxy/maps/color.map"
MAP_KEY = "active"
# Relative to the database endpoint's root.
PAUSE_MAP = "etc/haproxy/maps/database-pause.map"
STATE_FILE = "etc/haproxy/state/database.state"
DATABASE_PROXY = "database"


def map_line(color: str) -> str:
    """The content of a load balancer's map file while `color` is live."""
    return f"{MAP_KEY} {color_backend(color)}\n"


def color_backend(color: str) -> str:
    """The HAProxy backend of a color."""
    return f"bk_{color}"


def write_all() -> None:
    """Write keys, certificates and the tree of every host. Idempotent; state that exists is kept."""
    tls.ensure_ca()
    operator_key = tls.ensure_ssh_key(paths.OPERATOR_KEY, "operator")
    paths.RUN_DIR.mkdir(parents=True, exist_ok=True)
    known_hosts = []
    for host in present_hosts():
        link_host(host)
        host_key = write_host(host, operator_key)
        known_hosts.append(f"[{address(host)}]:{SSH_PORT} {host_key}\n")
    paths.KNOWN_HOSTS.write_text("".join(known_hosts))
    paths.FAULTS_DIR.mkdir(exist_ok=True)


def link_host(host: str) -> None:
    """Make the short path of a host's tree."""
    files = make_directory(paths.host_files(host))
    link = paths.host_root(host)
    if link.is_symlink() and link.readlink() == files:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(files)


def write_host(host: str, operator_key: str) -> str:
    """Write one host's tree; its public host key."""
    root = paths.host_files(host)
    for directory in ("etc", "srv", "var", "var/lib", "home", "run"):
        make_directory(root / directory)
    make_directory(root / "var/log", mode=0o1777)
    make_directory(root / "tmp", mode=0o1777)
    make_directory(root / "home" / LOGIN_USER, LOGIN_USER, 0o750)
    host_key = tls.ensure_ssh_key(root / "etc/ssh/ssh_host_ed25519_key", host)
    make_directory(root / "etc/ssh/authorized_keys")
    is_database = any(host in environment.database_hosts for environment in places())
    if is_database:
        # Who promotes and rebuilds logs in as the owner of the cluster.
        write_as(root / f"etc/ssh/authorized_keys/{DATABASE_USER}", f"{operator_key} operator\n")
    logins = f"{operator_key} operator\n{object_copy.login(host)}"
    write_as(root / f"etc/ssh/authorized_keys/{LOGIN_USER}", logins)
    archivist_key = tls.ensure_ssh_key(paths.ARCHIVIST_KEY, "archivist")
    write_as(root / "etc/ssh/authorized_keys/root", f"{archivist_key} archivist\n", mode=0o600)
    write_as(
        root / "etc/ssh/sshd_config",
        render(
            "sshd_config.j2",
            host=host,
            root=paths.host_root(host),
            address=address(host),
            port=SSH_PORT,
            logins=[LOGIN_USER, DATABASE_USER] if is_database else [LOGIN_USER],
            login_user=LOGIN_USER,
            marker=marker(host),
        ),
    )
    if backups.stanza_of(host) is not None:
        backups.write_keys(host, root, operator_key)
    write_as(
        root / "usr/bin/supervisorctl",
        render(
            "supervisorctl.sh.j2",
            host=host,
            root=paths.host_root(host),
            supervisor_dir=paths.SUPERVISOR_DIR,
        ),
        mode=0o755,
    )
    for service in SERVICES[host]:
        write = _WRITERS.get(service)
        if write is not None:
            write(host, root)
    if environment_of(host) is not None:
        _change_directories(root)
    if is_database:
        # Where the backup before a change is made.
        make_directory(root / "var/lib/sebenza", LOGIN_USER)
    _supervisor(host, root, programs(host))
    return host_key


def _supervisor(host: str, root: Path, host_programs: list[Program]) -> None:
    write_as(
        root / "etc/supervisor/supervisord.conf",
        render(
            "supervisord.conf.j2",
            host=host,
            root=paths.host_root(host),
            login_user=LOGIN_USER,
            programs=[
                {
                    **vars(program),
                    "environment": {MARKER_VARIABLE: marker(host), **program.environment},
                }
                for program in host_programs
            ],
        ),
    )


def _change_directories(root: Path) -> None:
    """Where procedures keep the marker and the fence: on application hosts and load balancers."""
    make_directory(root / "var/deployment", LOGIN_USER)
    make_directory(root / "var/lib/sebenza", LOGIN_USER)


def _haproxy(host: str, root: Path) -> None:
    environment = environment_of(host)
    assert environment is not None
    make_directory(root / "run/haproxy")
    make_directory(root / "etc/haproxy/maps", LOGIN_USER)
    # HAProxy does not start without its map file.
    if not (root / MAP_FILE).exists():
        write_as(root / MAP_FILE, map_line("blue"), LOGIN_USER)
    tls.ensure_certificate(
        root / "etc/haproxy/certs",
        "site",
        [each.hostname for each in ENVIRONMENTS.values()],
        [address(name) for name in environment.load_balancers],
    )
    host_root = paths.host_root(host)
    write_as(
        root / "etc/haproxy/haproxy.cfg",
        render(
            "haproxy.cfg.j2",
            bind_address=address(host),
            https_port=HTTPS_PORT,
            http_port=HTTP_PORT,
            stats_address=address(host),
            stats_port=STATS_PORT,
            user="haproxy",
            group="haproxy",
            admin_group=accounts.primary_group(LOGIN_USER),
            admin_socket=host_root / "run/haproxy/admin.sock",
            certificate=host_root / "etc/haproxy/certs/site.pem",
            map_file=host_root / MAP_FILE,
            map_key=MAP_KEY,
            frontend="fe_https",
            log_target="stdout format raw local0",
            hostname=environment.hostname,
            health_path="/health",
            colors=[
                {"name": color, "backend": color_backend(color), "port": ports[0]}
                for color, ports in COLOR_PORTS.items()
            ],
            servers=[{"name": name, "address": address(name)} for name in environment.application_hosts],
            source_address=address(host),
        ),
    )


def _nginx(host: str, root: Path) -> None:
    make_directory(root / "var/log/nginx", "www-data")
    make_directory(root / "var/lib/nginx", "www-data")
    host_root = paths.host_root(host)
    write_as(
        root / "etc/nginx/nginx.conf",
        render("nginx.conf.j2", host=host, root=host_root, nginx_user="www-data"),
    )
    write_as(
        root / "etc/nginx/conf.d/sebenza.conf",
        render(
            "nginx-sebenza.conf.j2",
            bind_address=address(host),
            process_address=address(host),
            log_dir=host_root / "var/log/nginx",
            colors=[
                {"name": color, "port": ports[0], "process_port": ports[1]} for color, ports in COLOR_PORTS.items()
            ],
        ),
    )


def _pm2(host: str, root: Path) -> None:
    for directory in ("srv/sebenza", "srv/sebenza/releases", "srv/sebenza/colors", "var/log/sebenza"):
        make_directory(root / directory, LOGIN_USER)
    make_directory(root / "home" / LOGIN_USER / ".pm2", LOGIN_USER, 0o700)
    write_as(
        root / "etc/sebenza/pm2-host.sh",
        render("pm2-host.sh.j2", node=paths.program("node"), pm2=paths.PM2, pm2_daemon=paths.PM2_DAEMON),
    )


def _postgresql(host: str, root: Path) -> None:
    make_directory(root / "run/postgresql", "postgres")
    make_directory(root / "var/lib/postgresql", "postgres", 0o700)
    host_root = paths.host_root(host)
    write_as(
        root / "etc/postgresql/postgresql.conf",
        render(
            "postgresql.conf.j2",
            host=host,
            root=host_root,
            address=address(host),
            port=POSTGRES_PORT,
            stanza=backups.stanza_of(host),
            of_secondary_site=host in SECONDARY_SITE.database_hosts,
        ),
    )
    write_as(root / "etc/postgresql/database-guard.sh", (paths.HOST_TEMPLATES / "database-guard.sh").read_text())
    write_as(
        root / "etc/postgresql/postgresql.sh",
        render(
            "postgresql.sh.j2",
            host=host,
            state_dir=host_root / "var/lib/postgresql",
            command=f"{paths.POSTGRES_BIN}/postgres -D {host_root}/var/lib/postgresql/main"
            f" -c config_file={host_root}/etc/postgresql/postgresql.conf",
            data=host_root / "var/lib/postgresql/main",
            bin=paths.POSTGRES_BIN,
            witnesses=_witnesses(host),
            health_user=HEALTH_USER,
            guard=host_root / "etc/postgresql/database-guard.sh",
        ),
    )
    if backups.stanza_of(host) is not None:
        values = backups.configuration_values(host)
        write_as(root / "etc/pgbackrest.conf", render("pgbackrest.conf.j2", **values), DATABASE_USER, 0o600)
        write_as(root / "etc/pgbackrest/ssh.sh", render("pgbackrest-ssh.sh.j2", root=host_root), mode=0o755)
    write_as(
        root / "etc/postgresql/pg_hba.conf",
        render(
            "pg_hba.conf.j2",
            network=CLIENT_NETWORK,
            health_user=HEALTH_USER,
            replication_user=REPLICATION_USER,
        ),
    )


def _witnesses(host: str) -> list[str]:
    """The database servers of production's other site, which a former primary asks before it starts."""
    first, second = ENVIRONMENTS["production"].database_hosts, SECONDARY_SITE.database_hosts
    if not has_secondary_site() or host not in (*first, *second):
        return []
    return [endpoint(other, POSTGRES_PORT) for other in (second if host in first else first)]


def _database_endpoint(host: str, root: Path) -> None:
    make_directory(root / "run/haproxy")
    make_directory(root / "var/lib/sebenza", LOGIN_USER)
    for file, content in ((PAUSE_MAP, "paused_until 0\n"), (STATE_FILE, "")):
        make_directory((root / file).parent, LOGIN_USER)
        # What a procedure has written stays; HAProxy does not start without its map.
        if not (root / file).exists():
            write_as(root / file, content, LOGIN_USER)
    host_root = paths.host_root(host)
    script = "database-endpoint.lua"
    write_as(root / "etc/haproxy" / script, (paths.HOST_TEMPLATES / script).read_text())
    write_as(
        root / "etc/haproxy/database.cfg",
        render(
            "database-endpoint.cfg.j2",
            user="haproxy",
            group="haproxy",
            admin_group=accounts.primary_group(LOGIN_USER),
            admin_socket=host_root / "run/haproxy/admin.sock",
            pause_map=host_root / PAUSE_MAP,
            pause_script=host_root / "etc/haproxy" / script,
            state_file=host_root / STATE_FILE,
            log_target="stdout format raw local0",
            proxy=DATABASE_PROXY,
            bind_address=address(host),
            source_address=address(host),
            port=POSTGRES_PORT,
            health_user=HEALTH_USER,
            startup_message=postgres_protocol.startup_message(HEALTH_USER, "postgres").hex(),
            role_query=postgres_protocol.query("SELECT pg_is_in_recovery()").hex(),
            servers=[
                {"name": name, "address": address(name), "port": POSTGRES_PORT}
                for name in endpoint_of(host).database_hosts
            ],
        ),
    )


def _cache_environment(host: str) -> LabEnvironment:
    return next(each for each in places() if each.cache_host == host)


def _redis(host: str, root: Path) -> None:
    make_directory(root / "var/lib/redis", "redis")
    write_as(
        root / "etc/redis/redis.conf",
        render(
            "redis.conf.j2",
            host=host,
            root=paths.host_root(host),
            address=address(host),
            port=REDIS_PORT,
            password=lab_secrets().cache(_cache_environment(host).name),
        ),
        user="redis",
        mode=0o600,
    )


def _rclone(host: str, root: Path) -> None:
    make_directory(root / "srv/s3", LOGIN_USER)
    make_directory(root / "srv/s3/sebenza", LOGIN_USER)
    # pgBackRest 2.45 looks for an address among the DNS names only.
    names = [f"{host}.sebenza.lab", "localhost", address(host)]
    tls.ensure_certificate(root / "etc/rclone", "storage", names, [address(host)])
    for file in ("storage.key", "storage.crt"):
        accounts.own(root / "etc/rclone" / file, LOGIN_USER)
    write_as(root / "etc/rclone/rclone.conf", "", LOGIN_USER, 0o600)
    write_as(
        root / "etc/rclone/serve.sh",
        render(
            "rclone-serve.sh.j2",
            root=paths.host_root(host),
            rclone=paths.RCLONE,
            address=address(host),
            port=STORAGE_PORT,
            keys=lab_secrets().storage_keys(host),
        ),
        LOGIN_USER,
        0o600,
    )


def _prometheus(_: str, root: Path) -> None:
    for directory in ("var/lib/prometheus", "var/lib/alertmanager"):
        make_directory(root / directory, "prometheus")


def _mailbox(_: str, root: Path) -> None:
    make_directory(root / "var/lib/mailbox", mode=0o700)


_WRITERS = {
    "haproxy": _haproxy,
    "nginx": _nginx,
    "pm2": _pm2,
    "postgresql": _postgresql,
    "database-endpoint": _database_endpoint,
    "redis": _redis,
    "rclone": _rclone,
    "prometheus": _prometheus,
    "mailbox": _mailbox,
    "knot": nameserver.write_server,
    "unbound": nameserver.write_resolver,
    "object-copy": object_copy.write,
}
