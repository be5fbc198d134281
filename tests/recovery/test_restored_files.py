"""The files of a restore from end to end over SSH, without the lab: killed anywhere, repeated, and it converges."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.recovery.application_restore import RestorePlan, restore_files
from sebenza_ops.recovery.restore_rules import RestoreRefusedError
from sebenza_ops.systems.archive_manifest import Entry, Manifest
from sebenza_ops.systems.host_archives import ArchiveSet, HostArchive
from tests.backup.test_application_archives import Killed, backup, environment, s3, secret

__all__ = ["environment", "s3", "secret"]

pytestmark = pytest.mark.integration


class Restore:
    """An archive of app1, an emptied app1, and the run that restores it."""

    def __init__(self, ledger: Ledger, environment: Environment) -> None:
        # No load balancer: the host is in nobody's rotation.
        only = environment.model_copy(update={"hosts": environment.hosts[:1]})
        self.archive: ArchiveSet = backup(ledger, only).back_up()[0]
        self.root = Path(only.hosts[0].root_dir)
        shutil.rmtree(self.root)
        self.root.mkdir()
        self.run = ChangeRun(ledger, only, Holder("restore_application.production", "1", "tests"))
        self.run.acquire("restore", 600, 0)

    @property
    def plan(self) -> RestorePlan:
        return RestorePlan(
            environment="production", host="app1", archive=self.archive, color=Color.BLUE, release_id="v1"
        )

    def files(self) -> dict[str, str]:
        found = (path for top in ("etc", "srv", "var/deployment") for path in (self.root / top).rglob("*"))
        return {str(path.relative_to(self.root)): path.read_text() for path in found if path.is_file()}


EXPECTED = {
    "etc/nginx/nginx.conf": "user www-data;",
    "srv/sebenza/colors/blue/app.env": "DATABASE_URL=postgresql://u:hunter2@app1/x",
    "var/deployment/current-color": "blue\n",
    "var/deployment/last-good-release": "v1\n",
}


@pytest.fixture
def restore(ledger: Ledger, environment: Environment) -> Restore:
    return Restore(ledger, environment)


def test_an_empty_host_gets_all_but_the_release_that_comes_from_release_storage(restore: Restore) -> None:
    restore_files(restore.run, restore.plan)
    assert restore.files() == EXPECTED
    fence = restore.root / "var/lib/sebenza/fence-production"
    assert fence.read_text().split()[0] == str(restore.run.fence.token)


@pytest.mark.parametrize("step", ["stage", "look_at_staged", "place"])
def test_a_restore_that_was_killed_after_any_step_converges(
    restore: Restore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = getattr(HostArchive, step)

    def killed(self: HostArchive, *arguments: Any) -> Any:
        whole(self, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(HostArchive, step, killed)
        with pytest.raises(Killed):
            restore_files(restore.run, restore.plan)
    assert bool(restore.files()) is (step == "place"), "files were in their places before they were compared"
    restore_files(restore.run, restore.plan)
    assert restore.files() == EXPECTED


def test_files_that_are_in_their_places_are_not_unpacked_again(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_files(restore.run, restore.plan)
    monkeypatch.setattr(HostArchive, "stage", lambda *_: pytest.fail("unpacked twice"))
    restore_files(restore.run, restore.plan)
    assert restore.files() == EXPECTED


def test_what_was_unpacked_wrong_never_gets_into_its_place(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    look = HostArchive.look_at_staged

    def wrong(self: HostArchive) -> Manifest:
        found = look(self)
        other = Entry("file", "644", "intruder", "root", 14, "0" * 64)
        return Manifest({**found.entries, "etc/nginx/nginx.conf": other})

    monkeypatch.setattr(HostArchive, "look_at_staged", wrong)
    with pytest.raises(RestoreRefusedError, match="owner intruder:root"):
        restore_files(restore.run, restore.plan)
    assert restore.files() == {}
