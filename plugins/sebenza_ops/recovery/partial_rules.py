"""Which part of a dump serves users first, and what comes later. Pure rules."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Where the application keeps its schema's revision: no release starts without it.
REVISION_TABLE = "schema_migrations"
_ENTRY = re.compile(r"^(\d+); \d+ \d+ (.+)$")
_DEPENDS = ";\tdepends on:"
_TABLE = re.compile(r"^TABLE (?!DATA |ATTACH )(\S+) (.+) \S+$")
_RELATED = re.compile(r"^(FK CONSTRAINT|TABLE ATTACH) (\S+) (\S+) ")
_KEY = re.compile(r"^(?:CONSTRAINT|INDEX) (\S+) (.+) \S+$")


class NotInDumpError(Exception):
    """A declared critical table is not in the dump. Nothing was started."""


@dataclass(frozen=True)
class Entry:
    """A line of a dump's table of contents: its number, what it is, and the numbers of what it needs."""

    number: int
    what: str
    needs: tuple[int, ...]

    @property
    def table(self) -> str:
        """schema.table of a table's definition; empty for others."""
        found = _TABLE.match(self.what)
        return f"{found[1]}.{found[2]}" if found else ""

    @property
    def line(self) -> str:
        """As pg_restore takes it in a list."""
        return f"{self.number}; 0 0 {self.what}"


@dataclass(frozen=True)
class Parts:
    """A dump in two parts.

    Attributes:
        first: What serves users first: the critical tables with all that they need, and what belongs to no table.
        later: Everything else.
        tables: The tables of the first part.
        guarded: What rows of the rest point to: schema, table and key, between tabs.
    """

    first: tuple[Entry, ...]
    later: tuple[Entry, ...]
    tables: frozenset[str]
    guarded: tuple[str, ...]

    def lists(self) -> dict[str, str]:
        """The lists by which the parts are restored, by file name."""
        later = [each for each in self.later if not each.what.startswith("ACL ")]
        rights = [each for each in self.later if each.what.startswith("ACL ")]
        return {
            "critical.list": _lines(each.line for each in self.first),
            "rest.list": _lines(each.line for each in later),
            "rights.list": _lines(each.line for each in rights),
            "guarded": _lines(self.guarded),
        }

    def is_first(self, file: str) -> bool:
        """Whether a file of a dump in directory format is needed for the first part; of one file, always."""
        name = file.rpartition("/")[2]
        number = name.partition(".")[0]
        if not number.isdigit():
            return name == "toc.dat" or "/" not in file
        return int(number) in {each.number for each in self.first}


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def parse_contents(text: str) -> tuple[Entry, ...]:
    """The output of `pg_restore --list --verbose`, in its order, in which each entry comes after what it needs."""
    found: list[Entry] = []
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry is not None:
            found.append(Entry(int(entry[1]), entry[2], ()))
        elif line.startswith(_DEPENDS) and found:
            needs = tuple(int(number) for number in line.removeprefix(_DEPENDS).split())
            found[-1] = Entry(found[-1].number, found[-1].what, needs)
    return tuple(found)


def split(contents: Sequence[Entry], critical: Collection[str]) -> Parts:
    """Divide a dump: the critical tables, whatever they refer to, and the schema's revision first.

    Args:
        contents: The dump's table of contents.
        critical: schema.table of each declared one.

    Raises NotInDumpError.
    """
    tables = {each.number: each.table for each in contents if each.table}
    missing = sorted(set(critical) - set(tables.values()))
    if missing:
        known = ", ".join(sorted(tables.values()))
        raise NotInDumpError(
            f"{', '.join(missing)} of policies.disaster_recovery.critical_tables: not in the dump, which has {known}"
        )
    wanted = {number for number, name in tables.items() if name in critical or _is_revision(name)}
    wanted = _with_related(contents, tables, wanted)
    left_out = {number for number in tables if number not in wanted}
    # Whatever needs something that is left out is left out, too, until nothing changes any more.
    while True:
        more = {each.number for each in contents if each.number not in left_out and left_out & set(each.needs)}
        if not more:
            break
        left_out |= more
    first = tuple(each for each in contents if each.number not in left_out)
    later = tuple(each for each in contents if each.number in left_out)
    return Parts(
        first, later, frozenset(tables[number] for number in wanted), _guarded(later, contents, tables, wanted)
    )


def _is_revision(name: str) -> bool:
    return name.rpartition(".")[2] == REVISION_TABLE


def _with_related(contents: Sequence[Entry], tables: Mapping[int, str], wanted: set[int]) -> set[int]:
    """With the tables that they refer to by foreign keys, their partitions and their parents."""
    found = set(wanted)
    while True:
        before = len(found)
        for each in contents:
            related = [number for number in each.needs if number in tables]
            if each.number in tables:
                # A partition, or an heir: one is of no use without the other.
                if each.number in found or found & set(related):
                    found |= {each.number, *related}
                continue
            what = _RELATED.match(each.what)
            if what is None:
                continue
            own = {number for number in related if tables[number] == f"{what[2]}.{what[3]}"}
            if own & found or (what[1] == "TABLE ATTACH" and found & set(related)):
                found |= set(related)
        if len(found) == before:
            return found


def _guarded(
    later: Sequence[Entry], contents: Sequence[Entry], tables: Mapping[int, str], wanted: set[int]
) -> tuple[str, ...]:
    by_number = {each.number: each for each in contents}
    found = []
    for each in later:
        if not each.what.startswith("FK CONSTRAINT "):
            continue
        for number in each.needs:
            key = _KEY.match(by_number[number].what) if number in by_number else None
            owners = [need for need in by_number[number].needs if need in wanted] if key else []
            if key is not None and owners:
                schema, _, table = tables[owners[0]].partition(".")
                # A constraint's line has its table before its name.
                found.append(f"{schema}\t{table}\t{key[2].removeprefix(f'{table} ')}")
    return tuple(sorted(set(found)))


def differences(
    expected: Mapping[str, int], found: Mapping[str, int], tables: Collection[str] | None = None
) -> list[str]:
    """What tables differ in from the manifest; of all tables when none are named."""
    names = expected.keys() if tables is None else expected.keys() & set(tables)
    return sorted(
        f"{name}: {found[name]} rows, expected {expected[name]}" if name in found else f"{name}: is missing"
        for name in names
        if found.get(name) != expected[name]
    )
