"""Every file of a pgBackRest repository: there, as large as its manifest says, the small ones right.

What pgBackRest's own `verify` does not see: a manifest or info file that is damaged or gone while its twin is good. And
it does not end on a bundle that was cut. Contents of sets and WAL are verify's part.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sebenza_ops.systems.errors import NoDataError

_PAIRS = {
    "differ": "differs from its copy",
    "no-first": "is gone or damaged, its copy is right",
    "no-second": "is right, its copy is gone or damaged",
    "none": "is gone or damaged, and so is its copy",
}


@dataclass(frozen=True)
class RepositoryLook:
    """What is wrong with the repository: by set, and with what all sets share. `labels` have files in it."""

    objects: int
    labels: frozenset[str] = frozenset()
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()

    @property
    def is_cut(self) -> bool:
        """Whether a file of a set is not as long as it should be: `verify` may not end on it."""
        return any("bytes, expected" in text for texts in self.sets.values() for text in texts)

    def texts(self) -> list[str]:
        """All of it, one text a file."""
        return [*self.shared, *(f"{label}: {text}" for label, texts in self.sets.items() for text in texts)]


def parse_look(text: str, stanza: str, host: str) -> RepositoryLook:
    """The output of include/hosts/repository_look.sh. Raises NoDataError when it is none."""
    reader = _Reader(stanza)
    try:
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            getattr(reader, f"take_{word}")(rest)
        if reader.lists < 2:
            raise ValueError("the list of objects is missing")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"what the repository holds can't be read ({error}): {text[:200]!r}", host=host) from error
    return reader.look()


class _Reader:
    """Takes the lines by their first words."""

    def __init__(self, stanza: str) -> None:
        self._stanza = stanza
        self._shared: list[str] = []
        self._sets: dict[str, list[str]] = {}
        self._files: dict[str, dict[str, int]] = {}
        self._wal: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._label = self._extension = ""
        self.lists = 0

    def take_pair(self, rest: str) -> None:
        state, _, path = rest.partition(" ")
        parts = path.removeprefix(f"backup/{self._stanza}/").split("/")
        problems = self._sets.setdefault(parts[0], []) if len(parts) == 2 else self._shared
        if state != "same":
            problems.append(f"{path} {_PAIRS[state]}")

    def take_note(self, rest: str) -> None:
        state, _, path = rest.partition(" ")
        if state != "right":
            self._shared.append(f"{path} is damaged")

    def take_set(self, rest: str) -> None:
        self._label, extension = rest.split(" ")
        self._extension = "" if extension == "-" else extension
        self._sets.setdefault(self._label, [])
        self._files[self._label] = {}

    def take_wal(self, rest: str) -> None:
        self._wal[self._label] = rest.split()

    def take_file(self, rest: str) -> None:
        found, end = json.JSONDecoder().raw_decode(rest)
        _expect(self._files[self._label], found, rest[end + 1 :], self._extension)

    def take_list(self, rest: str) -> None:
        place, _, listing = rest.partition(" ")
        listed: dict[str, Any] = json.loads(listing)
        self._sizes |= {f"{place}/{name}": int(each["size"]) for name, each in listed.items() if each["type"] == "file"}
        self.lists += 1

    def look(self) -> RepositoryLook:
        archive = f"archive/{self._stanza}/"
        names = {path.rpartition("/")[2]: path for path in self._sizes if path.startswith(archive)}
        self._shared += _wrong_archive(archive, names, self._sizes)
        for label, expected in self._files.items():
            self._sets[label] += _wrong_sizes(f"backup/{self._stanza}/{label}", expected, self._sizes)
            self._sets[label] += _wrong_wal(self._wal.get(label, []), names)
            history = f"backup/{self._stanza}/backup.history/"
            if not any(path.startswith(history) and f"/{label}." in path for path in self._sizes):
                self._shared.append(f"{history}: the manifest of {label} is gone")
        wrong = {label: tuple(texts) for label, texts in self._sets.items() if texts}
        return RepositoryLook(len(self._sizes), frozenset(self._files), wrong, tuple(self._shared))


def _expect(files: dict[str, int], found: Mapping[str, Any], name: str, extension: str) -> None:
    """Add what a file of the manifest needs in the repository: a file of its own, or the bundle up to its end."""
    # pgBackRest leaves out what is equal, and keeps no object for an empty file of a set with bundles.
    stored = int(found.get("repo-size", found.get("size", 0)))
    bundle = found.get("bni")
    if bundle is not None:
        path = f"bundle/{bundle}"
        files[path] = max(files.get(path, 0), int(found.get("bno", 0)) + stored)
    elif stored > 0:
        files[f"{name}{extension}"] = stored


def _wrong_sizes(place: str, expected: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[str]:
    for name, size in sorted(expected.items()):
        path = f"{place}/{name}"
        if path not in sizes:
            yield f"{path} is gone"
        elif sizes[path] != size:
            yield f"{path} has {sizes[path]} bytes, expected {size}"


def _wrong_wal(needed: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """A set's first and last WAL segment, and its label beside them. Gaps between are check_pgbackrest's part."""
    for segment in dict.fromkeys(needed):
        if not any(name.startswith(f"{segment}-") for name in names):
            yield f"WAL segment {segment} is gone"
    if needed and not any(name.startswith(f"{needed[0]}.") and name.endswith(".backup") for name in names):
        yield f"the backup's label beside WAL segment {needed[0]} is gone"


def _wrong_archive(place: str, names: Mapping[str, str], sizes: Mapping[str, int]) -> Iterator[str]:
    """Beside WAL there must be the history of its timeline, and every object must hold something."""
    timelines = {name[:8] for name in names if len(name) > 24 and name[24] == "-"}
    for timeline in sorted(timelines):
        if timeline > "00000001" and f"{timeline}.history" not in names:
            yield f"{place}: the history of timeline {timeline} is gone"
    for path in sorted(names.values()):
        if sizes[path] == 0:
            yield f"{path} is empty"
