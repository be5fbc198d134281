"""docker-compose.yaml, Dockerfile and .env.example: what they promise, read from what they say."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab import paths
from lab.airflow.celery import CelerySettings
from lab.airflow.settings import AirflowSettings
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.queues import connections_by_place, queue_of

INVENTORY: Final = load_inventory(paths.CHECKOUT / "include" / "environments")
QUEUES: Final = ["default", *(queue_of(environment) for environment in INVENTORY.environments.values())]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((paths.CHECKOUT / "docker-compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
# It plays machines, so it has what machines have; everything else is Airflow's or its databases'.
LAB: Final = {name for name, service in SERVICES.items() if service.get("profiles") == ["lab"]}
OURS: Final = sorted(set(SERVICES) - LAB)
VARIABLE: Final = re.compile(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}")
# Differ on purpose: addresses, paths and keys of containers, and sizes that .env sets.
ELSEWHERE: Final = {
    ("core", "execution_api_server_url"),
    ("core", "fernet_key"),
    ("core", "dags_folder"),
    ("core", "plugins_folder"),
    ("core", "parallelism"),
    ("database", "sql_alchemy_conn"),
    ("logging", "base_log_folder"),
    ("logging", "dag_processor_child_process_log_directory"),
    ("api", "base_url"),
    ("api", "host"),
    ("api", "port"),
    ("api", "workers"),
    ("api", "secret_key"),
    ("api", "instance_name"),
    ("api_auth", "jwt_secret"),
    ("secrets", "backend_kwargs"),
    ("dag_processor", "dag_bundle_config_list"),
    ("celery", "broker_url"),
    ("celery", "worker_concurrency"),
    # For servers that only loopback reaches.
    ("fab", "auth_rate_limited"),
}


def test_there_are_the_services_of_an_installation() -> None:
    wanted = {"database", "broker", "prepare", "api-server", "scheduler", "dag-processor"}
    wanted |= {f"{kind}-{queue}" for kind in ("worker", "triggerer") for queue in QUEUES}

    assert set(OURS) == wanted
    assert {"lab", "systemd-host"} == LAB


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["user"].partition(":")[0] not in ("0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert not service.get("privileged")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"prepare"}))
def test_a_service_is_watched(name: str) -> None:
    check = SERVICES[name]["healthcheck"]

    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@pytest.mark.parametrize("name", sorted(set(OURS) - {"prepare"}))
def test_a_service_comes_back(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_preparing_ends() -> None:
    assert SERVICES["prepare"]["restart"] == "no"
    for name in OURS:
        needs = SERVICES[name].get("depends_on", {})
        if "prepare" in needs:
            assert needs["prepare"]["condition"] == "service_completed_successfully"
    assert "prepare" in SERVICES["api-server"]["depends_on"]


def test_nothing_is_published_beyond_loopback_by_default() -> None:
    published = [_filled(port) for service in SERVICES.values() for port in service.get("ports", [])]

    assert published == ["127.0.0.1:8080:8080"]


def test_databases_have_no_way_out() -> None:
    assert COMPOSE["networks"]["data"]["internal"] is True
    for name in ("database", "broker"):
        assert SERVICES[name]["networks"] == ["data"]


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queue_has_its_own_worker_and_triggerer_with_its_own_connections(queue: str) -> None:
    for kind in ("worker", "triggerer"):
        service = SERVICES[f"{kind}-{queue}"]

        assert service["command"][-2:] == ["--queues", queue]
        assert _connections(service) == [f"connections_{queue}"]


def test_nobody_else_has_an_environments_connections() -> None:
    for name in ("api-server", "scheduler", "dag-processor", "prepare"):
        assert _connections(SERVICES[name]) == ["connections_core"]
    core = set(connections_by_place(INVENTORY)["core"])
    for environment in INVENTORY.environments.values():
        assert environment.ssh_conn_id not in core
        assert environment.database.conn_id not in core


def test_workers_know_neither_the_metadata_nor_airflows_keys() -> None:
    for queue in QUEUES:
        service = SERVICES[f"worker-{queue}"]
        known = {_source(secret) for secret in service["secrets"]}

        assert known == {"broker_url", "result_backend", f"connections_{queue}"}
        assert not any("SQL_ALCHEMY" in name or "KEY" in name for name in service["environment"])


def test_no_secret_is_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET_KEY|FERNET|JWT|SQL_ALCHEMY_CONN|BROKER_URL|RESULT_BACKEND", variable)
            if secret:
                assert variable.endswith("_CMD"), f"{name}: {variable}"
                file = re.fullmatch(r"cat /run/secrets/([a-z_]+)", value)
                assert file is not None, f"{name}: {variable}={value}"
                assert file[1] in {_source(each) for each in service["secrets"]}, f"{name} lacks {file[1]}"


def test_every_secret_is_a_file_and_is_used() -> None:
    used = {_source(secret) for service in SERVICES.values() for secret in service.get("secrets", [])}

    assert used == set(COMPOSE["secrets"])
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


def test_settings_are_those_of_the_local_airflow() -> None:
    """What docs/airflow.md says of settings is true of an installation too."""
    environment = SERVICES["api-server"]["environment"]
    settings = AirflowSettings(home=Path("/nowhere"), celery=CelerySettings("postgresql://x", "redis://x", ()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AirflowSettings, "_keys", lambda _: dict.fromkeys(("fernet_key", "api_secret_key", "jwt_secret")))
        sections = settings.sections()

    for section, values in sections.items():
        for key, value in values.items():
            if (section, key) not in ELSEWHERE:
                found = environment.get(f"AIRFLOW__{section}__{key}".upper())
                assert _meaning(found) == _meaning(value), f"[{section}] {key}"


def test_every_process_of_airflow_has_the_same_settings() -> None:
    shared = COMPOSE["x-airflow-environment"]
    for name in OURS:
        if name not in ("database", "broker"):
            environment = SERVICES[name]["environment"]
            assert shared.items() <= environment.items(), name


def test_settings_and_their_explanations_are_the_same() -> None:
    text = (paths.CHECKOUT / "docker-compose.yaml").read_text()
    used = dict(VARIABLE.findall(text))
    lines = (paths.CHECKOUT / ".env.example").read_text().splitlines()
    explained = dict(line.removeprefix("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))

    assert explained == used
    for number, line in enumerate(lines):
        if re.match(r"#?[A-Z_]+=", line):
            assert lines[number - 1].startswith("# "), f"{line} is not explained"


def test_the_dockerfile_copies_what_is_needed_and_what_may_be_sent() -> None:
    text = (paths.CHECKOUT / "Dockerfile").read_text()
    copied = {place for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for place in line.split()[:-1]}
    allowed = {
        line.removeprefix("!")
        for line in (paths.CHECKOUT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert {"dags", "plugins", "include", "requirements.txt"} <= copied
    for place in copied:
        assert (paths.CHECKOUT / place).exists(), place
        assert place.split("/")[0] in allowed, f"{place} is kept out by .dockerignore"
    assert not any("secret" in place or place == ".env" for place in allowed)


def test_every_image_is_a_stage_on_the_one_base() -> None:
    text = (paths.CHECKOUT / "Dockerfile").read_text()
    base_of = {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)}
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}

    assert targets == set(base_of) - {"packages"}
    assert set(base_of.values()) == {"${DEBIAN_IMAGE}", "packages"}
    for name, last in _last_users(text).items():
        if name not in ("packages", "lab", "systemd-host"):
            assert last not in (None, "root", "0"), f"{name} runs as root"


def test_the_labs_image_has_the_packages_that_the_lab_needs() -> None:
    setup = (paths.CHECKOUT / "scripts/setup.sh").read_text()
    wanted = set(re.search(r"DEBIAN_PACKAGES=\((.*?)\)", setup, re.DOTALL)[1].split())  # type: ignore[index]
    dockerfile = (paths.CHECKOUT / "Dockerfile").read_text()

    # Browser tests run outside.
    missing = {
        name for name in wanted - {"chromium"} if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", dockerfile)
    }
    assert missing == set()


def test_secrets_are_made_once_with_a_file_for_each_that_is_mounted(tmp_path: Path) -> None:
    made = _make_secrets(tmp_path)
    before = {path: path.read_text() for path in made}
    again = _make_secrets(tmp_path)

    assert {path: path.read_text() for path in again} == before
    mounted = {tmp_path / "secrets" / secret["file"].partition("}/")[2] for secret in COMPOSE["secrets"].values()}
    assert mounted == set(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    core = yaml.safe_load((tmp_path / "secrets/connections/core.yaml").read_text())
    assert core["ops_ledger"]["password"] == (tmp_path / "secrets/ledger_database_password").read_text().strip()
    users = json.loads((tmp_path / "secrets/users.json").read_text())
    assert [(user["username"], user["role"]) for user in users] == [("admin", "Admin")]
    texts = [text.strip() for path, text in before.items() if path.name.endswith(("password", "key", "secret"))]
    assert len(set(texts)) == len(texts)
    assert all(len(text) > 30 for text in texts)


def _make_secrets(directory: Path) -> list[Path]:
    environment = {"PATH": "/usr/bin:/bin", "SEBENZA_TRUST_DIR": str(directory / "trust")}
    environment["SEBENZA_SECRETS_DIR"] = str(directory / "secrets")
    subprocess.run([str(paths.CHECKOUT / "scripts/installation-secrets.sh")], env=environment, check=True)
    return sorted(path for path in (directory / "secrets").rglob("*") if path.is_file())


def _filled(text: str) -> str:
    return VARIABLE.sub(lambda found: found[2], text)


def _source(secret: Any) -> str:
    return str(secret["source"] if isinstance(secret, dict) else secret)


def _connections(service: dict[str, Any]) -> list[str]:
    found = [secret for secret in service["secrets"] if _source(secret).startswith("connections_")]
    assert all(secret["target"] == "connections.yaml" for secret in found)
    return [_source(secret) for secret in found]


def _meaning(value: str | None) -> Any:
    """A value as Airflow reads it: JSON is compared by what it says."""
    try:
        return json.loads(value) if value is not None else None
    except json.JSONDecodeError:
        return value


def _last_users(dockerfile: str) -> dict[str, str | None]:
    """The account that each stage of a Dockerfile ends with."""
    users: dict[str, str | None] = {}
    name = ""
    for line in dockerfile.splitlines():
        stage = re.match(r"FROM \S+ AS (\S+)", line)
        if stage is not None:
            name = stage[1]
            users[name] = None
        elif line.startswith("USER "):
            users[name] = line.split()[1].partition(":")[0]
    return users
