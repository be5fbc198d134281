"""One deployment under load: through Airflow, or by the plain shell script."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import boto3

from benchmarks.order import ENVIRONMENT
from benchmarks.session import LOAD_BALANCERS, BenchmarkError, Session, under_load
from lab import addresses, application_hosts, paths, releases
from lab.accounts import LOGIN_USER
from lab.hosts import ENVIRONMENTS
from lab.inventory import connections
from lab.load.report import LoadReport
from lab.waiting import scaled
from sebenza_ops.deployment.release import Release, artifact_key, manifest_key
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence import facts
from sebenza_ops.ledger import Deployment, Ledger

DAG_ID: Final = f"deploy_blue_green.{ENVIRONMENT}"
STANDARD_DAG_ID: Final = f"deploy_standard.{ENVIRONMENT}"
SHELL_SCRIPT: Final = Path(__file__).with_name("blue_green.sh")
ROLLING_SCRIPT: Final = Path(__file__).with_name("rolling.sh")
APPLICATION_HOSTS: Final = ENVIRONMENTS[ENVIRONMENT].application_hosts
# The least that the procedure takes; a bake that passes is subtracted from the time that is compared.
GOOD_BAKE_SECONDS: Final = 5
# Longer than the benchmarks: the old color must run when HAProxy is reloaded and restarted.
KEEP_WARM_SECONDS: Final = 3600
URL_LIFETIME_SECONDS: Final = 900


@dataclass(frozen=True)
class DagDeployment:
    """A deployment through Airflow: what the load saw, what the ledger says, and how long the run took.

    `bake_seconds` is all time in which it only watched.
    """

    report: LoadReport
    record: Deployment
    run_id: str
    run_seconds: float
    bake_seconds: float

    @property
    def wall_seconds(self) -> float:
        """The run from its start to its end without the bake."""
        return self.run_seconds - self.bake_seconds

    @property
    def requests_to_old_color(self) -> int:
        """Requests that the old color answered and that were sent after the last load balancer was switched."""
        return self.report.requests_to(str(self.record.from_color), since=float(self.record.progress["switched_at"]))


@dataclass(frozen=True)
class ShellDeployment:
    """A deployment by the shell script: what the load saw, how long it took, and when each step was done (epoch)."""

    report: LoadReport
    wall_seconds: float
    steps: dict[str, float]


def prebuild(session: Session, version: str) -> Release:
    """The release of a version, built before anything is timed."""
    session.run("build_release", {"version": version})
    sha = releases.resolve(version)
    body = _storage().get_object(Bucket=_bucket(), Key=manifest_key(sha))["Body"].read()
    return Release.model_validate_json(body)


def other_good_version(session: Session) -> str:
    """A good version that is not live now."""
    live = str(session.live().release)
    return next(version for version in ("v1.1.0", "v1.2.0") if not live.startswith(f"{version}-"))


def deploy(session: Session, release: Release, *, bake_seconds: int, expected: str = "success") -> DagDeployment:
    """Deploy blue-green through Airflow under load, until the run has ended."""
    return _deploy(session, DAG_ID, release, expected, bake_seconds=bake_seconds, keep_warm_seconds=KEEP_WARM_SECONDS)


def roll_out(session: Session, release: Release, *, bake_seconds: int) -> DagDeployment:
    """Deploy host by host through Airflow under load, until the run has ended."""
    return _deploy(session, STANDARD_DAG_ID, release, "success", bake_seconds=bake_seconds, watch_seconds=bake_seconds)


def _deploy(session: Session, dag_id: str, release: Release, expected: str, **times: int) -> DagDeployment:
    _uninstall(release)
    conf: dict[str, object] = {"version": release.version, "force_reason": "benchmark", **times}
    with under_load() as load:
        run_id = session.run(dag_id, conf, expected=expected)
        report = load.stop()
    run = session.client.dag_run(dag_id, run_id)
    ledger = Ledger.open(f"sqlite:///{paths.LAB_DIR}/ledger/ledger.db")
    return DagDeployment(
        report=report,
        record=ledger.deployments.get(dag_id, run_id),
        run_id=run_id,
        run_seconds=(_moment(run["end_date"]) - _moment(run["start_date"])).total_seconds(),
        bake_seconds=_watched_seconds(ledger, dag_id, run_id) if expected == "success" else 0.0,
    )


def deploy_by_shell(
    release: Release,
    then: Callable[[dict[str, float]], None] | None = None,
    *,
    script: Path = SHELL_SCRIPT,
    way: str | None = None,
) -> ShellDeployment:
    """Deploy with a plain shell script under load. Raises BenchmarkError with what the script said.

    Args:
        release: what is deployed.
        then: called with the script's steps when it has ended, while the load goes on.
        script: which one.
        way: the script's last argument.
    """
    if way != "pm2-reload":
        _uninstall(release)
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-") as directory, under_load() as load:
        ended, seconds = _run_script(release, Path(directory), script, way)
        if ended.returncode != 0:
            raise BenchmarkError(f"{script.name} failed: {ended.stderr.strip()}\n{ended.stdout.strip()}")
        steps = {name: float(at) for at, name in (line.split() for line in ended.stdout.splitlines())}
        if then is not None:
            then(steps)
        report = load.stop()
    return ShellDeployment(report, seconds, steps)


def _run_script(
    release: Release, directory: Path, script: Path, way: str | None
) -> tuple[subprocess.CompletedProcess[str], float]:
    url = _storage().generate_presigned_url(
        "get_object",
        Params={"Bucket": _bucket(), "Key": artifact_key(release.sha)},
        ExpiresIn=URL_LIFETIME_SECONDS,
    )
    command = [str(script), release.version, release.sha, release.sha256, url, *([way] if way else [])]
    environment = script_environment(directory)
    began = time.monotonic()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=scaled(180))
    return ended, time.monotonic() - began


def script_environment(directory: Path) -> dict[str, str]:
    """What the shell scripts need to know of the lab; the SSH configuration is made in the directory."""
    environment = load_inventory(paths.ENVIRONMENTS_DIR).environments[ENVIRONMENT]
    policy = environment.policies.blue_green
    if policy is None:
        raise BenchmarkError(f"{ENVIRONMENT} has no policy blue_green")
    ssh_config = directory / "ssh_config"
    hosts = (*LOAD_BALANCERS, *APPLICATION_HOSTS, releases.BUILD_HOST)
    ssh_config.write_text("".join(_ssh_lines(host) for host in hosts))
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "SSH_CONFIG": str(ssh_config),
        "ROOTS": str(paths.RUN_DIR),
        "LOAD_BALANCERS": " ".join(LOAD_BALANCERS),
        "APPLICATION_HOSTS": " ".join(APPLICATION_HOSTS),
        "BUILD_HOST": releases.BUILD_HOST,
        "BLUE_PORTS": " ".join(map(str, addresses.COLOR_PORTS["blue"])),
        "GREEN_PORTS": " ".join(map(str, addresses.COLOR_PORTS["green"])),
        "HTTPS_PORT": str(addresses.HTTPS_PORT),
        "PUBLIC_NAME": environment.public_hostname,
        "CA_FILE": str(paths.CA_FILE),
        "NODE_BIN_DIR": str(paths.node_bin_dir()),
        "PM2_PATH": str(paths.PM2),
        "WARM_UP_PATHS": " ".join(environment.application.warm_up_paths),
        "WARM_UP_REQUESTS": str(policy.warm_up_requests),
        "PROOF_REQUESTS": str(policy.proof_requests),
    }


def _ssh_lines(host: str) -> str:
    return (
        f"Host {host}\n  HostName {addresses.address(host)}\n  Port {addresses.SSH_PORT}\n  User {LOGIN_USER}\n"
        f"  IdentityFile {paths.OPERATOR_KEY}\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  StrictHostKeyChecking yes\n  UserKnownHostsFile {paths.KNOWN_HOSTS}\n  LogLevel ERROR\n"
    )


def _uninstall(release: Release) -> None:
    """So that both ways fetch and unpack it, as for a new release. Never of the live color."""
    for host in APPLICATION_HOSTS:
        shutil.rmtree(application_hosts.release_dir(host, release.release_id), ignore_errors=True)


def _watched_seconds(ledger: Ledger, dag_id: str, run_id: str) -> float:
    """From each line of the timeline that a watch begins to the one that the release passes, summed."""
    timeline = facts.load(ledger, dag_id, run_id).timeline
    total = 0.0
    for began in (entry.at for entry in timeline if entry.mark in ("bake", "host")):
        passed = next(entry.at for entry in timeline if entry.at >= began and "passe" in entry.text)
        total += (passed - began).total_seconds()
    return total


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _bucket() -> str:
    return load_inventory(paths.ENVIRONMENTS_DIR).environments[ENVIRONMENT].object_store.bucket


def _storage() -> Any:
    from botocore.config import Config

    connection = connections()["sebenza_object_store"]
    return boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"],
        region_name=connection["extra"]["region_name"],
        verify=connection["extra"]["verify"],
        config=Config(**connection["extra"]["config_kwargs"]),
    )
