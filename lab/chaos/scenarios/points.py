"""Restores to a point in time: impossible targets, a refusal by people, and kills on every step of the exchange."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from lab import addresses, backups, commit_writer, postgres
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.moments import FENCE_LOCK
from lab.chaos.run import MissedStateError, Run
from lab.chaos.scenario import BACKUP, RESTORE_POINT, Scenario
from lab.chaos.scenarios.backup_kills import scenario
from lab.chaos.scenarios.kills import WHO, kill
from lab.chaos.scenarios.restores import nothing_left
from lab.chaos.scenarios.switches import ENDPOINT, OTHER, OWNERS_LOCK, held, is_paused, takes_writes
from lab.commit_writer import CommitWriter
from lab.secrets import lab_secrets
from sebenza_ops.recovery.point_steps import STRATEGY

_QUESTION, _APPROVE = "approve_exchange", "Exchange the database"
_REASON: Final = "a fault test takes the database back"
_FULL_BACKUP_SECONDS: Final = 240.0


@dataclass(frozen=True)
class Past:
    """A moment to go back to, between commits that were acknowledged; `ahead_seconds` of the server's clock."""

    at: float
    primary: str
    ahead_seconds: float = 0

    @property
    def text(self) -> str:
        """As people give it, by the server's clock."""
        return datetime.fromtimestamp(self.at + self.ahead_seconds, UTC).isoformat()


@contextmanager
def written(drill: Drill, ahead_seconds: float = 0) -> Iterator[tuple[CommitWriter, Past]]:
    """A client writes; there is a set from before the moment, and the moment is over."""
    primary, password = postgres.primary_of_production(), lab_secrets().postgres_superuser
    writer = CommitWriter(ENDPOINT, "postgres", password)
    try:
        with writer:
            _commits(drill, writer, 20)
            made = backups.run(primary, "--type=incr", "backup", timeout_seconds=180)
            if made.returncode != 0:
                raise MissedStateError(f"a set from before the moment: {made.stdout}{made.stderr}")
            _commits(drill, writer, 50)
            # pgBackRest tells whole seconds: only a later one is after the set.
            time.sleep(1.2)
            past = Past(time.time(), primary, ahead_seconds)
            _commits(drill, writer, 50)
            yield writer, past
    finally:
        commit_writer.drop(ENDPOINT, "postgres", password)


def _commits(drill: Drill, writer: CommitWriter, more: int) -> None:
    now = len(writer.acknowledged)
    drill.until(lambda: len(writer.acknowledged) > now + more, "the client writes", 60)


def restore(drill: Drill, target: str, **conf: Any) -> Run:
    """Start a restore to a moment."""
    values = {"target": target, "reason": _REASON, **conf}
    return drill.follows(RESTORE_POINT, drill.stage.client.trigger(RESTORE_POINT, values))


def answer(drill: Drill, run: Run, option: str) -> str:
    """Answer as somebody who may; what they were shown."""
    run.until_done(_QUESTION, "awaiting_input")
    body = str(drill.stage.client.hitl_details(RESTORE_POINT, run.run_id, _QUESTION)["body"])
    # An answer that comes at once meets Airflow still parking the task.
    time.sleep(3)
    drill.stage.approver.answer(RESTORE_POINT, run.run_id, _QUESTION, [option], {"reason": "seen: the rows are right"})
    return body


def judge_past(drill: Drill, writer: CommitWriter, past: Past) -> None:
    """Everything from before the moment and nothing from after it, on one primary and its replica."""
    _commits(drill, writer, 20)
    writer.stop()
    # What the client was told after the exchange is there, and is no part of the comparison.
    late = [each for each in writer.acknowledged if each.at > past.at]
    gap = next((i + 1 for i, (a, b) in enumerate(pairwise(late)) if b.at - a.at > 0.5), len(late))
    kept_before = [each for each in writer.acknowledged if each.at <= past.at]
    writer.acknowledged = [*kept_before, *late[:gap]]
    other = OTHER[past.primary]
    drill.until(lambda: postgres.streams(past.primary, f"{other}_slot"), "the replica follows", 60)
    for host in (past.primary, other):
        wrong = writer.wrong_rows(writer.numbers((addresses.address(host), addresses.POSTGRES_PORT)), past.at)
        drill.expect(wrong.count == 0, f"{host}: {wrong}")
    found = {host: takes_writes(host) for host in OTHER}
    drill.expect(found == {past.primary: True, other: False}, f"not {past.primary} alone takes writes: {found}")
    drill.expect(postgres.leads_to_production() == past.primary, f"clients are not led to {past.primary}")
    drill.expect(_beside(past.primary, "before"), "the former data directory was not kept")
    drill.note(f"{len(kept_before)} commits from before are there, {gap} from after it are not")


def _beside(host: str, what: str) -> list[Path]:
    data = postgres.data_directory(host)
    return list(data.parent.glob(f"{data.name}.{what}-*"))


def _judge_untouched(drill: Drill, writer: CommitWriter, past: Past) -> None:
    """Nobody noticed: every acknowledged commit is there, and the server was not even restarted."""
    _commits(drill, writer, 20)
    writer.stop()
    missing = writer.missing((addresses.address(past.primary), addresses.POSTGRES_PORT))
    drill.expect(not missing, f"{len(missing)} acknowledged commits are gone")
    drill.expect(takes_writes(past.primary), f"{past.primary} takes no writes")
    drill.expect(postgres.leads_to_production() == past.primary, f"clients are not led to {past.primary}")
    nothing_left(drill)


def _started(host: str) -> str:
    with postgres.connect(host) as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()::text")
        return str(cursor.fetchone()[0])


# --- targets that can't be


_IMPOSSIBLE: Final[tuple[tuple[dict[str, str], str], ...]] = (
    ({"target": "2020-01-01 00:00:00Z"}, "is before the end of the oldest set"),
    ({"target": "2099-01-01 00:00:00Z"}, "is in the future"),
    ({"target_type": "lsn", "target": "FFFF/0"}, "its archived WAL ends before"),
    ({"target_type": "name", "target": "nobody set this"}, "is not in the archived WAL"),
    ({"target": "2026-11-25 12:00:00"}, "has no time zone"),
    ({"target": "2026-10-25 02:30 Europe/Berlin"}, "it was twice"),
    ({"target": "2026-03-29 02:30 Europe/Berlin"}, "never was"),
    ({"target": "2026-11-25 12:00 IST"}, "is ambiguous"),
)


def _impossible(drill: Drill) -> None:
    kept.ready(drill)
    primary = postgres.primary_of_production()
    started = _started(primary)
    for conf, words in _IMPOSSIBLE:
        run = drill.follows(RESTORE_POINT, drill.stage.client.trigger(RESTORE_POINT, {"reason": _REASON, **conf}))
        drill.ends(run, "failed")
        drill.expect(words in run.errors(), f"{conf['target']}: it is not said that it {words!r}: {run.errors()}")
        drill.expect(run.tasks()["restore_beside"].state == "upstream_failed", f"{conf['target']}: a restore was begun")
    drill.expect(_started(primary) == started, "the server was restarted")
    nothing_left(drill)


def _in_other_zones(drill: Drill) -> None:
    """One moment in the words of three places is one moment, and one set."""
    kept.ready(drill)
    with written(drill) as (writer, past):
        moment = datetime.fromtimestamp(past.at, UTC)
        zones = ("Africa/Johannesburg", "America/St_Johns")
        local = [f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S.%f} {zone}" for zone in zones]
        plans = []
        for text in (moment.isoformat(), *local):
            run = restore(drill, text, plan_only=True)
            drill.ends(run, "success")
            plan = drill.stage.client.xcom(RESTORE_POINT, run.run_id, "plan_restore")
            plans.append((datetime.fromisoformat(plan["target"]["at"]), plan["label"]))
        drill.expect(len(set(plans)) == 1, f"one moment became {plans}")
        drill.expect(plans[0][0] == moment, f"{moment} became {plans[0][0]}")
        _judge_untouched(drill, writer, past)


def _rejected(drill: Drill) -> None:
    kept.ready(drill)
    with written(drill) as (writer, past):
        started = _started(past.primary)
        run = restore(drill, past.text)
        body = answer(drill, run, "Reject")
        drill.expect("lab_writer public.commits" in body, f"the question does not say what would be lost: {body}")
        drill.ends(run, "failed")
        drill.expect(run.outcome()[0] == "rejected", f"it is not shown as rejected: {run.outcome()}")
        drill.expect(_started(past.primary) == started, "the server was restarted")
        _judge_untouched(drill, writer, past)


# --- kills


def _while_restored(drill: Drill, run: Run, past: Past) -> str:
    run.until(lambda: kept.works("restore"), "pgBackRest restores the copy")
    return "restore_beside"


def _progress(run: Run) -> dict[str, Any]:
    return dict(run.progress().get(STRATEGY) or {})


def _while_clients_wait(drill: Drill, run: Run, past: Past) -> str:
    answer(drill, run, _APPROVE)
    # The restore point is set under the same lock; the stop comes next, after clients wait.
    run.until(lambda: bool(_progress(run).get("restore_point")), "the restore point is set")
    drill.stack.enter_context(held(past.primary, OWNERS_LOCK))
    run.until(is_paused, "clients wait")
    drill.expect(takes_writes(past.primary), "the primary was stopped before the fault struck")
    return "exchange_cluster"


def _while_stopped(drill: Drill, run: Run, past: Past) -> str:
    answer(drill, run, _APPROVE)
    run.until(lambda: not postgres.answers(past.primary), "the primary is stopped")
    return "exchange_cluster"


def _before_clients_are_led(drill: Drill, run: Run, past: Past) -> str:
    answer(drill, run, _APPROVE)
    run.until(is_paused, "clients wait")
    drill.stack.enter_context(held("dbendpoint", FENCE_LOCK))
    run.until(lambda: bool(_beside(past.primary, "before")), "the directories are exchanged")
    run.until(lambda: postgres.answers(past.primary) and takes_writes(past.primary), "the copy takes writes")
    return "exchange_cluster"


def _while_rebuilt(drill: Drill, run: Run, past: Past) -> str:
    answer(drill, run, _APPROVE)
    run.until_started("rebuild_replica")
    return "rebuild_replica"


_KILLS: Final[dict[str, tuple[str, Callable[[Drill, Run, Past], str]]]] = {
    "restored-beside": ("the copy is restored beside", _while_restored),
    "clients-wait": ("clients wait, and the primary still runs", _while_clients_wait),
    "stopped": ("the primary is stopped, and nothing takes writes", _while_stopped),
    "exchanged": ("the copy takes writes, and the endpoint has not been told", _before_clients_are_led),
    "replica-rebuilt": ("the other server is made its replica", _while_rebuilt),
}


def _killed(who: str, moment: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        kept.ready(drill)
        with written(drill) as (writer, past):
            run = restore(drill, past.text)
            task_id = _KILLS[moment][1](drill, run, past)
            try:
                kill(run, task_id, who)
            except LookupError:
                raise MissedStateError(f"{task_id} was over before it could be killed") from None
            # What held the state is let go, and the next attempt goes on.
            drill.stack.close()
            if moment == "restored-beside":
                answer(drill, run, _APPROVE)
            drill.ends(run, "success")
            drill.expect(run.tasks()[task_id].try_number > 1, f"{task_id} was not killed")
            judge_past(drill, writer, past)
            _backed_up_anew(drill, run)

    return play


def _backed_up_anew(drill: Drill, run: Run) -> None:
    """A full backup of the new history has been started by the run, and is made."""
    started = [
        row["dag_run_id"] for row in drill.stage.client.dag_runs(BACKUP) if str(row["dag_run_id"]).startswith("after__")
    ]
    drill.expect(any(run.run_id in each for each in started), f"no backup was started after {run.run_id}: {started}")
    if started:
        backup = drill.follows(BACKUP, started[0])
        backup.until_ended(_FULL_BACKUP_SECONDS)
        newest = list(kept.sets().items())[-1]
        drill.expect(backup.state == "success" and newest[1] == "full", f"it ended as {backup.state}: {newest}")


def _marked_failed(drill: Drill) -> None:
    """By hand, while nobody takes writes: the former cluster is the server again."""
    kept.ready(drill)
    with written(drill) as (writer, past):
        run = restore(drill, past.text)
        _while_stopped(drill, run, past)
        run.mark_failed()
        drill.ends(run, "failed")
        run.failures = 1
        _judge_untouched(drill, writer, past)


def _scenario(name: str, fault: str, expects: str, play: Callable[[Drill], None]) -> Scenario:
    return scenario(f"point-{name}", fault, expects, play, RESTORE_POINT)


_GOES_ON: Final = (
    "the next attempt goes on: every commit from before the moment is there and none from after it, on both servers; a "
    "full backup is started"
)
SCENARIOS: Final = (
    _scenario(
        "impossible-targets",
        "targets before the oldest set, after the newest WAL, without a zone, in an hour that was twice or never, "
        "without a place, a restore point that nobody set",
        "each is refused before anything begins, with what can be reached; the server is untouched",
        _impossible,
    ),
    _scenario(
        "in-other-zones",
        "one moment is given in UTC, in Johannesburg's time and in Newfoundland's",
        "all three plans have the same moment and the same set",
        _in_other_zones,
    ),
    _scenario(
        "rejected",
        "the restored copy is looked at, and rejected",
        "the copy is removed, the server was not even restarted, no commit is lost",
        _rejected,
    ),
    *(
        _scenario(f"{who}-killed-{moment}", f"{WHO[who]} while {_KILLS[moment][0]}", _GOES_ON, _killed(who, moment))
        for who in WHO
        for moment in _KILLS
    ),
    _scenario(
        "marked-failed",
        "the run is marked failed by hand while the primary is stopped for the exchange",
        "the former cluster is the server again, clients go on, no acknowledged commit is lost",
        _marked_failed,
    ),
)
