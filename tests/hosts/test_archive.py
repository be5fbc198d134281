"""Archives of hosts: what goes in and what does not, sealed, the same each time; unpacked again beside, then placed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.waiting import scaled
from sebenza_ops.systems.age import Identity, SealError, decompressed
from sebenza_ops.systems.archive_manifest import (
    MadeArchive,
    Manifest,
    differences,
    in_the_way,
    parse_made,
    read_archive,
)
from tests.hosts.scripts import run

pytestmark = pytest.mark.integration

UNITS = "etc/systemd/system/sebenza-*"
PLACES = ["+etc/nginx", "+srv/releases", "+srv/colors", "=var/log/app", "=var/lib/state", f"+{UNITS}"]
NAMES, PATHS = "node_modules *.log", "srv/colors/*/run var/lib/state/*"
ODD = "a b;$(touch x)\n'\"ü"


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity(new_identity())


def new_identity() -> str:
    made = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    return next(line for line in made.splitlines() if line.startswith("AGE-SECRET-KEY-"))


class Host:
    """A host's tree and where it works."""

    def __init__(self, directory: Path) -> None:
        self.root, self.work, self.state = directory / "root", directory / "work", directory / "root/var/lib/state"
        release = self.root / "srv/releases/v1"
        for path, text in {
            "etc/nginx/nginx.conf": "user www-data;",
            "etc/nginx/conf.d/" + ODD: "odd",
            "srv/releases/v1/release.json": "{}",
            "srv/releases/v1/.artifact-sha256": f"{'1' * 64}\n",
            "srv/releases/v1/node_modules/pg/index.js": "left out",
            "srv/releases/v1/src/server.js": "serve()",
            "srv/colors/blue/app.env": "PASSWORD=hunter2",
            "srv/colors/blue/run/pid": "1",
            "var/log/app/blue.log": "log",
            "var/lib/state/fence-production": "7 dag/run",
        }.items():
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (self.root / "srv/colors/blue/app.env").chmod(0o600)
        (self.root / "var/log/app").chmod(0o750)
        (self.root / "etc/nginx/link").symlink_to("nginx.conf")
        os.mkfifo(self.root / "srv/colors/blue/pipe")
        shutil.chown(release / "src/server.js", "nobody", "nogroup")

    def make(
        self, recipient: str, mode: str = "make", *, run_key: str = "run1", minimum: int = 0, shell: str = "dash"
    ) -> subprocess.CompletedProcess[str]:
        fixed = [mode, self.root, self.work, run_key, minimum, recipient, NAMES, PATHS]
        return run("archive_make", *fixed, *PLACES, shell=shell)

    def made(self, recipient: str, shell: str = "dash") -> MadeArchive:
        done = self.make(recipient, shell=shell)
        assert done.returncode == 0, done.stderr
        return parse_made("app1", done.stdout)

    def look(self, root: Path | None = None) -> Manifest:
        fixed = ["list", root or self.root, self.work, "look", 0, "-", NAMES, PATHS]
        done = run("archive_make", *fixed, *PLACES)
        assert done.returncode == 0, done.stderr
        return parse_made("app1", done.stdout).manifest

    @property
    def archive(self) -> Path:
        return self.work / "run1/archive"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def opened(archive: Path, identity: Identity) -> Manifest:
    with archive.open("rb") as sealed, identity.opened(sealed) as packed, decompressed(packed) as tar:
        return read_archive(tar)


def tar_of(archive: Path, identity: Identity) -> bytes:
    with archive.open("rb") as sealed, identity.opened(sealed) as packed, decompressed(packed) as tar:
        return tar.read()


def test_what_is_archived_is_what_was_listed(host: Host, identity: Identity, shell: str) -> None:
    made = host.made(identity.recipient, shell)
    assert differences(made.manifest, opened(host.archive, identity)) == {}
    assert made.size_bytes == host.archive.stat().st_size
    entries = made.manifest.entries
    assert f"etc/nginx/conf.d/{ODD}" in entries, "an odd name was lost or read as shell"
    assert not (host.root / "x").exists()
    assert entries["srv/colors/blue/app.env"].mode == "600"
    assert (entries["etc/nginx/link"].kind, entries["etc/nginx/link"].target) == ("link", "nginx.conf")
    assert entries["var/log/app"].mode == "750", "a directory without its content"
    left_out = ["node_modules", "blue.log", "/run", "pipe", "fence-", "artifact-sha256"]
    assert not [name for name in entries for part in left_out if part in name]
    assert made.manifest.missing == (f"/{UNITS}",)
    assert made.manifest.stamps == {"v1": "1" * 64}


def test_the_same_tree_gives_the_same_bytes(host: Host, identity: Identity) -> None:
    host.made(identity.recipient)
    first = tar_of(host.archive, identity)
    os.utime(host.root / "etc/nginx/nginx.conf", ns=(1, (host.root / "etc/nginx/nginx.conf").stat().st_mtime_ns))
    host.made(identity.recipient)
    assert tar_of(host.archive, identity) == first


def test_nobody_else_opens_it_and_nothing_of_it_is_readable(host: Host, identity: Identity) -> None:
    host.made(identity.recipient)
    assert b"hunter2" not in host.archive.read_bytes()
    assert host.work.stat().st_mode & 0o077 == 0
    with pytest.raises(SealError, match="no identity matched"):
        opened(host.archive, Identity(new_identity()))


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_does_not_open(host: Host, identity: Identity, damage: str) -> None:
    host.made(identity.recipient)
    content = bytearray(host.archive.read_bytes())
    if damage == "changed":
        content[-20] ^= 1
    host.archive.write_bytes(bytes(content) if damage == "changed" else bytes(content[:-20]))
    with pytest.raises(SealError, match="decrypted"):
        opened(host.archive, identity)


def test_too_little_disk_is_refused_before_anything(host: Host, identity: Identity) -> None:
    done = host.make(identity.recipient, minimum=2**60)
    assert done.returncode == 1
    assert "disk full" in done.stderr
    assert not host.archive.exists()


def test_two_at_once_are_one(host: Host, identity: Identity) -> None:
    host.work.mkdir()
    with (host.work / "lock").open("w") as lock:
        held = subprocess.Popen(["flock", str(host.work / "lock"), "sleep", "60"], stdout=lock)
        try:
            subprocess.run(
                ["sh", "-c", f"until ! flock -n {host.work}/lock true; do sleep 0.05; done"],
                check=True,
                timeout=scaled(10),
            )
            done = host.make(identity.recipient)
        finally:
            held.terminate()
            held.wait()
    assert done.returncode == 75, done


def test_what_a_killed_attempt_has_left_is_made_anew(host: Host, identity: Identity) -> None:
    host.archive.parent.mkdir(parents=True)
    host.archive.write_text("half an archive")
    (host.archive.parent / "broken").write_text("tar\n")
    made = host.made(identity.recipient)
    assert differences(made.manifest, opened(host.archive, identity)) == {}


def restore(host: Host, identity: Identity, target: Host, moved: bytes = b"", left_out: tuple[str, ...] = ()) -> None:
    with host.archive.open("rb") as sealed, identity.opened(sealed) as packed:
        content = packed.read()
    fenced = [target.state, "production", 9, "dag/run", "nobody", target.work, "run2"]
    staged = run("archive_stage", *fenced, 10**6, stdin=content)
    assert staged.returncode == 0, staged.stderr
    assert host.look(target.work / "run2/tree").entries == host.look().entries, "unpacked beside, it is not the same"
    placed = run("archive_place", *fenced, target.root, *left_out, stdin=moved)
    assert placed.returncode == 0, placed.stderr


@pytest.fixture
def empty(tmp_path: Path) -> Host:
    found = Host(tmp_path / "new")
    shutil.rmtree(found.root)
    found.root.mkdir()
    return found


def test_an_empty_host_gets_everything_back(host: Host, empty: Host, identity: Identity) -> None:
    made = host.made(identity.recipient)
    assert in_the_way(made.manifest, host.look(empty.root)) == {}
    restore(host, identity, empty)
    assert differences(made.manifest, host.look(empty.root)) == {}
    assert (empty.root / "srv/releases/v1/src/server.js").owner() == "nobody"
    assert not (empty.root / "srv/releases/v1/.artifact-sha256").exists(), "it would be taken for a whole release"
    fence = empty.state / "fence-production"
    assert (fence.read_text().split()[0], fence.owner()) == ("9", "nobody"), "the login could not raise its fence"
    assert (empty.root / "var/lib").stat().st_mode & 0o777 == 0o755


def test_what_is_in_the_way_is_moved_aside_and_what_comes_from_elsewhere_is_left(
    host: Host, empty: Host, identity: Identity
) -> None:
    made = host.made(identity.recipient)
    (empty.root / "etc/nginx/conf.d").mkdir(parents=True)
    (empty.root / "etc/nginx/nginx.conf").write_text("the package's own")
    (empty.root / "etc/nginx/conf.d/default\nsite").write_text("the package's own")
    obstacles = in_the_way(made.manifest, host.look(empty.root))
    assert set(obstacles) == {"etc/nginx/nginx.conf", "etc/nginx/conf.d/default\nsite"}
    restore(host, identity, empty, b"".join(name.encode() + b"\0" for name in obstacles), ("srv/releases/v1",))
    aside = empty.work / "aside/run2/etc/nginx"
    assert (aside / "nginx.conf").read_text() == (aside / "conf.d/default\nsite").read_text() == "the package's own"
    assert (empty.root / "etc/nginx/nginx.conf").read_text() == "user www-data;"
    assert not (empty.root / "srv/releases/v1").exists()


def test_a_restore_that_was_killed_goes_on_where_it_was(host: Host, empty: Host, identity: Identity) -> None:
    made = host.made(identity.recipient)
    begun = empty.work / "run2/begun"
    restore(host, identity, empty)
    assert begun.exists(), "nobody could tell its unfinished files from foreign ones"
    # As if it was killed between two files, and in the middle of one.
    (empty.root / "etc/nginx/nginx.conf").write_text("user ww")
    shutil.rmtree(empty.root / "srv/colors")
    obstacles = in_the_way(made.manifest, host.look(empty.root))
    assert set(obstacles) == {"etc/nginx/nginx.conf"}
    restore(host, identity, empty, b"etc/nginx/nginx.conf\0")
    assert differences(made.manifest, host.look(empty.root)) == {}
    fenced = [empty.state, "production", 9, "dag/run", "nobody", empty.work, "run2"]
    assert run("archive_done", *fenced).returncode == 0
    assert sorted(path.name for path in empty.work.iterdir()) == ["aside", "lock"], "something was left behind"


def test_a_zombie_restores_nothing(host: Host, empty: Host, identity: Identity) -> None:
    host.made(identity.recipient)
    assert run("fence_raise", empty.state, "production", 12, "later").returncode == 0
    done = run("archive_stage", empty.state, "production", 9, "dag/run", "nobody", empty.work, "run2", 0, stdin=b"")
    assert done.returncode == 77, done
    assert not empty.work.exists()
