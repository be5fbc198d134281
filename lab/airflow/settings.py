"""Where the local Airflow lives, and how it is configured.

One frozen object holds paths and ports, so that a test can run a second Airflow beside
the lab's. The configuration is a real ``airflow.cfg``: with ``AIRFLOW_HOME`` set, the
``airflow`` command works on the same instance by hand.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import json
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.addresses import AIRFLOW_ADDRESS, AIRFLOW_DEFAULT_PORT, airflow_port
from lab.airflow.celery import CelerySettings
from sebenza_ops.environments.queues import DEFAULT_QUEUE

DEFAULT_PORT = AIRFLOW_DEFAULT_PORT
ADDRESS = AIRFLOW_ADDRESS

# A deployment holds one slot while it bakes and two while it deploys to hosts in
# parallel; this leaves room for both one-host environments and the scheduled procedures.
# Idle workers are forks of the scheduler and cost next to nothing.
PARALLELISM = 8


class AirflowSettingsError(ValueError):
    """A setting of the local Airflow makes no sense; the message says which and what to do."""


@dataclass(frozen=True)
class AirflowSettings:
    """Everything that tells one local Airflow from another.

    Args:
        home: AIRFLOW_HOME; holds configuration, metadata, users and logs.
        port: TCP port of the API server on loopback.
        dags_folders: DAG bundles; the first is the project's own.
        plugins_folder: on the path of every Airflow process.
        environments_directory: the inventory (``SEBENZA_ENVIRONMENTS``).
        connections_file: Airflow connections, read anew at each look-up.
        celery: PostgreSQL, Redis and workers in place of SQLite and LocalExecutor.
    """

    home: Path
    port: int = DEFAULT_PORT
    dags_folders: tuple[Path, ...] = (paths.CHECKOUT / "dags",)
    plugins_folder: Path = paths.CHECKOUT / "plugins"
    environments_directory: Path = paths.ENVIRONMENTS_DIR
    connections_file: Path = paths.CONNECTIONS_FILE
    celery: CelerySettings | None = None

    @property
    def url(self) -> str:
        """Base URL of the UI and the API."""
        return f"http://{ADDRESS}:{self.port}"

    @property
    def logs_directory(self) -> Path:
        """Logs of components and tasks."""
        return self.home / "logs"

    @property
    def users_file(self) -> Path:
        """Names, roles and generated passwords; readable by the owner only."""
        return self.home / "users.json"

    @property
    def database_file(self) -> Path:
        """The metadata database."""
        return self.home / "airflow.db"

    @property
    def supervisor_directory(self) -> Path:
        """A short directory for the supervisor's socket: the path of a Unix socket has at most 107 bytes."""
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"sebenza-airflow-{os.getuid()}-{name}"

    def process_environment(self) -> dict[str, str]:
        """Environment of every Airflow process.

        The caller's own Airflow settings are dropped, because they would override the file, and
        so are proxies: all that the lab's Airflow talks to is on loopback. Compiled modules are kept
        whatever the caller does with its own: without them each process compiles Airflow for seconds.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW_", "AIRFLOW__", "PYTEST_", "COV_"))
            and name.lower() not in {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy"}
            and name != "PYTHONDONTWRITEBYTECODE"
        }
        return kept | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONFIG": str(self.home / "airflow.cfg"),
            "PYTHONPATH": str(self.plugins_folder),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "SEBENZA_ENVIRONMENTS": str(self.environments_directory),
            "SEBENZA_JOURNAL": str(paths.JOURNAL_DIR),
            "TZ": "UTC",
        }

    def write_configuration(self) -> Path:
        """Write ``airflow.cfg`` (owner only) and return its path."""
        self.home.mkdir(parents=True, exist_ok=True)
        parser = configparser.RawConfigParser()
        parser.read_dict(self.sections())
        text = io.StringIO()
        parser.write(text)
        path = self.home / "airflow.cfg"
        write_private(path, text.getvalue())
        return path

    def sections(self) -> dict[str, dict[str, str]]:
        """The sections of ``airflow.cfg``."""
        found = self._local_sections()
        for name, values in (self.celery.sections() if self.celery is not None else {}).items():
            found[name] = found.get(name, {}) | values
        return found

    def _local_sections(self) -> dict[str, dict[str, str]]:
        keys = self._keys()
        bundles = [
            {
                "name": "procedures" if number == 0 else f"extra-{number}",
                "classpath": "sebenza_ops.dag_bundle.ProceduresBundle",
                "kwargs": {"path": str(folder)},
            }
            for number, folder in enumerate(self.dags_folders)
        ]
        return {
            "core": {
                "dags_folder": str(self.dags_folders[0]),
                "plugins_folder": str(self.plugins_folder),
                "executor": "sebenza_ops.prompt_executor.PromptLocalExecutor",
                "parallelism": str(PARALLELISM),
                "auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
                "load_examples": "False",
                "execution_api_server_url": f"{self.url}/execution/",
                # The default asks the resolver for a full name, which can take seconds without a network.
                "hostname_callable": "socket.gethostname",
                "fernet_key": keys["fernet_key"],
                "killed_task_cleanup_time": "10",
                "min_serialized_dag_update_interval": "5",
            },
            # Procedures that serve all environments; the others wait in the queue of theirs.
            "operators": {"default_queue": DEFAULT_QUEUE},
            "database": {
                "sql_alchemy_conn": f"sqlite:///{self.database_file}",
            },
            "logging": {
                "base_log_folder": str(self.logs_directory),
                "dag_processor_child_process_log_directory": str(self.logs_directory / "dag_processor"),
                "colored_console_log": "False",
            },
            "api": {
                "base_url": self.url,
                "host": ADDRESS,
                "port": str(self.port),
                "workers": "1",
                "secret_key": keys["api_secret_key"],
                "instance_name": "Sebenza Ops (lab)",
                "expose_config": "non-sensitive-only",
            },
            "api_auth": {"jwt_secret": keys["jwt_secret"]},
            # Reads the file at each look-up: a lab that comes up later needs no restart here.
            "secrets": {
                "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
                "backend_kwargs": json.dumps({"connections_file_path": str(self.connections_file)}),
            },
            "scheduler": {
                # Seconds that a killed worker's task is blind: heartbeats each 3 s, given up after 15 s,
                # looked for each 3 s. Measured with these: 18.6 s to be running again (default: 311 s).
                "task_instance_heartbeat_timeout": "15",
                "task_instance_heartbeat_sec": "3",
                "task_instance_heartbeat_timeout_detection_interval": "3",
                "job_heartbeat_sec": "2",
                "scheduler_heartbeat_sec": "1",
                "scheduler_health_check_threshold": "10",
                "orphaned_tasks_check_interval": "10",
                # The executor rests in the scheduler's place, and is woken (sebenza_ops/prompt_executor.py).
                "scheduler_idle_sleep_time": "0",
                "trigger_timeout_check_interval": "5",
                "task_queued_timeout": "120",
                "task_queued_timeout_check_interval": "15",
            },
            "workers": {
                "min_heartbeat_interval": "3",
                "max_failed_heartbeats": "5",
                # The API server restarts in about 10 s; a running task waits for it.
                "execution_api_retries": "8",
                "execution_api_retry_wait_max": "10",
            },
            "triggerer": {
                "job_heartbeat_sec": "2",
                "triggerer_health_check_threshold": "6",
            },
            "dag_processor": {
                # A changed file is parsed at once in any case (sort mode "modified_time"), and all files
                # are when the inventory has changed (the bundle, sebenza_ops/dag_bundle.py).
                "min_file_process_interval": "600",
                "refresh_interval": "10",
                "bundle_refresh_check_interval": "2",
                "parsing_processes": "2",
                "dag_bundle_config_list": json.dumps(bundles),
                "dag_version_inflation_check_level": "error",
                "print_stats_interval": "0",
            },
            # A cleared task starts its remote job again instead of finding the old one's success.
            "state_store": {"clear_on_success": "True"},
            "fab": {
                # The limit (5 log-ins in 40 s) is for servers that strangers can reach.
                "auth_rate_limited": "False",
            },
        }

    def _keys(self) -> dict[str, str]:
        """Keys that must outlive a restart, generated once."""
        path = self.home / "keys.json"
        if path.exists():
            keys: dict[str, str] = json.loads(path.read_text())
            return keys
        keys = {
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "api_secret_key": secrets.token_urlsafe(32),
            "jwt_secret": secrets.token_urlsafe(48),
        }
        write_private(path, json.dumps(keys, indent=2))
        return keys


def lab_settings() -> AirflowSettings:
    """Settings of the lab's own Airflow.

    Environment: ``SEBENZA_AIRFLOW_PORT`` moves the port (default 8080), ``SEBENZA_LAB_DIR`` the state directory
    (default: see ``lab.paths``), ``SEBENZA_EXTRA_DAGS`` adds a folder of DAGs (for trying things out).

    Raises:
        AirflowSettingsError: the port is no port.
    """
    try:
        port = airflow_port()
    except ValueError as error:
        raise AirflowSettingsError(str(error)) from error
    extra = os.environ.get("SEBENZA_EXTRA_DAGS")
    return AirflowSettings(
        home=paths.LAB_DIR / "airflow",
        port=port,
        dags_folders=(paths.CHECKOUT / "dags", *((Path(extra).resolve(),) if extra else ())),
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
