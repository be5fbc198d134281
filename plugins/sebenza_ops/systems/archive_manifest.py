"""What is in an archive of a host, name by name, and how two such lists differ: the host's, and the archive's own.

A name is kept as it is on the disk; bytes that are no UTF-8 become surrogates, as Python's own file functions do it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import IO

from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import parse_sections

_CHUNK_BYTES = 1024 * 1024
_KINDS = {"f": "file", "d": "directory", "l": "link"}


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link. `mode` is octal; owners by name where the host has one, else by number."""

    kind: str
    mode: str
    owner: str
    group: str
    size_bytes: int = 0
    sha256: str = ""
    target: str = ""


@dataclass(frozen=True)
class Manifest:
    """What is in a host's archive.

    Attributes:
        entries: By path below the host's root, without a leading slash.
        missing: Declared paths that the host does not have.
        stamps: By release, the SHA-256 of the artifact that it came from.
    """

    entries: Mapping[str, Entry]
    missing: tuple[str, ...] = ()
    stamps: Mapping[str, str] | None = None

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(entry.kind == "file" for entry in self.entries.values())

    @property
    def size_bytes(self) -> int:
        """How much the files hold together."""
        return sum(entry.size_bytes for entry in self.entries.values())

    def to_json(self) -> bytes:
        """The form in which it is stored, sealed: hashes of small secrets can be guessed at."""
        entries = {name: asdict(entry) for name, entry in self.entries.items()}
        return json.dumps(
            {"entries": entries, "missing": list(self.missing), "stamps": dict(self.stamps or {})}
        ).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """What `to_json` has made. Raises NoDataError."""
        try:
            found = json.loads(content)
            entries = {name: Entry(**entry) for name, entry in found["entries"].items()}
            return cls(entries, tuple(found["missing"]), found["stamps"])
        except (ValueError, KeyError, TypeError) as error:
            raise NoDataError(f"the archive's manifest can't be read ({error})", host="object storage") from error


@dataclass(frozen=True)
class MadeArchive:
    """What archive_make.sh has made on a host: the manifest from before, and the archive's size and SHA-256."""

    manifest: Manifest
    size_bytes: int = 0
    sha256: str = ""


def parse_made(host: str, text: str) -> MadeArchive:
    """The output of include/hosts/archive_make.sh. Raises NoDataError when it is not whole."""
    sections = parse_sections(text)
    try:
        entries = _entries(b64decode(sections["attributes"]), b64decode(sections["hashes"]))
        stamps = dict(line.split(" ", 1)[::-1] for line in sections["stamps"].splitlines())
        missing = tuple(f"/{line}" for line in sections["missing"].splitlines())
        size, _, sha256 = sections.get("archive", "0 ").partition(" ")
        return MadeArchive(Manifest(entries, missing, stamps), int(size), sha256.strip())
    except (KeyError, ValueError) as error:
        raise NoDataError(f"what it archived can't be read ({error!r})", host=host) from error


def read_archive(tar: IO[bytes]) -> Manifest:
    """What an archive really holds: everything in it is read. Raises NoDataError when it is not whole."""
    entries: dict[str, Entry] = {}
    try:
        with tarfile.open(fileobj=tar, mode="r|") as archive:
            for member in archive:
                entries[member.name.rstrip("/")] = _of_member(archive, member)
    except (tarfile.TarError, EOFError) as error:
        raise NoDataError(f"the archive is not whole ({error})", host="object storage") from error
    return Manifest(entries)


def differences(expected: Manifest, found: Manifest) -> dict[str, str]:
    """What of `expected` is otherwise in `found`, and what of it is missing, or new: path → in words."""
    differing: dict[str, str] = {}
    for name, wanted in expected.entries.items():
        other = found.entries.get(name)
        if other is None:
            differing[name] = "missing"
        elif other != wanted:
            differing[name] = _difference(wanted, other)
    differing |= {name: "not in the manifest" for name in found.entries if name not in expected.entries}
    return differing


def torn(archived: Manifest, before: Manifest, after: Manifest) -> dict[str, str]:
    """What is in the archive as it was neither before nor after: path → in words. It changed while it was read.

    What changed in between and was read whole is as good as what did not change.
    """
    changed = differences(before, archived)
    late = differences(after, archived)
    return {name: text for name, text in changed.items() if name in late}


def in_the_way(archive: Manifest, host: Manifest, besides: Iterable[str] = ()) -> dict[str, str]:
    """What is on a host where an archive is to be restored, and is not what the archive puts there: path → in words.

    Directories are no obstacle: they hold what is, if anything is. `besides`: below these nothing counts.
    """
    ignored = tuple(f"{name.strip('/')}/" for name in besides)
    found: dict[str, str] = {}
    for name, entry in host.entries.items():
        if f"{name}/".startswith(ignored):
            continue
        wanted = archive.entries.get(name)
        if entry.kind == "directory" and (wanted is None or wanted.kind == "directory"):
            continue
        if wanted is None:
            found[name] = "not in the archive"
        elif wanted != entry:
            found[name] = _difference(wanted, entry)
    return found


def shown(differing: Mapping[str, str], limit: int = 5) -> str:
    """Differences in a line for people."""
    # A name may hold anything, a terminal's commands among it.
    parts = [f"/{name.encode('unicode_escape').decode()} ({text})" for name, text in sorted(differing.items())[:limit]]
    more = len(differing) - limit
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _entries(attributes: bytes, hashes: bytes) -> dict[str, Entry]:
    digests: dict[str, str] = {}
    for record in _records(hashes):
        digest, _, name = record.partition("  ")
        digests[name] = digest
    fields = _records(attributes)
    entries: dict[str, Entry] = {}
    for attribute, target, name in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        kind, mode, uid, gid, owner, group, size = attribute.split("\t")
        is_file = kind == "f"
        entries[name] = Entry(
            kind=_KINDS[kind],
            mode="777" if kind == "l" else mode,
            owner=owner or uid,
            group=group or gid,
            size_bytes=int(size) if is_file else 0,
            sha256=digests[name] if is_file else "",
            target=target,
        )
    return entries


def _records(content: bytes) -> list[str]:
    if content and not content.endswith(b"\0"):
        raise ValueError("it was cut off")
    return content.decode(errors="surrogateescape").split("\0")[:-1]


def _of_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    owner, group = member.uname or str(member.uid), member.gname or str(member.gid)
    mode = f"{member.mode & 0o7777:o}"
    if member.isdir():
        return Entry("directory", mode, owner, group)
    if member.issym():
        return Entry("link", "777", owner, group, target=member.linkname)
    content = archive.extractfile(member)
    if content is None:
        return Entry("other", mode, owner, group)
    digest = hashlib.sha256()
    while part := content.read(_CHUNK_BYTES):
        digest.update(part)
    return Entry("file", mode, owner, group, member.size, digest.hexdigest())


def _difference(wanted: Entry, found: Entry) -> str:
    if wanted.kind != found.kind:
        return f"{found.kind} instead of {wanted.kind}"
    parts = []
    if (wanted.owner, wanted.group) != (found.owner, found.group):
        parts.append(f"owner {found.owner}:{found.group} instead of {wanted.owner}:{wanted.group}")
    if wanted.mode != found.mode:
        parts.append(f"mode {found.mode} instead of {wanted.mode}")
    if wanted.target != found.target:
        parts.append("another target")
    if wanted.sha256 != found.sha256:
        parts.append("another content")
    return ", ".join(parts) or f"{found.size_bytes} bytes instead of {wanted.size_bytes}"
