"""Application hosts and load balancers: putting a release into a color, and making a color live."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lab import paths, postgres, remote, supervision
from lab.accounts import LOGIN_USER, ids, make_directory, write_as
from lab.addresses import COLOR_PORTS, MAILBOX_HTTP_PORT, endpoint
from lab.configuration import MAP_FILE, MAP_KEY, color_backend, map_line
from lab.haproxy import put_into_rotation, runtime_command
from lab.hosts import ENVIRONMENTS, LabEnvironment
from lab.releases import Artifact
from lab.rendering import render
from lab.secrets import lab_secrets
from lab.waiting import LabError, until
from sebenza_ops.environments.env_file import ApplicationSecrets, render_env_file
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Color

# Longer than the application's own drain (25 s): PM2 kills what is left after it.
_KILL_TIMEOUT_MS = 35_000
_LISTEN_TIMEOUT_MS = 10_000


def color_dir(host: str, color: str) -> Path:
    """Where a color's env file and PM2 file are."""
    return paths.host_files(host) / "srv/sebenza/colors" / color


def release_dir(host: str, release_id: str) -> Path:
    """Where a release is unpacked."""
    return paths.host_files(host) / "srv/sebenza/releases" / release_id


def pm2_home(host: str) -> Path:
    """PM2's directory of a host."""
    return paths.host_root(host) / "home" / LOGIN_USER / ".pm2"


def unpack(host: str, artifact: Artifact) -> None:
    """Unpack a release on a host unless it is there, as the login user's."""
    target = release_dir(host, artifact.release_id)
    stamp = target / ".artifact-sha256"
    if stamp.exists() and stamp.read_text().strip() == artifact.sha256:
        return
    work = Path(tempfile.mkdtemp(prefix=".install-", dir=target.parent))
    try:
        user_id, group_id = ids(LOGIN_USER)
        with tarfile.open(artifact.archive) as archive:
            members = archive.getmembers()
            for member in members:
                member.uid, member.gid, member.uname, member.gname = user_id, group_id, "", ""
            # Debian 12's own Python is 3.11.2, which has no filters yet; the archive is one that the lab has built.
            safely: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            archive.extractall(work, members, numeric_owner=True, **safely)
        work.chmod(0o755)
        shutil.chown(work, user_id, group_id)
        write_as(work / ".artifact-sha256", f"{artifact.sha256}\n", LOGIN_USER)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def env_file(place: LabEnvironment, host: str, color: str, release_id: str) -> str:
    """The application's env file for a color of a host, as the product writes it."""
    name = place.name
    environment = load_inventory(paths.ENVIRONMENTS_DIR).environments[name]
    secrets = ApplicationSecrets(
        database_url=SecretStr(postgres.database_url(place)),
        cache_url=SecretStr(f"redis://:{lab_secrets().cache(name)}@{place.cache_endpoint}/0"),
        alerts_webhook=SecretStr(f"http://{endpoint('mailbox', MAILBOX_HTTP_PORT)}/webhook/alerts/{name}"),
    )
    return render_env_file(environment, Color(color), environment.host(host), release_id, secrets)


def processes_per_host(name: str) -> int:
    """How many processes a color has on a host of an environment."""
    return load_inventory(paths.ENVIRONMENTS_DIR).environments[name].application.processes_per_host


def configure(environment: LabEnvironment, host: str, color: str, release_id: str) -> None:
    """Write a color's env file (its owner's alone) and PM2 file."""
    directory = color_dir(host, color)
    make_directory(directory, LOGIN_USER)
    make_directory(directory / "run", LOGIN_USER)
    root = paths.host_root(host)
    write_as(directory / "app.env", env_file(environment, host, color, release_id), LOGIN_USER, 0o600)
    write_as(
        directory / "ecosystem.config.js",
        render(
            "ecosystem.config.js.j2",
            app_name=f"sebenza-{color}",
            release_dir=root / "srv/sebenza/releases" / release_id,
            instances=processes_per_host(environment.name),
            listen_timeout_ms=_LISTEN_TIMEOUT_MS,
            kill_timeout_ms=_KILL_TIMEOUT_MS,
            log_dir=root / "var/log/sebenza",
            environment=environment.name,
            color=color,
            env_file=root / f"srv/sebenza/colors/{color}/app.env",
            run_dir=root / f"srv/sebenza/colors/{color}/run",
        ),
        LOGIN_USER,
    )


def migrate_and_seed(environment: LabEnvironment, host: str, color: str, release_id: str) -> None:
    """Apply the release's expand migrations, then add the sample data (nothing where it is)."""
    release = paths.host_root(host) / "srv/sebenza/releases" / release_id
    settings = ["--settings", str(paths.host_root(host) / f"srv/sebenza/colors/{color}/app.env")]
    node = str(paths.program("node"))
    remote.as_login_user(
        host,
        [node, "bin/migrate.js", *settings, "up"],
        f"migrating {environment.database_name}",
        cwd=str(release),
    )
    remote.as_login_user(
        host, [node, "bin/seed.js", *settings], f"seeding {environment.database_name}", cwd=str(release)
    )


def pm2(host: str, *arguments: str) -> str:
    """Run a PM2 command on a host's daemon, which must run; its output."""
    until(
        lambda: (pm2_home(host) / "rpc.sock").is_socket(),
        f"{host}: PM2's daemon listens (log: {paths.host_files(host) / 'var/log/pm2.log'})",
    )
    return remote.as_login_user(
        host,
        [str(paths.program("node")), str(paths.PM2), "-s", *arguments],
        f"pm2 {' '.join(arguments)}",
        environment={"PM2_HOME": str(pm2_home(host))},
    )


def processes(host: str) -> list[dict[str, Any]]:
    """Name, pid and status of each process that a host's PM2 knows; never its environment variables."""
    listed: list[dict[str, Any]] = json.loads(pm2(host, "jlist") or "[]")
    return [{"name": each["name"], "pid": each["pid"], "status": each["pm2_env"]["status"]} for each in listed]


def start_color(host: str, color: str) -> None:
    """Start a color anew from its PM2 file, and save PM2's list so that it survives a restart of the host."""
    _delete(host, f"sebenza-{color}")
    pm2(host, "start", str(paths.host_root(host) / f"srv/sebenza/colors/{color}/ecosystem.config.js"))
    pm2(host, "save", "--force")


def stop_color(host: str, color: str) -> None:
    """Remove a color from PM2, if it is there."""
    if _delete(host, f"sebenza-{color}"):
        pm2(host, "save", "--force")


def _delete(host: str, name: str) -> bool:
    """Remove a process from PM2; whether it was there."""
    if all(each["name"] != name for each in processes(host)):
        return False
    try:
        pm2(host, "delete", name)
    except LabError:
        # A procedure that stops the color at this very moment has done it.
        if any(each["name"] == name for each in processes(host)):
            raise
    return True


def version_answer(host: str, color: str) -> dict[str, Any] | None:
    """What /version says on a color of a host, or None when nothing answers."""
    return _get_json(host, color, "/version")


def is_healthy(host: str, color: str) -> bool:
    """Whether /health of a color of a host answers 200."""
    answer = _get_json(host, color, "/health")
    return answer is not None and answer.get("status") in {"ok", "healthy", "up"}


def _get_json(host: str, color: str, path: str) -> dict[str, Any] | None:
    url = f"http://{endpoint(host, COLOR_PORTS[color][0])}{path}"
    done = subprocess.run(
        ["curl", "--silent", "--fail", "--max-time", "3", url], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return None
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, dict) else None


def await_color(host: str, color: str, release_id: str, deadline_seconds: float = 30.0) -> None:
    """Wait until a color of a host is healthy and answers with a release."""

    def serving() -> bool:
        answer = version_answer(host, color)
        return answer is not None and answer.get("release_id") == release_id and is_healthy(host, color)

    log = paths.host_files(host) / f"var/log/sebenza/{color}-error.log"
    try:
        until(serving, f"{host}: {release_id} is healthy in {color}", deadline_seconds)
    except LabError as error:
        last = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else ["(no error log)"]
        raise LabError(f"{error}" + "".join(f"\n  {log.name}: {line}" for line in last)) from None


def live_color(host: str) -> str | None:
    """The color that a load balancer's running map names; None when it names none or HAProxy is down."""
    try:
        shown = runtime_command(host, f"show map {paths.host_root(host) / MAP_FILE}")
    except OSError:
        return None
    for line in shown.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == MAP_KEY:
            return next((color for color in COLOR_PORTS if color_backend(color) == words[2]), None)
    return None


def make_live(environment: LabEnvironment, color: str, release_id: str) -> None:
    """Write every load balancer's map, in memory and on disk, and every marker of an environment."""
    for host in environment.load_balancers:
        write_as(paths.host_files(host) / MAP_FILE, map_line(color), LOGIN_USER)
        if supervision.is_up(host) and supervision.state(host, "haproxy").running:
            map_path = paths.host_root(host) / MAP_FILE
            runtime_command(host, f"clear map {map_path}")
            runtime_command(host, f"add map {map_path} {MAP_KEY} {color_backend(color)}")
            for each in COLOR_PORTS:
                put_into_rotation(host, color_backend(each))
    for host in environment.change_hosts:
        deployment = paths.host_files(host) / "var/deployment"
        write_as(deployment / "current-color", f"{color}\n", LOGIN_USER)
        for name in ("last-good-release", "good-releases"):
            write_as(deployment / name, f"{release_id}\n", LOGIN_USER)


def environment_named(name: str) -> LabEnvironment:
    """The lab's environment of that name; `KeyError` with the known names."""
    try:
        return ENVIRONMENTS[name]
    except KeyError:
        raise KeyError(f"the lab has no environment {name!r}; it has {', '.join(ENVIRONMENTS)}") from None
