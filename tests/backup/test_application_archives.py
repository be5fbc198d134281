"""An application backup from end to end over SSH into a real S3 server, without the lab: two hosts on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sebenza_ops.backup.application_archives import ApplicationBackup
from sebenza_ops.backup.archive_rules import catalog_label
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import BackupKind, Holder, Ledger
from sebenza_ops.systems.age import Identity
from sebenza_ops.systems.archive_manifest import Manifest, differences
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.host_archives import HostArchive, read_back, read_manifest, stored_sets
from sebenza_ops.systems.object_store import ObjectStorage
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import changed
from tests.systems.s3 import S3Server, s3_server
from tests.systems.sshd import SshServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="module")
def secret() -> str:
    made = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    return next(line for line in made.splitlines() if line.startswith("AGE-SECRET-KEY-"))


@pytest.fixture
def environment(
    sshd: SshServer, s3: S3Server, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Environment:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHIVE_STORE", s3.connection())
    monkeypatch.setenv("AIRFLOW_CONN_ARCHIVE_KEY", f'{{"conn_type": "generic", "password": "{secret}"}}')
    hosts = []
    for name in ("app1", "app2"):
        root = tmp_path / name
        for path, text in {
            "etc/nginx/nginx.conf": "user www-data;",
            "srv/sebenza/colors/blue/app.env": f"DATABASE_URL=postgresql://u:hunter2@{name}/x",
            "srv/sebenza/releases/v1/release.json": "{}",
            "var/deployment/current-color": "blue\n",
            "var/deployment/last-good-release": "v1\n",
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        hosts.append(sshd.host(name, root_dir=str(root)))
    policy = ApplicationBackupPolicy(
        ssh_conn_id=SSH_CONNECTION, cipher_conn_id="archive_key", minimum_free_bytes=0, work_dir="/work"
    )
    return changed(
        "production",
        hosts=tuple(hosts),
        object_store={"conn_id": "archive_store", "prefix": f"{tmp_path.name}/"},
        policies={"application_backup": policy},
    )


def backup(ledger: Ledger, environment: Environment, run_id: str = "1") -> ApplicationBackup:
    return ApplicationBackup(ChangeRun(ledger, environment, Holder("backup_application.production", run_id, "tests")))


def test_every_host_has_a_set_that_reads_back_as_its_manifest_says(
    ledger: Ledger, environment: Environment, secret: str
) -> None:
    sets = backup(ledger, environment).back_up()
    storage, identity = ObjectStorage(environment.object_store), Identity(secret)
    assert {each.host for each in sets} == {"app1", "app2"}
    for each in sets:
        manifest = read_manifest(storage, each, identity)
        assert differences(manifest, read_back(storage, each, identity)) == {}
        assert (each.color, each.release_id) == ("blue", "v1")
        assert "srv/sebenza/colors/blue/app.env" in manifest.entries
        known = ledger.backup_sets.find("production", BackupKind.APPLICATION, catalog_label(each))
        assert known is not None
        assert known.is_good
        assert "/etc/systemd/system/pm2-sebenza.service" in each.missing, "what is declared and not there was not said"
    stored = b"".join(storage.get_bytes(key) or b"" for key in storage.keys("archives/"))
    for text in (b"hunter2", secret.encode()):
        assert text not in stored
    assert not list(Path(environment.hosts[0].root_dir).glob("work/*/archive")), "it was left on the host"


def test_a_run_that_is_repeated_makes_only_what_is_missing(ledger: Ledger, environment: Environment) -> None:
    first = {each.host: each for each in backup(ledger, environment).back_up()}
    storage = ObjectStorage(environment.object_store)
    storage.delete(f"{first['app2'].directory}set.json")  # as if it was killed before
    second = {each.host: each for each in backup(ledger, environment).back_up()}
    assert second["app1"] == first["app1"]
    assert second["app2"].made_at > first["app2"].made_at
    assert len(stored_sets(storage, "production")) == 2


def test_a_host_that_fails_costs_nobody_else_the_backup(
    ledger: Ledger, environment: Environment, tmp_path: Path
) -> None:
    gone = environment.hosts[1].model_copy(update={"root_dir": str(tmp_path / "nowhere")})
    broken = environment.model_copy(update={"hosts": (environment.hosts[0], gone)})
    with pytest.raises(OutsideSystemError, match="1 of 2 hosts"):
        backup(ledger, broken).back_up()
    assert [each.host for each in stored_sets(ObjectStorage(environment.object_store), "production")] == ["app1"]


class Killed(Exception):
    """The worker is gone."""


@pytest.mark.parametrize("step", ["archive sent", "manifest written", "set written"])
def test_a_run_that_was_killed_at_any_step_converges(
    ledger: Ledger, environment: Environment, secret: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put = ObjectStorage.put_bytes

    def killed(self: ObjectStorage, key: str, data: bytes, content_type: str = "") -> None:
        if step == "archive sent" or (step == "manifest written" and key.endswith("set.json")):
            raise Killed
        put(self, key, data)
        if step == "set written" and key.endswith("set.json"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "put_bytes", killed)
        with pytest.raises(Killed):
            backup(ledger, environment).back_up()
    storage = ObjectStorage(environment.object_store)
    before = {each.host: each for each in stored_sets(storage, "production")}
    assert bool(before) is (step == "set written"), "half a backup counts as one"
    sets = backup(ledger, environment).back_up()
    assert {each.host for each in sets} == {"app1", "app2"}
    assert all(before.get(each.host, each) == each for each in sets), "a set that was whole was made again"
    for each in sets:
        assert (
            differences(read_manifest(storage, each, Identity(secret)), read_back(storage, each, Identity(secret)))
            == {}
        )
    assert len(ledger.backup_sets.present("production", BackupKind.APPLICATION)) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_archive_is_found(ledger: Ledger, environment: Environment, secret: str, damage: str) -> None:
    archive = backup(ledger, environment).back_up()[0]
    storage = ObjectStorage(environment.object_store)
    content = bytearray(storage.get_bytes(archive.key) or b"")
    content[len(content) // 2] ^= 1
    if damage == "gone":
        storage.delete(archive.key)
    else:
        storage.put_bytes(archive.key, bytes(content) if damage == "changed" else bytes(content[:-9]))
    with pytest.raises(NoDataError, match="gone" if damage == "gone" else "changed or cut off"):
        read_back(storage, archive, Identity(secret))
    left = [each.host for each in stored_sets(storage, "production")]
    assert (archive.host in left) is (damage == "changed"), "a set without its whole archive is none"


def test_a_file_that_never_holds_still_is_named(
    ledger: Ledger, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(environment.hosts[0].root_dir) / "etc/nginx/nginx.conf"
    make, look, count = HostArchive.make, HostArchive.look, iter(range(100))

    def changing_make(self: HostArchive, recipient: str) -> Any:
        made = make(self, recipient)
        # What the archive holds is neither what was listed before nor what is there after.
        entry = made.manifest.entries["etc/nginx/nginx.conf"]
        entries = {**made.manifest.entries, "etc/nginx/nginx.conf": replace(entry, sha256="0" * 64)}
        return replace(made, manifest=Manifest(entries, made.manifest.missing, made.manifest.stamps))

    def changing_look(self: HostArchive) -> Manifest:
        file.write_text(f"changed {next(count)}")
        return look(self)

    monkeypatch.setattr(HostArchive, "make", changing_make)
    monkeypatch.setattr(HostArchive, "look", changing_look)
    only = environment.model_copy(update={"hosts": environment.hosts[:1]})
    with pytest.raises(OutsideSystemError, match=r"etc/nginx/nginx\.conf \(another content\)") as raised:
        backup(ledger, only).back_up()
    assert "changed while they were read, 3 times" in str(raised.value)
    assert stored_sets(ObjectStorage(environment.object_store), "production") == []


def test_retention_removes_old_sets_and_the_catalog_follows(ledger: Ledger, environment: Environment) -> None:
    storage = ObjectStorage(environment.object_store)
    first = backup(ledger, environment, "1").back_up()
    for archive in first:
        # As old as the policy no longer keeps.
        old = archive.model_copy(update={"made_at": archive.made_at.replace(year=archive.made_at.year - 1)})
        storage.put_bytes(f"{archive.directory}set.json", old.model_dump_json().encode())
    assert backup(ledger, environment, "2").retain() == [], "the last good set of a host was removed"
    second = backup(ledger, environment, "2").back_up()
    removed = backup(ledger, environment, "2").retain()
    assert {label.partition("/")[0] for label in removed} == {"app1", "app2"}
    left = stored_sets(storage, "production")
    assert {each.label for each in left} == {each.label for each in second}
    assert {key.split("/")[3] for key in storage.keys("archives/production/")} == {
        each.directory.split("/")[3] for each in second
    }
    present = ledger.backup_sets.present("production", BackupKind.APPLICATION)
    assert {each.label for each in present} == {catalog_label(each) for each in second}
