"""A replaced application host comes back from its backup, in Airflow, on the lab's production under load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any
from uuid import uuid4

import httpx
import pytest

from lab import checker, inventory, paths, releases, storage, supervision
from lab.addresses import COLOR_PORTS, HTTPS_PORT, address
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.haproxy import runtime_command
from lab.hosts import ENVIRONMENTS
from lab.load.generator import LoadGenerator
from lab.waiting import until
from sebenza_ops.evidence.store import report_key
from sebenza_ops.ledger import BackupKind, Ledger
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

BACKUP, RESTORE = "backup_application.production", "restore_application.production"
PRODUCTION = ENVIRONMENTS["production"]
HOSTS = {"lb1", "lb2", "app1", "app2", "app3", "db1", "db2", "cache", "dbendpoint"}


@pytest.fixture(scope="module")
def ledger(estate: Any) -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """v1.0.0 is live in blue, and in release storage, where a restore fetches it from."""
    estate.reset("production")
    with airflow.client("operator") as client:
        assert ended(client, "build_release", {"version": "v1.0.0"})[0] == "success"
        yield client
    estate.reset("production")


def log_of(client: AirflowClient, dag_id: str, run_id: str, task_id: str) -> str:
    return str(client.logs(dag_id, run_id, task_id))


def backed_up(client: AirflowClient, airflow: LocalAirflow) -> str:
    """A successful backup's run: the one that the schedule makes when people switch the procedure on, or a new one."""
    with airflow.client("admin") as admin:
        before = admin.dag_runs(BACKUP)
        admin.set_paused(BACKUP, False)
    if before:
        state, tasks, run_id = ended(client, BACKUP, {})
        assert state == "success", tasks
        return run_id
    until(lambda: bool(client.dag_runs(BACKUP)), "the schedule makes a run", 60)
    run_id = str(client.dag_runs(BACKUP)[0]["dag_run_id"])
    assert client.await_state(BACKUP, run_id, timeout_seconds=120) == "success"
    return run_id


def tree(host: str) -> dict[str, tuple[str, int, int]]:
    """What production's host has: mode and owners of every file but those that come and go with what runs.

    Of releases only the live one: others are fetched when somebody goes back to them.
    """
    root = paths.host_files(host)
    kept = f"srv/sebenza/releases/{releases.first_artifact().release_id}"
    found = {}
    for top in ("etc/nginx", "etc/sebenza", "srv/sebenza", "var/deployment"):
        for path in (root / top).rglob("*"):
            name = str(path.relative_to(root))
            is_other = name.startswith("srv/sebenza/releases/") and not f"{name}/".startswith(f"{kept}/")
            if not is_other and not {"node_modules", "run"} & set(path.parts[len(root.parts) :]):
                status = path.lstat()
                found[name] = (f"{status.st_mode:o}", status.st_uid, status.st_gid)
    return found


def up_on(color: str, host: str) -> bool:
    """Whether both load balancers send to a host, by their own statistics."""
    verdicts = []
    for name in PRODUCTION.load_balancers:
        shown = runtime_command(name, f"show servers state bk_{color}")
        line = next(each for each in shown.splitlines() if f" {host} " in each)
        verdicts.append(line.split()[5:7] == ["2", "0"])
    return all(verdicts)


def damaged_copy(host: str, label_of: dict[str, Any]) -> str:
    """A newer set of a host whose archive has one bit wrong; where it is."""
    client = inventory.storage_client()
    directory = f"archives/production/{host}/damaged/"
    content = bytearray(client.get_object(Bucket=storage.BUCKET, Key=label_of["key"])["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket=storage.BUCKET, Key=f"{directory}archive", Body=bytes(content))
    client.put_object(
        Bucket=storage.BUCKET, Key=f"{directory}set.json", Body=json.dumps({**label_of, "key": f"{directory}archive"})
    )
    return directory


def test_a_replaced_host_comes_back_into_rotation_and_nobody_notices(
    operator: AirflowClient,
    airflow: LocalAirflow,
    ledger: Ledger,
    estate: Any,
    faults: ModuleType,
    rate_for: Callable[[float], float],
) -> None:
    rate = rate_for(40)
    run_id = backed_up(operator, airflow)
    sets = ledger.backup_sets.of_run(BACKUP, run_id)
    assert {str(each.detail["host"]) for each in sets} == HOSTS
    assert all(each.is_good for each in sets)
    client = inventory.storage_client()
    report = report_key("production", BACKUP, run_id)
    text = client.get_object(Bucket=storage.BUCKET, Key=report)["Body"].read().decode()
    assert "9 of 9 hosts archived and verified" in text
    secret = estate.connections["sebenza_production_archive_key"]["password"]
    assert secret not in text
    assert secret not in log_of(operator, BACKUP, run_id, "archive_hosts")

    # Refused while users are served by it.
    state, tasks, run_id = ended(operator, RESTORE, {"host": "app2"})
    assert (state, tasks["plan_restore"]) == ("failed", "failed")
    assert "app2 is in rotation" in log_of(operator, RESTORE, run_id, "plan_restore")
    assert up_on("blue", "app2"), "a refusal took the host out"

    # A newer set that is damaged.
    newest = max((each for each in sets if each.detail["host"] == "app2"), key=lambda each: each.finished_at)
    stored = json.loads(
        client.get_object(Bucket=storage.BUCKET, Key=str(newest.detail["object"]).rpartition("/")[0] + "/set.json")[
            "Body"
        ].read()
    )
    later = {**stored, "made_at": (newest.finished_at + timedelta(minutes=1)).isoformat()}
    damaged = damaged_copy("app2", later)

    before = tree("app2")
    faults.empty("app2")
    assert not (paths.host_files("app2") / "srv").exists()
    until(lambda: not up_on("blue", "app2"), "the load balancers see that app2 is gone", 20)
    # A package's own file, which no backup has: nothing is restored over it unless it may be moved aside.
    root = paths.host_files("app2")
    site, content = root / "etc/nginx/sites/default", f"the package's own, {uuid4().hex}"
    site.parent.mkdir(parents=True)
    site.write_text(content)
    try:
        state, _, run_id = ended(operator, RESTORE, {"host": "app2"})
        assert state == "failed"
        said = log_of(operator, RESTORE, run_id, "plan_restore")
        assert "app2 is not empty" in said
        assert "/etc/nginx/sites/default" in said
        assert not (root / "srv").exists(), "a refused restore has put something there"
        load = LoadGenerator(
            load_balancers={name: (address(name), HTTPS_PORT) for name in PRODUCTION.load_balancers},
            ca_file=paths.CA_FILE,
            rate=rate,
        )
        with load:
            state, tasks, run_id = ended(operator, RESTORE, {"host": "app2", "move_aside": True})
            assert state == "success", (tasks, log_of(operator, RESTORE, run_id, "start_and_prove")[-3000:])
            restored = load.mark("restored")
            # It serves, and goes on to serve.
            until(served_by_app2, "app2 answers", 20)
        seen = load.stop()
    finally:
        for name in ("set.json", "archive"):
            client.delete_object(Bucket=storage.BUCKET, Key=f"{damaged}{name}")
    assert seen.failed == 0, seen.failures[:5]
    assert seen.requests > 100
    assert seen.ended_at > restored

    kept = [path.read_text() for path in (root / "var/lib/sebenza-archive/aside").rglob("default")]
    assert kept == [content], "what was in the way was not kept"
    assert "is damaged" in log_of(operator, RESTORE, run_id, "plan_restore")
    assert operator.xcom(RESTORE, run_id, "plan_restore")["archive"]["key"] == newest.detail["object"]
    assert up_on("blue", "app2")
    verdict = checker.check("production")
    assert not verdict.problems, verdict.problems
    after = tree("app2")
    # The test's own, which was empty when its file was moved aside.
    after.pop(str(site.parent.relative_to(root)), None)
    before.pop(str(site.parent.relative_to(root)), None)
    assert {name: (before.get(name), after.get(name)) for name in before.keys() ^ after.keys()} == {}
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert changed == {}, "owners or modes are not what they were"
    known = ledger.backup_sets.find("production", BackupKind.APPLICATION, newest.label)
    assert known is not None
    assert known.restore_tested_at is not None
    assert ledger.leases.current("production") is None
    report = report_key("production", RESTORE, run_id)
    text = client.get_object(Bucket=storage.BUCKET, Key=report)["Body"].read().decode()
    assert "app2 is restored from" in text


def served_by_app2() -> bool:
    """Whether app2 itself answers on the color's port."""
    with httpx.Client(timeout=3) as client:
        return bool(client.get(f"http://{address('app2')}:{COLOR_PORTS['blue'][0]}/health").status_code == 200)


def test_a_reset_mends_an_emptied_host(estate: Any, faults: ModuleType) -> None:
    faults.empty("app3")
    estate.reset("production")
    assert (paths.host_files("app3") / "etc/nginx/nginx.conf").exists()
    assert all(state.running for state in supervision.states("app3"))
