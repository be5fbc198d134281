"""The estate is what it says: real servers, separate hosts, keys checked, nothing beyond loopback."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from typing import Any

import boto3
import psutil
import psycopg2
import pytest
from botocore.config import Config

from lab import paths, postgres, remote, supervision
from lab.addresses import HOST_NAMES, HTTPS_PORT, NETWORK, POSTGRES_PORT, SSH_PORT, address
from lab.hosts import ENVIRONMENTS, SERVICES, listening
from sebenza_ops.environments.inventory import load_inventory
from tests.fixtures_estate import Estate


def _get(host: str, path: str, hostname: str, *extra: str) -> subprocess.CompletedProcess[str]:
    url = f"https://{hostname}:{HTTPS_PORT}{path}"
    command = ["curl", "--silent", "--show-error", "--max-time", "5", "--cacert", str(paths.CA_FILE), *extra]
    command += ["--resolve", f"{hostname}:{HTTPS_PORT}:{address(host)}", url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_service_runs(estate: Estate) -> None:
    states = {(host, each.name): each.state for host in HOST_NAMES for each in supervision.states(host)}
    # A service that has just started is STARTING for its first second.
    assert {state for state in states.values()} <= {"RUNNING", "STARTING"}
    assert set(states) == {(host, service) for host in HOST_NAMES for service in SERVICES[host]}


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_the_first_release_is_live_on_every_load_balancer(estate: Estate, name: str) -> None:
    estate.reset(name)
    environment = ENVIRONMENTS[name]
    for host in environment.load_balancers:
        answer = json.loads(_get(host, "/version", environment.hostname).stdout)
        assert answer["version"] == "v1.0.0"
        assert answer["color"] == "blue"
    for host in environment.change_hosts:
        assert (estate.root(host) / "var/deployment/current-color").read_text() == "blue\n"


@pytest.mark.parametrize(
    ("options", "works"), [(["--tls-max", "1.1"], False), (["--tls-max", "1.2"], True), ([], True)]
)
def test_load_balancers_speak_tls_1_2_and_1_3_only(estate: Estate, options: list[str], works: bool) -> None:
    assert (_get("lb1", "/health", "app.sebenza.com", *options).returncode == 0) is works


def test_plain_http_is_redirected(estate: Estate) -> None:
    done = subprocess.run(
        ["curl", "--silent", "--head", f"http://{address('lb1')}:8080/x", "--header", "Host: app.sebenza.com"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "301" in done.stdout.splitlines()[0]
    assert "location: https://app.sebenza.com/x" in done.stdout


def test_a_host_with_another_key_is_refused(estate: Estate, tmp_path: Any) -> None:
    known = tmp_path / "known_hosts"
    other_key = (estate.root("lb2") / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    known.write_text(f"[{address('lb1')}]:{SSH_PORT} {other_key}")
    command = [each.replace(str(paths.KNOWN_HOSTS), str(known)) for each in remote.ssh_command("lb1", ["true"])]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 255
    assert "verification failed" in refused.stderr
    assert estate.shell("lb1", ["true"]).returncode == 0


def test_the_login_user_works_on_its_own_host_and_is_not_root(estate: Estate) -> None:
    done = estate.shell("app1", ["sh", "-c", "id -un; command -v flock socat curl tar; echo $HOME"])
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "sebenza"
    assert done.stdout.splitlines()[-1] == str(estate.root("app1") / "home/sebenza")
    root = remote.ssh_command("app1", ["true"])
    root[root.index(f"sebenza@{address('app1')}")] = f"root@{address('app1')}"
    assert subprocess.run(root, capture_output=True, check=False).returncode == 255


def test_the_login_user_moves_services_as_on_a_real_host(estate: Estate) -> None:
    before = supervision.state("app3", "nginx").pid
    assert estate.shell("app3", ["supervisorctl", "restart", "nginx"]).returncode == 0
    supervision.await_listening("app3", "nginx")
    assert supervision.state("app3", "nginx").pid != before


def test_the_application_env_file_is_its_owners_alone(estate: Estate) -> None:
    file = estate.root("app1") / "srv/sebenza/colors/blue/app.env"
    assert file.stat().st_mode & 0o777 == 0o600
    dump = (estate.root("app1") / "home/sebenza/.pm2/dump.pm2").read_text()
    assert "DATABASE_URL" not in dump


def test_the_database_endpoint_leads_to_the_primary_and_the_replica_streams(estate: Estate) -> None:
    assert postgres.application_can_write(ENVIRONMENTS["production"])
    primary = postgres.primary_of_production()
    assert postgres.leads_to_production() == primary
    with postgres.connect(primary) as cursor:
        cursor.execute("SELECT state FROM pg_stat_replication")
        assert cursor.fetchall() == [("streaming",)]
        cursor.execute("SHOW data_checksums")
        assert cursor.fetchone() == ("on",)
    (replica,) = set(ENVIRONMENTS["production"].database_hosts) - {primary}
    with postgres.connect(replica) as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        assert cursor.fetchone() == (True,)


def test_the_health_role_may_do_nothing(estate: Estate) -> None:
    connection = psycopg2.connect(
        host=address(postgres.primary_of_production()),
        port=POSTGRES_PORT,
        user="sebenza_health",
        dbname="postgres",
        connect_timeout=3,
    )
    with connection, connection.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute("CREATE TABLE t (a int)")
    connection.close()
    with pytest.raises(psycopg2.OperationalError, match=r"password"):
        psycopg2.connect(
            host=address("db1"),
            port=POSTGRES_PORT,
            user="sebenza_health",
            dbname="sebenza_logistics",
            connect_timeout=3,
        )


def test_object_storage_takes_and_gives_by_presigned_urls(estate: Estate) -> None:
    connection = estate.connections["sebenza_object_store"]
    extra = connection["extra"]
    keywords = {**extra["config_kwargs"]}
    client = boto3.client(
        "s3",
        endpoint_url=extra["endpoint_url"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        region_name=extra["region_name"],
        verify=extra["verify"],
        config=Config(**keywords),
    )
    place = {"Bucket": "sebenza", "Key": "tests/estate.bin"}
    content = bytes(range(256)) * 4096
    context = ssl.create_default_context(cafile=str(estate.ca_file))
    put = client.generate_presigned_url("put_object", Params=place, ExpiresIn=60)
    request = urllib.request.Request(put, data=content, method="PUT")
    with urllib.request.urlopen(request, timeout=10, context=context) as response:
        assert response.status == 200
    get = client.generate_presigned_url("get_object", Params=place, ExpiresIn=60)
    with urllib.request.urlopen(get, timeout=10, context=context) as response:
        assert response.read() == content
    client.delete_object(Bucket="sebenza", Key="tests/estate.bin")
    done = subprocess.run(
        ["curl", "--silent", "--cacert", str(estate.ca_file), "-o", "/dev/null", "-w", "%{http_code}",
         f"{extra['endpoint_url']}/sebenza/tests/estate.bin"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout in {"400", "403"}


def test_the_inventory_is_valid(estate: Estate) -> None:
    inventory = load_inventory(estate.environments_dir)
    assert inventory.errors == {}
    assert set(inventory.environments) == set(ENVIRONMENTS)
    assert inventory.build is not None
    for environment in inventory.environments.values():
        assert environment.ssh_conn_id in estate.connections
        assert environment.database.conn_id in estate.connections


def test_nothing_listens_beyond_loopback(estate: Estate) -> None:
    ours = {process.pid for process in supervision.leftovers()}
    assert len(ours) > len(HOST_NAMES)
    listeners = {
        (each.laddr.ip, each.laddr.port)
        for each in psutil.net_connections("inet")
        if each.pid in ours and each.laddr and each.status in {psutil.CONN_LISTEN, psutil.CONN_NONE}
    }
    assert {ip for ip, _ in listeners if not ip.startswith("127.")} == set()
    found = {(ip, port) for ip, port in listeners if ip.startswith(f"{NETWORK}.")}
    assert {(address(host), port) for host, _, port in listening()} <= found
