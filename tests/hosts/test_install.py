"""Installing and configuring a release: fetched, verified, moved into place whole, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.waiting import scaled
from tests.hosts.artifact_server import RELEASE_ID, ArtifactServer, artifact, artifact_server, sha256
from tests.hosts.scripts import command, run
from tests.systems.processes import command_line, descendants, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactServer]:
    with artifact_server(tmp_path_factory.mktemp("storage")) as web:
        yield web


@pytest.fixture
def web(shared_server: ArtifactServer) -> ArtifactServer:
    shared_server.files.clear()
    shared_server.requests.clear()
    shared_server.go_on.clear()
    return shared_server


class Installation:
    """A host's releases directory, and how a release comes to it."""

    def __init__(self, directory: Path, web: ArtifactServer) -> None:
        self.releases = directory / "srv" / "releases"
        self.state_dir = directory / "state"
        self.web = web
        self.token = 3

    @property
    def target(self) -> Path:
        return self.releases / RELEASE_ID

    def arguments(self, sha: str, size_bytes: int) -> list[object]:
        fenced = [self.state_dir, "production", self.token, "dag/run"]
        return [*fenced, self.releases, RELEASE_ID, sha, size_bytes]

    def install(
        self, path: str = "/artifact", *, sha: str | None = None, source: str | None = None, shell: str = "dash"
    ) -> subprocess.CompletedProcess[str]:
        content = self.web.files.get(path, b"")
        given = self.web.source(path) if source is None else source
        return run("app_install", *self.arguments(sha or sha256(content), len(content)), stdin=given, shell=shell)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.releases.iterdir()) if self.releases.exists() else []


@pytest.fixture
def host(tmp_path: Path, web: ArtifactServer) -> Installation:
    return Installation(tmp_path, web)


def test_a_release_is_installed_and_found_again(host: Installation, shell: str) -> None:
    host.web.files["/artifact"] = artifact()
    first = host.install(shell=shell)
    assert (first.returncode, first.stdout) == (0, "installed\n"), first.stderr
    assert (host.target / "dist" / "server.js").read_text() == "one"
    assert host.left() == [RELEASE_ID], "work files were left"
    asked = len(host.web.requests)
    again = host.install(shell=shell)
    assert (again.returncode, again.stdout) == (0, "present\n"), again.stderr
    assert len(host.web.requests) == asked, "a release that is there was fetched again"


@pytest.mark.parametrize(
    ("path", "content", "sha", "said"),
    [
        ("/artifact", artifact(), "0" * 64, "expected " + "0" * 64),
        ("/truncated", artifact(), None, "the artifact could not be fetched"),
        ("/artifact", None, None, "the artifact could not be fetched"),
        ("/artifact", b"no archive at all", None, "could not be unpacked"),
        ("/artifact", artifact(with_manifest=False), None, "has no release.json"),
    ],
    ids=["wrong sha", "truncated", "404", "no archive", "no manifest"],
)
def test_what_is_not_the_release_leaves_nothing(
    host: Installation, path: str, content: bytes | None, sha: str | None, said: str
) -> None:
    if content is not None:
        host.web.files[path] = content
    done = host.install(path, sha=sha)
    assert done.returncode == 1, done
    assert said in done.stderr
    assert host.left() == [], "something of a bad artifact stayed on the host"
    assert "TOPSECRET" not in done.stdout + done.stderr, "a signed URL is a secret"


def test_a_server_that_is_not_trusted_is_refused(host: Installation) -> None:
    host.web.files["/artifact"] = artifact()
    done = host.install(source=host.web.url("/artifact") + "\n")
    assert done.returncode == 1, "a certificate that nobody trusts was accepted"
    assert "SSL certificate" in done.stderr
    assert host.left() == []


def test_a_wrong_artifact_does_not_replace_the_one_that_is_there(host: Installation) -> None:
    host.web.files["/artifact"] = artifact()
    host.install()
    assert host.install(sha="0" * 64).returncode == 1
    assert (host.target / "dist" / "server.js").read_text() == "one"


def test_another_artifact_of_the_same_name_moves_the_first_aside(host: Installation) -> None:
    host.web.files["/artifact"] = artifact()
    host.install()
    host.web.files["/artifact"] = artifact(text="two")
    assert host.install().stdout == "installed\n"
    assert (host.target / "dist" / "server.js").read_text() == "two"
    aside = [name for name in host.left() if name.startswith(f".replaced-{RELEASE_ID}-")]
    assert len(aside) == 1, f"the first was deleted, not moved aside: {host.left()}"


def test_a_zombie_installs_nothing(host: Installation) -> None:
    host.web.files["/artifact"] = artifact()
    assert run("fence_raise", host.state_dir, "production", 9, "later").returncode == 0
    assert host.install().returncode == 77
    assert host.left() == []


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path, web: ArtifactServer) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "srv"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        host = Installation(tmp_path, web)
        web.files["/artifact"] = artifact()
        done = host.install()
        assert done.returncode == 1
        assert "disk full: " in done.stderr
        assert str(host.releases) in done.stderr
        assert web.requests == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def start_slow(host: Installation) -> subprocess.Popen[bytes]:
    content = artifact()
    host.web.files["/slow"] = content
    process = subprocess.Popen(
        command("dash", "app_install", host.arguments(sha256(content), len(content))),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(host.web.source("/slow").encode())
    process.stdin.close()
    until(lambda: bool(host.web.requests) and bool(host.left()), "the download has begun")
    return process


def test_an_install_that_is_ended_half_way_leaves_nothing(host: Installation) -> None:
    process = start_slow(host)
    # As timeout(1) does it: to the whole group.
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=scaled(10)) != 0
    assert host.left() == [], "half an installation was left"


def test_what_a_killed_install_leaves_is_cleared_away_later(host: Installation) -> None:
    process = start_slow(host)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=scaled(10))
    assert not host.target.exists(), "a killed install looks like a release"
    (left,) = host.left()
    host.web.go_on.set()
    host.web.files["/artifact"] = artifact()
    assert host.install().returncode == 0
    assert left in host.left(), "a young one may belong to an install that still runs"
    old = time.time() - 2 * 3600
    os.utime(host.releases / left, (old, old))
    host.web.files["/artifact"] = artifact(text="two")
    assert host.install().returncode == 0
    assert left not in host.left(), "disks fill with the rests of killed installs"


def test_the_signed_url_is_in_no_process_list(host: Installation) -> None:
    process = start_slow(host)
    lines = [command_line(pid) for pid in (process.pid, *descendants(process.pid))]
    host.web.go_on.set()
    assert process.wait(timeout=scaled(10)) == 0
    assert any("curl" in line for line in lines), "the test has looked too late"
    assert not any("TOPSECRET" in line for line in lines), "every user of the host can read the signed URL"


def configure(
    tmp_path: Path, state_dir: Path, env: str, shell: str = "dash", size: int | None = None
) -> subprocess.CompletedProcess[str]:
    arguments = [state_dir, "production", 3, "dag/run", tmp_path / "colors", "green", "module.exports = '$HOME'"]
    size_bytes = len(env.encode()) if size is None else size
    return run("app_configure", *arguments, tmp_path / "log", size_bytes, stdin=env, shell=shell)


def test_configuration_is_readable_by_its_owner_alone(tmp_path: Path, state_dir: Path, shell: str) -> None:
    text = "DATABASE_URL=postgresql://u:p@h/db\nODD='$(id)' \"`id`\" \\n\nNAME=Müller😀\n\n"
    done = configure(tmp_path, state_dir, text, shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "secrets must not be repeated"
    color = tmp_path / "colors" / "green"
    assert (color / "app.env").read_text() == text
    assert (color / "app.env").stat().st_mode & 0o777 == 0o600
    assert (color / "ecosystem.config.js").read_text() == "module.exports = '$HOME'"
    assert sorted(path.name for path in color.iterdir()) == ["app.env", "ecosystem.config.js", "run"]
    assert (tmp_path / "log").is_dir()


def test_half_a_configuration_is_not_installed(tmp_path: Path, state_dir: Path, shell: str) -> None:
    whole = "DATABASE_URL=TOPSECRET\nREDIS_URL=r\n"
    assert configure(tmp_path, state_dir, whole, shell).returncode == 0
    done = configure(tmp_path, state_dir, "DATABASE_URL=TOPS", shell, size=len(whole))
    assert done.returncode != 0
    assert f"only 17 of {len(whole)} bytes of green's settings arrived" in done.stderr
    assert "TOPS" not in done.stderr, "secrets must not be repeated"
    assert (tmp_path / "colors" / "green" / "app.env").read_text() == whole


def test_a_zombie_configures_nothing(tmp_path: Path, state_dir: Path) -> None:
    run("fence_raise", state_dir, "production", 9, "later")
    assert configure(tmp_path, state_dir, "A=1\n").returncode == 77
    assert not (tmp_path / "colors" / "green" / "app.env").exists()
