"""What the mailbox received, refused, and was told to do wrong on purpose."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO, cast, get_args

Channel = Literal["slack", "pagerduty", "email", "webhook"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
Record = dict[str, Any]


def utc_now() -> str:
    """The present as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class Fault:
    """The next `count` requests of a channel are answered with `status` after `delay_seconds`.

    `status` is an HTTP status, or an SMTP reply code for the channel "email"; 200 or 250 is
    only late.
    """

    channel: Channel
    status: int
    count: int
    delay_seconds: float = 0.0


class JournalFile:
    """Records in one file, a JSON object a line, kept in memory too."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left; a last line that was cut by a crash is dropped."""
        path.touch(mode=0o600)
        complete = path.read_bytes().rpartition(b"\n")
        whole = complete[0] + complete[1]
        self.records: list[Record] = [json.loads(line) for line in whole.splitlines()]
        os.truncate(path, len(whole))
        self._file: TextIO = path.open("a")

    def append(self, record: Record) -> None:
        """Keep one record, on disk before it is acknowledged to the sender."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def clear(self) -> int:
        """Forget all records and return how many there were."""
        count = len(self.records)
        self.records.clear()
        self._file.truncate(0)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Store:
    """Messages, refusals and faults of one mailbox, under one directory."""

    def __init__(self, directory: Path) -> None:
        """Open the store in `directory`, which is created when it does not exist."""
        directory.mkdir(parents=True, exist_ok=True)
        self._messages = JournalFile(directory / "messages.jsonl")
        self._refusals = JournalFile(directory / "refusals.jsonl")
        self._faults: list[Fault] = []
        self._next_id = 1 + max((int(record["id"]) for record in self._all()), default=0)
        self._changed = asyncio.Condition()

    def _all(self) -> Iterable[Record]:
        yield from self._messages.records
        yield from self._refusals.records

    def _stamp(self, channel: Channel, record: Record) -> Record:
        stamped = {"id": self._next_id, "received_at": utc_now(), "channel": channel, **record}
        self._next_id += 1
        return stamped

    async def accept(self, channel: Channel, record: Record) -> Record:
        """Keep a message and wake everybody who waits for one."""
        stamped = self._stamp(channel, record)
        self._messages.append(stamped)
        async with self._changed:
            self._changed.notify_all()
        return stamped

    def refuse(self, channel: Channel, status: int, reason: str, record: Record) -> None:
        """Keep what was refused, with the status and the reason that the sender got."""
        self._refusals.append(self._stamp(channel, {"status": status, "reason": reason, **record}))

    def messages(self, channel: str | None, since: datetime | None, after_id: int) -> list[Record]:
        """Messages of a channel (all when None), received after `since` and with a higher id than `after_id`."""
        return _select(self._messages.records, channel, since, after_id)

    def refusals(self, channel: str | None, since: datetime | None, after_id: int) -> list[Record]:
        """Refused requests, selected like messages."""
        return _select(self._refusals.records, channel, since, after_id)

    async def await_messages(
        self, channel: str | None, since: datetime | None, after_id: int, wait_seconds: float
    ) -> list[Record]:
        """Like `messages`, but wait up to `wait_seconds` for the first one."""
        found: list[Record] = []

        def arrived() -> bool:
            found[:] = self.messages(channel, since, after_id)
            return bool(found)

        try:
            async with asyncio.timeout(wait_seconds), self._changed:
                await self._changed.wait_for(arrived)
        except TimeoutError:
            pass
        return found

    def clear(self) -> int:
        """Forget messages, refusals and faults; return how many messages there were."""
        self._faults.clear()
        self._refusals.clear()
        return self._messages.clear()

    def add_fault(self, fault: Fault) -> None:
        """Answer the next requests of a channel wrongly."""
        self._faults.append(fault)

    def clear_faults(self) -> None:
        """Answer rightly again."""
        self._faults.clear()

    def faults(self) -> list[Fault]:
        """Faults that still wait for a request."""
        return list(self._faults)

    def take_fault(self, channel: Channel) -> Fault | None:
        """The fault that the request at hand must meet, if there is one; it is used up by this."""
        for fault in self._faults:
            if fault.channel == channel:
                fault.count -= 1
                if fault.count <= 0:
                    self._faults.remove(fault)
                return fault
        return None

    def close(self) -> None:
        """Close the files."""
        self._messages.close()
        self._refusals.close()


def _select(records: list[Record], channel: str | None, since: datetime | None, after_id: int) -> list[Record]:
    return [
        record
        for record in records
        if (channel is None or record["channel"] == channel)
        and (since is None or datetime.fromisoformat(record["received_at"]) > since)
        and cast(int, record["id"]) > after_id
    ]
