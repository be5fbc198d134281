"""The build host: the sample application's repository, and the artifact that the lab starts with."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lab import paths, remote
from lab.accounts import LOGIN_USER, make_directory, own
from lab.repository import create_repository
from lab.waiting import LabError, scaled, until

BUILD_HOST = "build"
REPOSITORY = "srv/git/sebenza-logistics.git"
WORK_DIR = "srv/build"
FIRST_VERSION = "v1.0.0"

_START_SECONDS = 5.0
_BUILD_SCRIPT = paths.HOST_TEMPLATES / "build_start.sh"


@dataclass(frozen=True)
class Artifact:
    """A built release: an archive and what it holds."""

    version: str
    sha: str
    sha256: str
    archive: Path

    @property
    def release_id(self) -> str:
        """`<version>-<first twelve digits of the SHA>`."""
        return f"{self.version}-{self.sha[:12]}"


def ensure_repository() -> None:
    """Create the bare repository of the sample application, with its tags, unless it is current."""
    bare = paths.host_files(BUILD_HOST) / REPOSITORY
    make_directory(bare.parent, LOGIN_USER)
    make_directory(paths.host_files(BUILD_HOST) / WORK_DIR, LOGIN_USER)
    create_repository(bare)
    for file in (bare, *bare.rglob("*")):
        own(file, LOGIN_USER)


def resolve(version: str) -> str:
    """The SHA of the commit that a tag of the sample application names."""
    bare = paths.host_files(BUILD_HOST) / REPOSITORY
    done = subprocess.run(
        ["git", "-c", f"safe.directory={bare}", "--git-dir", str(bare), "rev-parse", f"refs/tags/{version}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"build: the repository has no tag {version}: {done.stderr.strip()}")
    return done.stdout.strip()


def first_artifact(deadline_seconds: float = 300.0) -> Artifact:
    """The artifact of v1.0.0: kept from an earlier build of the same commit, or built on the build host."""
    sha = resolve(FIRST_VERSION)
    kept = paths.CACHE_DIR / "releases" / sha
    job = paths.host_files(BUILD_HOST) / WORK_DIR / sha
    if not (kept / "result.json").exists():
        _build(sha, job, deadline_seconds)
        _copy(job, kept, user=None)
    elif not (job / "result.json").exists():
        # So that a procedure that builds v1.0.0 finds it built.
        _copy(kept, make_directory(job, LOGIN_USER), user=LOGIN_USER)
    result = json.loads((kept / "result.json").read_text())
    return Artifact(FIRST_VERSION, sha, result["sha256"], kept / "artifact.tar.gz")


def _copy(source: Path, target: Path, user: str | None) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # The result last: it says that the artifact is whole.
    for name in ("artifact.tar.gz", "result.json"):
        partial = target / f"{name}.copy"
        shutil.copyfile(source / name, partial)
        if user is not None:
            own(partial, user)
        partial.replace(target / name)


def _build(sha: str, job: Path, deadline_seconds: float) -> None:
    root = paths.host_root(BUILD_HOST)
    release_id = f"{FIRST_VERSION}-{sha[:12]}"
    library = paths.HOST_TEMPLATES / "lib.sh"
    script = library.read_text() + _BUILD_SCRIPT.read_text()
    argv = ["/bin/sh", "-c", script, "build_start", str(root / REPOSITORY), str(root / WORK_DIR), sha]
    argv += [FIRST_VERSION, release_id, str(paths.node_bin_dir())]
    remote.as_login_user(BUILD_HOST, argv, f"starting the build of {FIRST_VERSION}")

    started_at = time.monotonic()

    def done() -> bool:
        if (job / "result.json").exists():
            return True
        # The detached build takes its lock a moment after the script that started it has ended.
        ended = time.monotonic() > started_at + scaled(_START_SECONDS) and not _locked(job / "lock")
        if (job / "failed").exists() or ended:
            log = (job / "log").read_text(errors="replace").strip()[-800:] if (job / "log").exists() else "(no log)"
            raise LabError(f"build: {FIRST_VERSION} could not be built (npm needs its registry):\n  {log}")
        return False

    until(
        done,
        f"build: {FIRST_VERSION} is built (log: {job / 'log'})",
        deadline_seconds,
        progress=lambda: f"{sum(1 for _ in job.rglob('*'))} files are there",
    )


def _locked(lock: Path) -> bool:
    """Whether a build still runs: it holds its job's lock to its end."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
