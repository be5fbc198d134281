"""Building on the build host: refs, detached builds, one artifact for one commit, upload."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sebenza_ops.deployment.release import release_from_result
from sebenza_ops.systems.build_host import BuildStatus, parse_status
from tests.hosts.artifact_server import artifact_server
from tests.hosts.scripts import run
from tests.systems.processes import command_line, until

pytestmark = pytest.mark.integration

NODE = shutil.which("node")
WAIT = """
const pause = new Int32Array(new SharedArrayBuffer(4))
while (!require('node:fs').existsSync('../go')) Atomics.wait(pause, 0, 0, 20)
"""
BUILD_SCRIPT = """
const fs = require('node:fs')
fs.mkdirSync('dist')
fs.writeFileSync('dist/server.js', process.env.RELEASE_VERSION)
const { RELEASE_VERSION: version, RELEASE_SHA: sha, RELEASE_ID: release_id } = process.env
fs.writeFileSync('release.json', JSON.stringify({ version, sha, release_id }))
"""


class Repository:
    """A bare repository with a tiny application, and its commits by name."""

    def __init__(self, directory: Path) -> None:
        self.bare = directory / "app.git"
        self._tree = directory / "tree"
        self._git("init", "--quiet", "--initial-branch=main", str(self._tree), inside=False)
        self._write(
            "package.json", json.dumps({"name": "a", "version": "1.0.0", "scripts": {"build": "node build.js"}})
        )
        lock = {
            "name": "a",
            "version": "1.0.0",
            "lockfileVersion": 3,
            "packages": {"": {"name": "a", "version": "1.0.0"}},
        }
        self._write("package-lock.json", json.dumps(lock))
        self._write("build.js", BUILD_SCRIPT)
        self._write("migrations/0001_first.sql", "-- phase: expand\nSELECT 1;\n")
        self.first = self.commit("first", "v1.0.0", "v1.0.1", "release/1")
        self._write("migrations/0002_drop.sql", "-- phase: contract\nSELECT 2;\n")
        self.second = self.commit("second", 'v2.0.0$(touch${IFS}hacked);"x"')
        self._write("build.js", "process.exit(7)")
        self.broken = self.commit("broken", "v3.0.0")
        self._write("build.js", WAIT + BUILD_SCRIPT)
        self.waiting = self.commit("waiting", "v4.0.0")
        self._git("clone", "--quiet", "--bare", str(self._tree), str(self.bare), inside=False)

    def _write(self, name: str, content: str) -> None:
        path = self._tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    def commit(self, message: str, *tags: str) -> str:
        self._git("add", ".")
        self._git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", message)
        for tag in tags:
            self._git("tag", tag)
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str, inside: bool = True) -> str:
        where = ["-C", str(self._tree)] if inside else []
        return subprocess.run(["git", *where, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("git"))


class Build:
    """One commit's build in one work directory."""

    def __init__(self, repository: Repository, work_dir: Path, sha: str) -> None:
        self.repository, self.work_dir, self.sha = repository, work_dir, sha
        self.job = work_dir / sha

    def start(self, shell: str = "dash") -> str:
        assert NODE is not None, "node is not installed"
        arguments = [self.repository.bare, self.work_dir, self.sha, "v1.0.0", f"v1.0.0-{self.sha[:12]}"]
        done = run("build_start", *arguments, str(Path(NODE).parent), shell=shell)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self) -> BuildStatus:
        done = run("build_status", self.work_dir, self.sha)
        assert done.returncode == 0, done.stderr
        return parse_status(done.stdout, "build")

    def await_end(self) -> BuildStatus:
        until(lambda: self.status().state != "running", f"the build ends; log in {self.job}", 60)
        return self.status()

    def processes(self) -> list[int]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if str(self.job) in command_line(pid)]

    def kill(self) -> None:
        for pid in self.processes():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        until(lambda: not self.processes(), "the build is dead")


@pytest.fixture(scope="module")
def built(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = Build(repository, tmp_path_factory.mktemp("work"), repository.first)
    assert build.start() == "started"
    assert build.await_end().state == "done", build.status().log_tail
    return build


@pytest.fixture
def waiting(repository: Repository, tmp_path: Path) -> Iterator[Build]:
    """A build that goes on until a file `go` appears."""
    build = Build(repository, tmp_path / "work", repository.waiting)
    yield build
    build.kill()


def resolve(repository: Repository, ref: str, shell: str = "dash") -> subprocess.CompletedProcess[str]:
    return run("build_resolve", repository.bare, ref, shell=shell)


def test_refs_become_a_commit_and_its_version(repository: Repository, shell: str) -> None:
    first, broken = repository.first, repository.broken
    for ref, sha, version in [
        ("v1.0.0", first, "v1.0.0"),
        ("v1.0.1", first, "v1.0.0"),
        ("release/1", first, "v1.0.0"),
        (first[:12], first, "v1.0.0"),
        (broken, broken, "v3.0.0"),
        ("main", repository.waiting, "v4.0.0"),
    ]:
        done = resolve(repository, ref, shell)
        assert (done.returncode, done.stdout) == (0, f"{sha} {version}\n"), f"{ref}: {done}"


def test_a_tag_that_is_no_plain_name_makes_no_version(repository: Repository, shell: str) -> None:
    done = resolve(repository, repository.second, shell)
    assert done.stdout == f"{repository.second} 0.0.0-{repository.second[:12]}\n", "a hostile tag became a version"


@pytest.mark.parametrize(
    "ref",
    [
        "v9.9.9",
        "",
        "$(touch hacked)",
        "`touch hacked`",
        "; touch hacked",
        "--help",
        "--git-dir=/",
        "v1.0.0\ntouch hacked",
        "../../etc/passwd",
        "v1.0.0^{tree}",
        "HEAD:build.js",
        "'",
        '"',
        "\\",
        "*",
    ],
)
def test_what_is_no_ref_is_unknown_and_never_executed(repository: Repository, ref: str, tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        done = resolve(repository, ref)
    finally:
        os.chdir(before)
    assert done.returncode == 3, done
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [], f"{ref!r} was executed"


def test_a_repository_that_cannot_be_read_is_not_an_unknown_ref(tmp_path: Path, shell: str) -> None:
    done = run("build_resolve", tmp_path, "v1.0.0", shell=shell)
    assert done.returncode == 1, "people would look for a tag that was never missing"
    assert f"{tmp_path} is no git repository" in done.stderr


def test_the_result_is_a_valid_manifest_of_the_artifact(built: Build) -> None:
    result = built.status().result
    assert result is not None
    release = release_from_result(result)
    assert (release.sha, release.version) == (built.sha, "v1.0.0")
    assert release.size_bytes == (built.job / "artifact.tar.gz").stat().st_size
    assert (release.schema_revision, release.expand_only) == (1, True)
    with tarfile.open(built.job / "artifact.tar.gz") as archive:
        names = set(archive.getnames())
        assert {"./release.json", "./dist/server.js", "./migrations/0001_first.sql"} <= names
        assert {(member.uid, member.gid) for member in archive.getmembers()} == {(0, 0)}


def test_a_build_that_is_done_is_not_built_again(built: Build) -> None:
    before = (built.job / "artifact.tar.gz").stat().st_mtime_ns
    assert built.start() == "done"
    assert (built.job / "artifact.tar.gz").stat().st_mtime_ns == before


def test_two_builds_of_a_commit_give_the_same_bytes(built: Build, repository: Repository, tmp_path: Path) -> None:
    other = Build(repository, tmp_path / "elsewhere", built.sha)
    other.start("bash")
    result, expected = other.await_end().result, built.status().result
    assert result is not None
    assert expected is not None
    assert result["sha256"] == expected["sha256"], "the same commit gave two artifacts"


def test_a_contract_migration_is_seen(repository: Repository, tmp_path: Path) -> None:
    build = Build(repository, tmp_path, repository.second)
    build.start()
    result = build.await_end().result
    assert result is not None
    release = release_from_result(result)
    assert (release.schema_revision, release.expand_only) == (2, False)
    assert [migration.phase for migration in release.migrations] == ["expand", "contract"]


def test_a_build_that_fails_says_why_and_may_be_tried_again(repository: Repository, tmp_path: Path) -> None:
    build = Build(repository, tmp_path, repository.broken)
    assert build.status().state == "absent"
    build.start()
    status = build.await_end()
    assert status.state == "failed"
    assert "npm run build" in status.log_tail
    assert not (build.job / "artifact.tar.gz").exists()
    assert build.start() == "started", "a failed build can never be repeated"
    assert build.await_end().state == "failed"


def test_a_second_start_finds_the_running_build(waiting: Build) -> None:
    assert waiting.start() == "started"
    assert waiting.status().state == "running", "there is a moment in which a started build is nobody's"
    log = waiting.job / "log"
    until(lambda: "npm run build" in log.read_text(), "the build is at work")
    assert waiting.start() == "running"
    assert "npm run build" in log.read_text(), "the second start has emptied the log"
    (waiting.job / "go").touch()
    assert waiting.await_end().state == "done", "the second start has disturbed the build"


def test_two_starts_at_once_are_one_build(waiting: Build) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(lambda _: waiting.start(), range(2)))
    assert answers == ["running", "started"]


def test_a_killed_build_is_not_taken_for_a_running_one(waiting: Build) -> None:
    waiting.start()
    until(lambda: "npm run build" in (waiting.job / "log").read_text(), "the build is at work")
    waiting.kill()
    assert waiting.status().state == "absent"
    (waiting.job / "go").touch()
    assert waiting.start() == "started"
    assert waiting.await_end().state == "done"


def test_looking_at_the_state_never_keeps_a_build_from_starting(waiting: Build) -> None:
    # A status in a loop holds the lock for moments; a start between two of them must still start.
    job = waiting.job
    job.mkdir(parents=True)
    looks = subprocess.Popen(["sh", "-c", f"while :; do flock -n {job}/lock true; done"])
    try:
        time.sleep(0.1)
        assert waiting.start() == "started"
    finally:
        looks.kill()
        looks.wait()


def test_upload_sends_the_artifact_and_says_when_it_is_refused(built: Build, tmp_path: Path, shell: str) -> None:
    with artifact_server(tmp_path) as web:
        done = run("build_upload", built.work_dir, built.sha, stdin=web.source("/bucket/a.tar.gz"), shell=shell)
        assert done.returncode == 0, done.stderr
        assert web.uploaded["/bucket/a.tar.gz"] == (built.job / "artifact.tar.gz").read_bytes()
        refused = run("build_upload", built.work_dir, built.sha, stdin=web.source("/refused/a"), shell=shell)
        assert refused.returncode == 1
        assert "the upload failed" in refused.stderr
        assert "TOPSECRET" not in refused.stderr
        untrusted = run("build_upload", built.work_dir, built.sha, stdin=web.url("/bucket/b") + "\n", shell=shell)
        assert untrusted.returncode == 1
        assert "/bucket/b" not in web.uploaded
