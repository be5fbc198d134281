"""How evidence is worded: moments, durations and numbers, the same in the report, the terminal and the console."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["clock", "count", "duration", "moment", "offset", "seconds", "times"]


def moment(at: datetime) -> str:
    """A moment with its date: `2026-11-23 08:57:30 UTC`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: datetime) -> str:
    """A moment without its date: `08:57:30`."""
    return at.astimezone(UTC).strftime("%H:%M:%S")


def duration(total_seconds: float) -> str:
    """A length of time in the two largest units: `0.4 s`, `42 s`, `5 min 03 s`, `2 h 05 min`, `3 d 04 h`."""
    if total_seconds < 10:
        return f"{max(total_seconds, 0):.1f} s"
    whole = round(total_seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def offset(at: datetime, start: datetime) -> str:
    """A moment relative to the start of a run: `+0:00`, `+2:03`, `+1:02:03`."""
    total = (at - start).total_seconds()
    sign = "−" if total <= -0.5 else "+"
    minutes, rest = divmod(abs(round(total)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}:{minutes:02d}:{rest:02d}" if hours else f"{sign}{minutes}:{rest:02d}"


def count(number: float) -> str:
    """A count with thousands apart: `24,310`. A fraction keeps one digit."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def seconds(value: float) -> str:
    """A response time: `38 ms`, `1.20 s`."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def times(number: float, thing: str) -> str:
    """A count of things: `1 error`, `31 errors`."""
    return f"{count(number)} {thing}" if number == 1 else f"{count(number)} {thing}s"
