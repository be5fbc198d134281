"""What a scenario is: a fault, the state at which it strikes, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from lab.load.report import Request

if TYPE_CHECKING:
    from lab.chaos.drill import Drill

DEPLOY: Final = "deploy_blue_green.production"
STANDARD: Final = "deploy_standard.production"
ROLLBACK: Final = "rollback.production"
SWITCH: Final = "switch_database_primary.production"
BACKUP: Final = "backup_database.production"
VERIFY: Final = "verify_backups.production"
RESTORE_DATABASE: Final = "restore_database.production"
RESTORE_POINT: Final = "restore_point_in_time.production"


class Live(Enum):
    """What must be live in the end, by the color and the release from before."""

    OLD = "the old release is live"
    NEW = "the new release is live"
    EITHER = "one of both is live"


@dataclass(frozen=True)
class Excuse:
    """Which failed requests a fault itself explains; every other one makes a scenario unsafe.

    Args:
        words: The rule, for people.
        explains: Whether a failed request is explained.
    """

    words: str
    explains: Callable[[Request, Drill], bool]


NO_EXCUSE: Final = Excuse("none", lambda request, drill: False)
BAD_RELEASE: Final = Excuse(
    "5xx answers of the bad release itself",
    lambda request, drill: request.outcome == "server_error" and request.color == drill.new_color,
)


def _inside_a_window(request: Request, drill: Drill) -> bool:
    return any(
        window.load_balancer == request.load_balancer and window.began_at <= request.finished_at <= window.ended_at
        for window in drill.windows
    )


IN_WINDOWS: Final = Excuse(
    "on the broken load balancer itself, while it was restarting, reloading or dead", _inside_a_window
)


@dataclass(frozen=True)
class Scenario:
    """One row of the fault matrix.

    Args:
        name: Its name, for the command line and the results.
        fault: What is broken, and when.
        expects: What must happen, in words.
        play: Arranges, starts the deployment, breaks, and says what was wrong through `Drill.expect`.
        live: What must be live in the end.
        excuse: Which failed requests the fault explains.
        may_split: Whether traffic may stay on two colors, if that is said loudly.
        has_load: Whether users send requests meanwhile.
        tolerates: Parts of the checker's findings that the fault explains, each with the reason.
        procedure: The procedure under test.
        gated: Production demands its gates, staging first, and the approval of somebody else.
    """

    name: str
    fault: str
    expects: str
    play: Callable[[Drill], None]
    live: Live
    excuse: Excuse = NO_EXCUSE
    may_split: bool = False
    has_load: bool = True
    tolerates: tuple[tuple[str, str], ...] = ()
    procedure: str = DEPLOY
    gated: bool = False


@dataclass(frozen=True)
class Result:
    """What `build/chaos.json` holds of a scenario."""

    name: str
    procedure: str
    fault: str
    outcome: str
    detail: str

    @property
    def is_safe(self) -> bool:
        """Whether all that must hold did hold."""
        return self.outcome == "safe"
