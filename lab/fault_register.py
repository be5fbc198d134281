"""Which faults are active: kept in `.lab/faults.json`, so that any process can show and mend them."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from lab import paths


@dataclass(frozen=True)
class Fault:
    """Something that was broken on purpose. As a context manager it is mended at the end of the block."""

    id: str
    kind: str
    host: str
    detail: str
    undo: dict[str, Any] = field(default_factory=dict)
    since: str = ""
    """UTC, ISO 8601."""

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        from lab import faults  # faults builds on this module

        faults.mend(self)

    def __str__(self) -> str:
        return f"{self.id}  {self.kind} {self.host} {self.detail}".rstrip() + f"  since {self.since}"


@contextlib.contextmanager
def _locked() -> Iterator[list[Fault]]:
    paths.LAB_DIR.mkdir(parents=True, exist_ok=True)
    with (paths.LAB_DIR / "faults.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = [Fault(**each) for each in json.loads(paths.FAULTS_FILE.read_text())] if _exists() else []
        before = list(known)
        yield known
        if known != before:
            temporary = paths.FAULTS_FILE.with_suffix(".new")
            temporary.write_text(json.dumps([asdict(each) for each in known], indent=1))
            temporary.replace(paths.FAULTS_FILE)


def _exists() -> bool:
    return paths.FAULTS_FILE.exists()


def active() -> list[Fault]:
    """The faults that are not mended yet, oldest first."""
    with _locked() as known:
        return list(known)


def add(kind: str, host: str, detail: str = "", undo: dict[str, Any] | None = None) -> Fault:
    """Record a fault before it is made, so that a killed program leaves nothing that can't be mended."""
    with _locked() as known:
        numbers = [int(each.id.removeprefix("f")) for each in known]
        fault = Fault(
            id=f"f{max(numbers, default=0) + 1}",
            kind=kind,
            host=host,
            detail=detail,
            undo=undo or {},
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        known.append(fault)
        return fault


def update(fault: Fault, **undo: Any) -> Fault:
    """Record what became known while the fault was made."""
    changed = Fault(**{**asdict(fault), "undo": {**fault.undo, **undo}})
    with _locked() as known:
        known[[each.id for each in known].index(fault.id)] = changed
    return changed


def find(fault_id: str) -> Fault:
    """The active fault of that id; `KeyError` with the active ones."""
    known = active()
    for fault in known:
        if fault.id == fault_id:
            return fault
    listed = ", ".join(each.id for each in known) or "none"
    raise KeyError(f"no active fault {fault_id!r}; active: {listed}")


def remove(fault: Fault) -> None:
    """Forget a fault that is mended."""
    with _locked() as known:
        known[:] = [each for each in known if each.id != fault.id]
