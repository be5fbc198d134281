"""What a restore is to stop at, as people say it: one moment, or a refusal that says what is missing. Pure rules."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from sebenza_ops.systems.database_server import lsn_text, parse_lsn

# PostgreSQL cuts names after 63 bytes. No quotes: it goes into a setting.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9 ._:+-]{0,62}"
# The first that is given to a transaction (PostgreSQL, FirstNormalTransactionId), and the last.
FIRST_XID, LAST_XID = 3, 2**32 - 1
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?(.*)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?")


class TargetRefusedError(Exception):
    """The target is not one moment, or can't be reached. The message says why, and what can be; nothing was started."""


class TargetKind(StrEnum):
    """What a target is given as."""

    TIME = "time"
    NAME = "name"
    LSN = "lsn"
    XID = "xid"


class Target(BaseModel):
    """A target of a restore.

    Attributes:
        kind: What it is given as.
        text: As people gave it.
        at: The moment, of a time.
        lsn: The position, of an LSN.
        xid: The transaction, of a transaction id.
        exclusive: Stop right before it, without it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: TargetKind
    text: str
    at: datetime | None = None
    lsn: int | None = None
    xid: int | None = None
    exclusive: bool = False

    @property
    def setting(self) -> str:
        """As PostgreSQL takes it."""
        if self.at is not None:
            return self.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
        return lsn_text(self.lsn) if self.lsn is not None else self.text

    @property
    def words(self) -> str:
        """In words."""
        what = {
            TargetKind.TIME: "",
            TargetKind.NAME: "the restore point ",
            TargetKind.LSN: "position ",
            TargetKind.XID: "transaction ",
        }
        shown = moment_text(self.at) if self.at is not None else self.text
        return f"{'right before ' * self.exclusive}{what[self.kind]}{shown}"


def moment_text(moment: datetime) -> str:
    """A moment in words, to the millisecond."""
    return f"{moment.astimezone(UTC).isoformat(sep=' ', timespec='milliseconds').removesuffix('+00:00')} UTC"


def parse_target(kind: str, text: str, *, exclusive: bool = False) -> Target:
    """A target as people give it. Raises TargetRefusedError with what is wrong with it."""
    text = text.strip()
    known = TargetKind(kind)
    if not text:
        raise TargetRefusedError(f"no {kind} to restore to was given: nothing was started")
    if known is TargetKind.TIME:
        return Target(kind=known, text=text, at=parse_moment(text), exclusive=exclusive)
    if known is TargetKind.LSN:
        if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text):
            raise TargetRefusedError(f"{text!r} is no position in the WAL, as 0/3000060 is. Nothing was started")
        return Target(kind=known, text=text.upper(), lsn=parse_lsn(text), exclusive=exclusive)
    if known is TargetKind.XID:
        if not re.fullmatch(r"\d{1,10}", text) or not FIRST_XID <= int(text) <= LAST_XID:
            raise TargetRefusedError(
                f"{text!r} is no transaction id ({FIRST_XID} to {LAST_XID}, without an epoch). Nothing was started"
            )
        return Target(kind=known, text=text, xid=int(text), exclusive=exclusive)
    if not re.fullmatch(NAME_PATTERN, text):
        raise TargetRefusedError(
            f"{text!r} is no name of a restore point: letters, digits, spaces and . _ : + - only. Nothing was started"
        )
    if exclusive:
        raise TargetRefusedError("PostgreSQL stops at a restore point, not before it: leave `exclusive` out")
    return Target(kind=known, text=text)


def parse_moment(text: str) -> datetime:
    """A moment, given with its time zone: Z, UTC, an offset, or a place ("Africa/Johannesburg").

    Raises TargetRefusedError without one, with an abbreviation, and for a time that a change of the clocks makes
    ambiguous or leaves out.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise TargetRefusedError(
            f"{text!r} is no moment; one looks like 2026-03-29 15:30:00+02:00. Nothing was started"
        )
    day, clock, zone = found.groups()
    try:
        local = datetime.fromisoformat(f"{day} {clock}")
    except ValueError as error:
        raise TargetRefusedError(f"{text!r} is no moment ({error}). Nothing was started") from error
    if not zone:
        raise TargetRefusedError(
            f"{text!r} has no time zone, so it is a different moment in each: say {text}Z, {text}+02:00, or "
            f"{text} Africa/Johannesburg. Nothing was started"
        )
    if zone in {"Z", "z", "UTC"}:
        return local.replace(tzinfo=UTC)
    offset = _OFFSET.fullmatch(zone)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        away = timedelta(hours=int(hours), minutes=int(minutes or 0))
        if away > timedelta(hours=15):
            raise TargetRefusedError(f"{zone!r} is no offset that any place has. Nothing was started")
        return local.replace(tzinfo=timezone(-away if sign == "-" else away))
    return _in_place(local, zone, text)


def _in_place(local: datetime, zone: str, text: str) -> datetime:
    if "/" not in zone:
        raise TargetRefusedError(
            f"the time zone {zone!r} is ambiguous (IST is three of them): give an offset, as +02:00, or a place, as "
            "Africa/Johannesburg. Nothing was started"
        )
    try:
        place = ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise TargetRefusedError(f"there is no time zone {zone!r}. Nothing was started") from error
    first, second = (local.replace(tzinfo=place, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        offsets = f"{_offset_text(first)} or {_offset_text(second)}"
        # In a gap the earlier offset is the smaller one.
        if first.astimezone(UTC).astimezone(place).replace(tzinfo=None) != local:
            raise TargetRefusedError(
                f"{text!r} never was: the clocks were put forward. Give an offset, {offsets}. Nothing was started"
            )
        raise TargetRefusedError(
            f"{text!r} is ambiguous: the clocks were put back, it was twice. Give an offset, {offsets}. Nothing was "
            "started"
        )
    return first


def _offset_text(moment: datetime) -> str:
    return moment.strftime("%z")[:3] + ":" + moment.strftime("%z")[3:5]
