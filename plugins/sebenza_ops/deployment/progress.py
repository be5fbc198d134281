"""What a deployment must not forget when it is killed: its phase and its clock, kept in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import LedgerUnavailable

log = logging.getLogger(__name__)


class Phase(StrEnum):
    """How far a deployment's traffic has come."""

    SWITCHING = "switching"
    ROLLING = "rolling"
    BAKING = "baking"
    BAKED = "baked"
    UNDOING = "undoing"
    UNDONE = "undone"

    @property
    def is_unproven(self) -> bool:
        """Whether traffic may be on the new color without its having passed."""
        return self in (Phase.SWITCHING, Phase.ROLLING, Phase.BAKING, Phase.UNDOING)


class Progress:
    """The run's own notes, read once and written through.

    A ledger that is down costs a resumed attempt its memory, never the traffic: writing fails with a warning.
    """

    def __init__(self, run: ChangeRun) -> None:
        self._run = run
        self._values: dict[str, Any] = run.ledger.deployments.progress(run.holder.dag_id, run.holder.run_id)

    @property
    def phase(self) -> Phase | None:
        """How far traffic has come; None before the switch."""
        value = self._values.get("phase")
        return Phase(value) if value else None

    def number(self, key: str, default: float) -> float:
        """A number kept under `key`."""
        value = self._values.get(key)
        return default if value is None else float(value)

    def optional_number(self, key: str) -> float | None:
        """A number kept under `key`, or None."""
        value = self._values.get(key)
        return None if value is None else float(value)

    def names(self, key: str) -> tuple[str, ...]:
        """Names kept under `key`."""
        return tuple(str(name) for name in self._values.get(key) or ())

    def text(self, key: str, default: str = "") -> str:
        """A text kept under `key`."""
        return str(self._values.get(key) or default)

    def flag(self, key: str) -> bool:
        """Whether something is kept as true under `key`."""
        return bool(self._values.get(key))

    def values(self, key: str) -> Mapping[str, Any]:
        """An object kept under `key`; empty when there is none."""
        return self._values.get(key) or {}

    def save(self, **values: Any) -> None:
        """Keep values over kills."""
        self._values.update(values)
        holder = self._run.holder
        try:
            self._run.ledger.deployments.update_progress(holder.dag_id, holder.run_id, values)
        except LedgerUnavailable as error:
            log.warning("progress could not be saved: %s", error)
