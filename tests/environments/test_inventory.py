"""What a directory of files becomes, and what the shipped files say."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from sebenza_ops.environments import inventory as inventory_module
from sebenza_ops.environments.errors import InventoryError
from sebenza_ops.environments.inventory import (
    Inventory,
    environments_with,
    inventory_directory,
    inventory_errors,
    load_inventory,
)
from sebenza_ops.environments.models import Color, Environment, Role, Service, SlackChannel
from tests.environments.inventory_files import SHIPPED


@pytest.fixture(scope="module")
def shipped() -> Inventory:
    return load_inventory(SHIPPED)


@pytest.fixture(scope="module")
def production(shipped: Inventory) -> Environment:
    return shipped.environments["production"]


def test_the_shipped_files_are_good(shipped):
    assert not shipped.errors
    assert list(shipped.environments) == ["development", "production", "staging"]
    assert shipped.build is not None
    assert shipped.build.host.roles == (Role.BUILD,)


# The operations manual, Environment Overview.
@pytest.mark.parametrize(
    ("name", "url", "backup", "level", "certificates", "data", "log_level"),
    [
        ("production", "https://app.sebenza.com", "daily", "full", "production", "live", "info"),
        ("staging", "https://staging.sebenza.com", "weekly", "basic", "staging", "snapshot", "debug"),
        ("development", "https://dev.sebenza.com", None, "health", "self_signed", "mock", "debug"),
    ],
)
def test_the_environments_are_the_manuals(shipped, name, url, backup, level, certificates, data, log_level):
    environment = shipped.environments[name]
    assert environment.url == url
    assert (environment.policies.backup.frequency if environment.policies.backup else None) == backup
    assert environment.monitoring.level == level
    assert environment.policies.certificates.kind == certificates
    assert environment.database.data == data
    assert environment.application.settings.app.log_level == log_level


def test_the_promises_are_the_manuals(production):
    objectives = production.policies.objectives
    assert (objectives.rto_seconds, objectives.rpo_seconds, objectives.mttr_seconds) == (14400, 3600, 7200)
    assert (objectives.availability_ratio, objectives.p95_seconds, objectives.error_ratio) == (0.999, 2, 0.001)
    thresholds = production.policies.thresholds
    assert (thresholds.cpu_ratio, thresholds.memory_ratio, thresholds.disk_ratio) == (0.8, 0.85, 0.9)
    assert thresholds.database_connections == 80
    assert production.policies.retention.backups_days == 30
    triggers = production.policies.blue_green
    assert (triggers.error_ratio_threshold, triggers.response_time_threshold_seconds) == (0.05, 5)


def test_the_maintenance_windows_are_the_manuals(production):
    windows = production.policies.maintenance_windows
    weekly, monthly = windows.scheduled
    assert (weekly.recurrence, weekly.weekday) == ("weekly", "sunday")
    assert (weekly.start, weekly.end) == (datetime.time(2), datetime.time(4))
    assert (monthly.recurrence, monthly.weekday) == ("first_of_month", "sunday")
    assert (monthly.start, monthly.end) == (datetime.time(1), datetime.time(5))
    assert windows.emergency_notice_seconds == 7200
    assert windows.notify_before_seconds == (604_800, 86_400, 7_200)


def test_pool_sizes_are_the_manuals(shipped):
    sizes = {name: e.application.settings.database.pool_size for name, e in shipped.environments.items()}
    assert sizes == {"production": 20, "staging": 10, "development": 10}


def test_spare_hosts_are_only_given_when_asked_for(production):
    assert [host.name for host in production.hosts_with_role("application")] == ["app1", "app2"]
    names = [host.name for host in production.hosts_with_role(Role.APPLICATION, include_spare=True)]
    assert names == ["app1", "app2", "app3"]


def test_a_host_is_found_by_name(production):
    assert production.host("db2").address == "192.0.2.32"
    with pytest.raises(KeyError, match="production has no host 'db9'; it has lb1, lb2"):
        production.host("db9")


def test_paths_are_below_the_root_of_the_host(production):
    host = production.host("app1")
    assert host.path("/srv/x") == "/srv/x"
    elsewhere = host.model_copy(update={"root_dir": "/run/lab/app1"})
    assert elsewhere.path("/srv/x") == "/run/lab/app1/srv/x"
    with pytest.raises(ValueError, match="app1: 'srv/x' is not an absolute path"):
        host.path("srv/x")


def test_colors_are_each_others_other():
    assert Color.BLUE.other is Color.GREEN
    assert Color.GREEN.other is Color.BLUE


def test_units_of_services(production):
    host = production.host("db1")
    assert production.service_unit("postgresql", host) == "postgresql@15-main.service"
    assert production.service_unit(Service.PM2, host) == "pm2-sebenza.service"
    assert production.service_manager.control_command == ("sudo", "-n", "systemctl")


def test_the_public_host_name_has_no_port(production):
    assert production.public_hostname == "app.sebenza.com"
    moved = production.model_copy(update={"url": "https://app.sebenza.com:8443"})
    assert moved.public_hostname == "app.sebenza.com"


def test_models_are_immutable(production):
    with pytest.raises(ValidationError, match="frozen"):
        production.name = "other"


def test_a_model_that_is_built_in_code_refuses_credentials_too():
    with pytest.raises(ValidationError, match="Airflow connection") as refused:
        SlackChannel(type="slack", target="#x", template="https://u:hunter2@x")
    assert "hunter2" not in str(refused.value)


def test_environments_by_policy(shipped):
    assert [e.name for e in environments_with("backup", shipped)] == ["production", "staging"]
    assert [e.name for e in environments_with("blue_green", shipped)] == ["development", "production", "staging"]
    with pytest.raises(ValueError, match="no policy 'bluegreen'; known: objectives"):
        environments_with("bluegreen", shipped)


def test_one_bad_file_never_hides_the_others(files):
    files.edit("staging", "data: snapshot", "data: stolen")
    files.path("build").write_text("kind: [", encoding="utf-8")

    inventory = load_inventory(files.directory)

    assert list(inventory.environments) == ["development", "production"]
    assert inventory.build is None
    assert sorted(error.environment for error in inventory.errors.values()) == ["build", "staging"]
    assert [e.name for e in environments_with("blue_green", inventory)] == ["development", "production"]


def test_an_environment_is_asked_for_by_name(files):
    files.edit("staging", "data: snapshot", "data: stolen")
    inventory = load_inventory(files.directory)
    assert inventory.environment("production").name == "production"
    with pytest.raises(InventoryError, match=r"staging\.yaml"):
        inventory.environment("staging")
    with pytest.raises(KeyError, match="no environment 'qa'"):
        inventory.environment("qa")


def test_two_build_files_are_one_too_many(files):
    text = files.path("build").read_text(encoding="utf-8")
    files.path("build2").write_text(text.replace("name: build\n", "name: build2\n", 1), encoding="utf-8")

    inventory = load_inventory(files.directory)

    assert inventory.build is not None
    assert inventory.build.name == "build"
    assert [error.file.name for error in inventory.errors.values()] == ["build2.yaml"]


def test_a_missing_directory_is_an_error_not_silence(tmp_path):
    inventory = load_inventory(tmp_path / "nowhere")
    assert not inventory.environments
    assert "SEBENZA_ENVIRONMENTS" in str(inventory_errors(inventory))


def test_the_directory_comes_from_the_environment_variable(files, monkeypatch):
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    assert inventory_directory() == SHIPPED
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(files.directory))
    assert load_inventory().directory == files.directory


def test_a_file_is_read_again_only_when_it_changed(files, monkeypatch):
    reads: list[str] = []
    read = inventory_module.load_file

    def counted(file):
        reads.append(file.name)
        return read(file)

    monkeypatch.setattr(inventory_module, "load_file", counted)
    load_inventory(files.directory)
    load_inventory(files.directory)
    assert sorted(reads) == ["build.yaml", "development.yaml", "production.yaml", "staging.yaml"]

    reads.clear()
    files.edit("staging", "bake_seconds: 60", "bake_seconds: 61")
    changed = load_inventory(files.directory).environments["staging"].policies.blue_green
    assert reads == ["staging.yaml"]
    assert changed is not None
    assert changed.bake_seconds == 61


def test_reading_the_inventory_loads_nothing_heavy():
    code = (
        "import sys; import sebenza_ops.environments.inventory, sebenza_ops.environments.env_file;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'airflow', 'sqlalchemy', 'paramiko', 'boto3', 'requests', 'httpx', 'jinja2'}))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
