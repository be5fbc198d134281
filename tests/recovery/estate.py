"""A database pair behind its endpoint as a procedure meets it: real SSH, supervisor, HAProxy and PostgreSQL."""

from __future__ import annotations

import csv
import grp
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jinja2

from lab import postgres_protocol
from lab.preflight import prepare_machine
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.host_scripts import include_dir
from tests.postgres_pair import BIN, PASSWORD, ROLE, Server, postgres_pair, until
from tests.systems.estates import changed
from tests.systems.processes import server
from tests.systems.sshd import SshServer

ADDRESSES = {"db1": "127.91.7.1", "db2": "127.91.7.2", "dbendpoint": "127.91.7.3"}
SUPERVISOR = """
[supervisord]
nodaemon=true
logfile={root}/supervisord.log
pidfile={root}/supervisord.pid
[unix_http_server]
file={root}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{root}/supervisor.sock
"""
PROGRAM = """
[program:{name}]
command={bin}/postgres -D {data} -c config_file={root}/postgresql.conf
user=postgres
autostart=false
autorestart=true
startsecs=1
stopsignal=INT
stopwaitsecs=2
killasgroup=true
stdout_logfile={root}/server.log
redirect_stderr=true
"""


class SwitchEstate:
    """The servers, and what the inventory says of them."""

    def __init__(self, root: Path, db1: Server, db2: Server, sshd: SshServer) -> None:
        self.root, self.servers, self.sshd = root, {"db1": db1, "db2": db2}, sshd
        self.port = db1.port
        self.endpoint = (ADDRESSES["dbendpoint"], self.port)
        self.admin_socket = root / "admin.sock"
        self.environment = self._environment()
        self._runs = 0
        self.haproxy: subprocess.Popen[str] | None = None

    def _environment(self) -> Environment:
        base = changed("production")

        def host(name: str, role: str) -> Host:
            known = base.host(name)
            place = self.servers[name].root if name in self.servers else self.root / "endpoint"
            ssh = known.ssh.model_copy(update={"port": self.sshd.port, "host_key": self.sshd.host_key})
            return known.model_copy(update={"address": ADDRESSES[name], "root_dir": str(place), "ssh": ssh})

        proxy = base.database.proxy.model_copy(
            update={"admin_socket": "/../admin.sock", "pause_map": "/pause.map", "state_file": "/database.state"}
        )
        manager = base.service_manager.model_copy(
            update={"kind": "supervisor", "command": self._control(), "units": {"postgresql": "{host}"}}
        )
        policy = base.policies.database_switch
        assert policy is not None
        policies = base.policies.model_copy(
            update={"database_switch": policy.model_copy(update={"stop_timeout_seconds": 10})}
        )
        return base.model_copy(
            update={
                "hosts": (host("db1", "database"), host("db2", "database"), host("dbendpoint", "database_endpoint")),
                "service_manager": manager,
                "policies": policies,
                "database": base.database.model_copy(
                    update={
                        "endpoint": f"{ADDRESSES['dbendpoint']}:{self.port}",
                        "port": self.port,
                        "name": "shop",
                        "data_dir": "/data",
                        "config_file": "/postgresql.conf",
                        "socket_dir": "/run",
                        "state_dir": "/state",
                        "proxy": proxy,
                    }
                ),
            }
        )

    def _control(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.root / "supervisord.conf"))

    def control(self, *arguments: str) -> str:
        """What the service manager answers."""
        done = subprocess.run([*self._control(), *arguments], capture_output=True, text=True, check=False)
        return done.stdout

    def runtime(self, command: str) -> str:
        """What HAProxy answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.admin_socket))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def endpoint_process(self) -> str:
        """The process id of the HAProxy that answers."""
        lines = self.runtime("show info").splitlines()
        return next((line.partition(": ")[2] for line in lines if line.startswith("Pid:")), "")

    def passes_check(self, name: str) -> bool:
        """Whether HAProxy has asked this server, and takes it for the primary."""
        rows = csv.DictReader(self.runtime("show stat").lstrip("# ").splitlines())
        return any(row["svname"] == name and row["check_status"].startswith("L7OK") for row in rows)

    def run(self, ledger: Ledger, number: int | None = None, *, emergency: bool = False) -> ChangeRun:
        """A run that holds the environment; the same number is the same run, tried again."""
        if number is None:
            self._runs += 1
            number = self._runs
        holder = Holder("switch_database_primary.production", f"manual__{number}", "thandi")
        run = ChangeRun(ledger, self.environment, holder, conf={"reason": "a test of the switch"})
        run.is_emergency = emergency
        return run

    def kill(self, name: str) -> None:
        """SIGKILL to all of a server; it stays dead."""
        pid = int((self.servers[name].data / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        for frozen in (pid, *map(int, children)):
            os.kill(frozen, signal.SIGSTOP)
        # Its stop signal is never acted upon, and after two seconds the group is killed.
        self.control("stop", name)
        for child in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        until(lambda: "STOPPED" in self.control("status", name), f"{name} is dead")


@contextmanager
def switch_estate(setenv: Any) -> Iterator[SwitchEstate]:
    """All of it, up; `setenv` sets the Airflow connections."""
    prepare_machine()
    with ExitStack() as stack:
        db1, db2 = stack.enter_context(postgres_pair((ADDRESSES["db1"], ADDRESSES["db2"])))
        root = Path(tempfile.mkdtemp(prefix="sebenza-switch-"))
        stack.callback(shutil.rmtree, root)
        root.chmod(0o755)
        (root / "endpoint").mkdir()
        sshd = SshServer(root)
        listen = "".join(f"ListenAddress {address}:{sshd.port}\n" for address in ADDRESSES.values())
        sshd.config.write_text(sshd.config.read_text() + listen)
        stack.enter_context(sshd.running())
        db1.query("CREATE ROLE sebenza_health LOGIN")
        db1.query("CREATE ROLE shop LOGIN PASSWORD 'shop'")
        db1.query("ALTER ROLE postgres PASSWORD 'super'")
        db1.query("CREATE DATABASE shop OWNER shop")
        estate = SwitchEstate(root, db1, db2, sshd)
        _set_connections(estate, setenv)
        _start_supervisor(estate, stack)
        stack.enter_context(_haproxy(estate))
        yield estate


def _set_connections(estate: SwitchEstate, setenv: Any) -> None:
    as_owner = json.loads(estate.sshd.connection())
    as_owner["login"] = "postgres"
    setenv("AIRFLOW_CONN_SEBENZA_PRODUCTION_SSH", estate.sshd.connection())
    setenv("AIRFLOW_CONN_SEBENZA_PRODUCTION_DATABASE_SSH", json.dumps(as_owner))
    for name, login, password in (("REPLICATION", ROLE, PASSWORD), ("DATABASE", "shop", "shop")):
        value = {"conn_type": "postgres", "login": login, "password": password}
        setenv(f"AIRFLOW_CONN_SEBENZA_PRODUCTION_{name}", json.dumps(value))


def _start_supervisor(estate: SwitchEstate, stack: ExitStack) -> None:
    text = SUPERVISOR.format(root=estate.root)
    for one in estate.servers.values():
        one.stop()
        text += PROGRAM.format(name=one.name, bin=BIN, data=one.data, root=one.root)
    (estate.root / "supervisord.conf").write_text(text)
    argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(estate.root / "supervisord.conf")]
    log = estate.root / "supervisord.out"
    stack.enter_context(server(argv, log, lambda: "db2" in estate.control("status")))
    stack.callback(estate.control, "stop", "all")
    for name in estate.servers:
        assert "started" in estate.control("start", name)
    until(lambda: estate.servers["db2"].state().is_streaming, "the replica streams")


@contextmanager
def _haproxy(estate: SwitchEstate) -> Iterator[None]:
    endpoint, hosts = estate.root / "endpoint", include_dir() / "hosts"
    (endpoint / "pause.map").write_text("paused_until 0\n")
    (endpoint / "database.state").write_text("")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False).from_string(
        (hosts / "database-endpoint.cfg.j2").read_text()
    )
    config = estate.root / "database.cfg"
    config.write_text(
        template.render(
            user="root",
            group="root",
            admin_group=grp.getgrgid(os.getgid()).gr_name,
            admin_socket=estate.admin_socket,
            pause_map=endpoint / "pause.map",
            pause_script=hosts / "database-endpoint.lua",
            state_file=endpoint / "database.state",
            log_target="stdout format raw local0",
            proxy="database",
            bind_address=ADDRESSES["dbendpoint"],
            source_address=None,
            port=estate.port,
            health_user="sebenza_health",
            startup_message=postgres_protocol.startup_message("sebenza_health", "postgres").hex(),
            role_query=postgres_protocol.query("SELECT pg_is_in_recovery()").hex(),
            servers=[
                {"name": each.name, "address": each.address, "port": each.port} for each in estate.servers.values()
            ],
        )
        + "\n"
    )

    def is_ready() -> bool:
        if not estate.admin_socket.exists():
            return False
        rows = csv.DictReader(estate.runtime("show stat").lstrip("# ").splitlines())
        # Until its checks have ended, HAProxy takes every server for the primary.
        # "UP 1/3" is one of them too: on its way down.
        return [row["svname"] for row in rows if row["svname"] in estate.servers and "UP" in row["status"]] == ["db1"]

    with server(["/usr/sbin/haproxy", "-W", "-f", str(config)], estate.root / "haproxy.log", is_ready) as process:
        estate.haproxy = process
        yield
