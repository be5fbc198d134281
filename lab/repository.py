"""The git repository of the sample application: one commit and one annotated tag for each release.

The trees come from ``application/base`` (v1.0.0) and the overlays in ``application/releases/<tag>`` (the files that a
release adds or changes). Authors and dates are fixed, so every machine gets the same SHAs.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

APPLICATION = Path(__file__).parent / "application"
GENERATED = frozenset({"node_modules", "dist", "release.json"})
AUTHOR = b"Sebenza Development <development@sebenza.example>"
FIRST_RELEASE_AT = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
STREAM_KEY = "sebenza.imported"


class RepositoryError(RuntimeError):
    """Git refused to make the repository; the message has what git said."""


@dataclass(frozen=True)
class Release:
    """A release of the sample application: its tag, the tag it was built on (None: the first) and what it brings."""

    tag: str
    parent: str | None
    summary: str
    good: bool = True


RELEASES = (
    Release("v1.0.0", None, "First release"),
    Release("v1.1.0", "v1.0.0", "Invoice amounts in whole cents, beside the old column"),
    Release("v1.2.0", "v1.1.0", "Projects have a priority, the dashboard counts the urgent ones"),
    Release("v1.3.0-crash-at-start", "v1.1.0", "Telemetry agent", good=False),
    Release("v1.3.1-never-ready", "v1.1.0", "Wait for a leader before listening", good=False),
    Release("v1.3.2-late-5xx", "v1.1.0", "Tariff table", good=False),
    Release("v1.3.3-slow", "v1.1.0", "Ask customs", good=False),
    Release("v1.3.4-wrong-release", "v1.1.0", "Committed release manifest", good=False),
    Release("v1.3.5-bad-migration", "v1.1.0", "Invoices have a due date and a minimum", good=False),
    Release("v1.3.6-half-fails", "v1.1.0", "Discounts", good=False),
    Release("v1.3.7-fails-slowly", "v1.1.0", "Insure shipments", good=False),
    Release("v1.4.0-contract", "v1.2.0", "Invoice amounts in cents only, the old column goes"),
    Release("v1.4.1", "v1.4.0-contract", "Projects are found by status, with an index built beside users"),
)


def release_tree(tag: str) -> dict[str, bytes]:
    """Returns the files of a release by path: the base and every overlay on the way to it, placeholders unresolved."""
    release = next(release for release in RELEASES if release.tag == tag)
    if release.parent is None:
        return dict(_files_of(APPLICATION / "base"))
    overlay = APPLICATION / "releases" / tag
    if not overlay.is_dir():
        raise RepositoryError(f"release {tag} has no overlay at {overlay}")
    return release_tree(release.parent) | dict(_files_of(overlay))


def create_repository(bare_path: Path) -> dict[str, str]:
    """Makes the bare repository at bare_path, or brings it up to date, and returns the commit SHA of each tag.

    Branch ``main`` has the good releases in one line; each bad one is a branch ``broken/<tag>``. A repository that is
    already right is left untouched. Raises RepositoryError when git fails.
    """
    if not (bare_path / "HEAD").is_file():
        bare_path.mkdir(parents=True, exist_ok=True)
        _git(bare_path, "init", "--quiet", "--bare", "--template=", "--initial-branch=main", ".")
    trees = {release.tag: release_tree(release.tag) for release in RELEASES}
    content = _fingerprint(trees)
    # Whoever moved or deleted a tag or branch since then finds it put right.
    if _recorded(bare_path) != f"{content} {_references(bare_path)}":
        shas: dict[str, str] = {}
        # A tree may quote the SHA of an earlier release, so what is needed for that is imported first.
        for quoting in (False, True):
            group = [release for release in RELEASES if _quotes_a_sha(trees[release.tag]) is quoting]
            if group:
                _git(bare_path, "fast-import", "--quiet", "--force", stdin=b"".join(_stream(group, trees, shas)))
                shas = _tags(bare_path)
        _git(bare_path, "config", STREAM_KEY, f"{content} {_references(bare_path)}")
    tags = _tags(bare_path)
    return {release.tag: tags[release.tag] for release in RELEASES}


def _files_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = sorted(set(subfolders) - GENERATED)
        for name in sorted(set(names) - GENERATED):
            path = Path(folder) / name
            yield path.relative_to(directory).as_posix(), path.read_bytes()


_QUOTED_SHA = re.compile(rb"@sha(12)?:([A-Za-z0-9._-]+)@")


def _quotes_a_sha(tree: dict[str, bytes]) -> bool:
    return any(_QUOTED_SHA.search(content) for content in tree.values())


def _resolve(content: bytes, shas: dict[str, str]) -> bytes:
    def sha(match: re.Match[bytes]) -> bytes:
        full = shas[match[2].decode()]
        return (full[:12] if match[1] else full).encode()

    return _QUOTED_SHA.sub(sha, content)


def _fingerprint(trees: dict[str, dict[str, bytes]]) -> str:
    digest = hashlib.sha256(repr(RELEASES).encode())
    for tree in trees.values():
        for path, content in sorted(tree.items()):
            digest.update(f"{path}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _stream(group: list[Release], trees: dict[str, dict[str, bytes]], shas: dict[str, str]) -> Iterator[bytes]:
    """The group as a fast-import stream; a parent is a mark of this stream or the SHA of an earlier one."""
    marks: dict[str, str] = {}
    for position, release in enumerate(RELEASES):
        if release not in group:
            continue
        at = f"{int((FIRST_RELEASE_AT + timedelta(days=7 * position)).timestamp())} +0000".encode()
        who = AUTHOR + b" " + at
        branch = "main" if release.good else f"broken/{release.tag}"
        mark = f":{position + 1}"
        yield f"commit refs/heads/{branch}\nmark {mark}\n".encode()
        yield b"author " + who + b"\ncommitter " + who + b"\n" + _data(f"{release.summary}\n".encode())
        if release.parent:
            yield f"from {marks.get(release.parent) or shas[release.parent]}\n".encode()
        yield b"deleteall\n"
        for path, content in sorted(trees[release.tag].items()):
            mode = "100755" if path.startswith("bin/") else "100644"
            yield f"M {mode} inline {path}\n".encode() + _data(_resolve(content, shas))
        yield (
            f"tag {release.tag}\nfrom {mark}\n".encode()
            + b"tagger "
            + who
            + b"\n"
            + _data(f"{release.summary}\n".encode())
        )
        marks[release.tag] = mark


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)


def _tags(bare_path: Path) -> dict[str, str]:
    listing = _git(bare_path, "for-each-ref", "--format=%(refname:short) %(*objectname)", "refs/tags")
    return dict(line.split(" ", 1) for line in listing.splitlines())


def _recorded(bare_path: Path) -> str:
    return _git(bare_path, "config", "--default", "", "--get", STREAM_KEY).strip()


def _references(bare_path: Path) -> str:
    return hashlib.sha256(_git(bare_path, "for-each-ref").encode()).hexdigest()


def _git(bare_path: Path, *arguments: str, stdin: bytes = b"") -> str:
    # The operator's own git configuration (signing, hooks, templates) must not change the SHAs.
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    # The lab's repository belongs to the login user of its host, git would refuse it to anybody else.
    trust = ("-c", f"safe.directory={bare_path.resolve()}")
    command = ["git", *trust, *arguments]
    finished = subprocess.run(command, cwd=bare_path, env=environment, input=stdin, capture_output=True, check=False)
    if finished.returncode != 0:
        raise RepositoryError(
            f"git {arguments[0]} in {bare_path} failed: {finished.stderr.decode(errors='replace').strip()}"
        )
    return finished.stdout.decode()
