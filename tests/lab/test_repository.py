"""The sample application's git repository."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab.repository import RELEASES, create_repository, release_tree

TAGS = {release.tag for release in RELEASES}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "app.git"
    create_repository(path)
    return path


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "--git-dir", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_same_shas_every_time(repository: Path, tmp_path: Path) -> None:
    assert create_repository(tmp_path / "another.git") == create_repository(repository)


def test_a_right_repository_is_left_untouched(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    create_repository(repository)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_lost_tag_comes_back(repository: Path) -> None:
    git(repository, "tag", "--delete", "v1.2.0")
    assert create_repository(repository).keys() == TAGS


def test_a_moved_tag_is_put_right(repository: Path) -> None:
    shas = create_repository(repository)
    git(repository, "tag", "--force", "--annotate", "--message", "moved", "v1.2.0", shas["v1.0.0"])
    assert create_repository(repository) == shas


def test_tags_are_annotated_and_valid(repository: Path) -> None:
    for tag, sha in create_repository(repository).items():
        assert git(repository, "cat-file", "-t", f"refs/tags/{tag}") == "tag"
        assert git(repository, "rev-parse", f"{tag}^{{commit}}") == sha
    git(repository, "fsck", "--strict")


def test_main_is_the_line_of_good_releases(repository: Path) -> None:
    subjects = git(repository, "log", "--reverse", "--format=%s", "main").splitlines()
    assert subjects == [release.summary for release in RELEASES if release.good]
    assert git(repository, "log", "--merges", "main") == ""


def test_every_release_changes_something() -> None:
    for release in RELEASES:
        if release.parent is not None:
            assert release_tree(release.tag) != release_tree(release.parent)


def test_the_wrong_release_quotes_a_real_one(repository: Path) -> None:
    sha = create_repository(repository)["v1.1.0"]
    manifest = json.loads(git(repository, "show", "v1.3.4-wrong-release:src/release-manifest.json"))
    assert manifest["sha"] == sha
    assert manifest["release_id"] == f"v1.1.0-{sha[:12]}"


def test_the_lock_names_no_registry_host() -> None:
    assert b"resolved" not in release_tree("v1.0.0")["package-lock.json"]
