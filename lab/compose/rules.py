"""What must hold in running containers: who they are, what they can write, what they can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lab.compose.project import Project
from lab.compose.systemd import expect

# Secrets by themselves; the URLs are made of them.
_SECRETS = (
    "airflow_database_password",
    "ledger_database_password",
    "broker_password",
    "fernet_key",
    "api_secret_key",
    "jwt_secret",
)


def check_containers(project: Project, services: Iterable[str], say: Callable[[str], None]) -> None:
    """Not root, read-only, no secret in an environment, nothing published beyond loopback, credentials confined."""
    secrets = [(project.secrets_dir / name).read_text().strip() for name in _SECRETS]
    names = list(services)
    for name in names:
        found = project.inspect(name)
        user, host = found["Config"]["User"], found["HostConfig"]
        expect(user not in ("", "0", "root"), f"{name} runs as {user or 'root'}")
        expect(host["ReadonlyRootfs"], f"{name} can write its root file system")
        expect(host["Memory"] > 0 and host["NanoCpus"] > 0, f"{name} has no limits")
        text = str(found["Config"]["Env"]) + str(found["Config"]["Cmd"]) + str(found["Config"]["Entrypoint"])
        expect(not any(secret in text for secret in secrets), f"{name} has a secret in its environment or command")
        ports = [row for rows in (found["NetworkSettings"]["Ports"] or {}).values() for row in rows or []]
        expect(all(row["HostIp"] == "127.0.0.1" for row in ports), f"{name} is published beyond loopback: {ports}")
    say(f"{len(names)} containers: not root, read-only, limited, no secret in an environment, nothing beyond loopback")
    _check_code(project)
    _check_confinement(project)
    say("code is read-only; staging's worker knows nothing of production, and not the metadata's password")


def _check_code(project: Project) -> None:
    for place in ("/opt/sebenza/dags", "/opt/sebenza/plugins", "/opt/sebenza/include/environments"):
        said = project("exec", "-T", "worker-staging", "sh", "-c", f"touch {place}/x 2>&1; true")
        expect("Read-only" in said or "denied" in said, f"worker-staging can write {place}: {said}")


def _check_confinement(project: Project) -> None:
    read = "cat /run/secrets/*"
    known = {
        name: project("exec", "-T", name, "sh", "-c", read)
        for name in ("worker-staging", "worker-production", "worker-default", "api-server")
    }
    wanted = "sebenza_production_ssh"
    expect(wanted in known["worker-production"], "worker-production does not know production")
    for name in ("worker-staging", "worker-default", "api-server"):
        expect(wanted not in known[name], f"{name} knows production's login")
    password = (project.secrets_dir / "airflow_database_password").read_text().strip()
    for name in ("worker-staging", "worker-production", "worker-default"):
        expect(password not in known[name], f"{name} knows the metadata's password")
