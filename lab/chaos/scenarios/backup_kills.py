"""Backups that are killed, at each of their steps and inside: by task, worker, by hand, on the host; two at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab import estate, faults, supervision
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.moments import BACKING_UP, BACKUP_ALL, DUMPING, Moment
from lab.chaos.run import MissedStateError
from lab.chaos.scenario import BACKUP, Live, Scenario
from lab.chaos.scenarios.kills import WHO, kill

_GOES_ON: Final = (
    "the next attempt finds what works on the host, and the run succeeds: one set more, read back, with its dump"
)


def scenario(name: str, fault: str, expects: str, play: Callable[[Drill], None], procedure: str = BACKUP) -> Scenario:
    """A fault of backups or recovery: users' traffic must not notice, and what is live stays as it is."""
    return Scenario(
        name=name, fault=fault, expects=expects, play=play, live=Live.OLD, has_load=False, procedure=procedure
    )


def _killed(who: str, moment: Moment) -> Scenario:
    def play(drill: Drill) -> None:
        before = kept.ready(drill)
        run = drill.back_up()
        moment.reach(drill, run)
        try:
            kill(run, moment.task_id, who)
        except LookupError:
            raise MissedStateError(f"{moment.task_id} was over before it could be killed") from None
        drill.note(f"killed {moment.words}")
        drill.ends(run, "success")
        drill.expect(run.tasks()[moment.task_id].try_number > 1, f"{moment.task_id} was not killed")
        kept.judge(drill, before, new=1)

    return scenario(f"backup-{who}-killed-{moment.name}", f"{WHO[who]} {moment.words}", _GOES_ON, play)


def _marked_failed(moment: Moment) -> Scenario:
    def play(drill: Drill) -> None:
        before = kept.ready(drill)
        run = drill.back_up()
        moment.reach(drill, run)
        run.mark_failed()
        drill.note(f"marked failed {moment.words}")
        ended = moment.task_id == "release_lease"
        drill.ends(run, "failed", *(["success"] if ended else []))
        run.failures = 1
        drill.until(lambda: not kept.works("backup"), "what works on the host for nobody ends", 60)
        # What it has left is no hindrance: whether its set is there or not, the catalog knows after the next one.
        left = kept.sets()
        drill.expect(set(before) <= set(left), f"sets are gone: {set(before) - set(left)}")
        drill.ends(drill.back_up(), "success")
        kept.judge(drill, left, new=1)

    return scenario(
        f"backup-marked-failed-{moment.name}",
        f"the run is marked failed by hand {moment.words}",
        "it ends as failed, people are told once, the lease is given back, every earlier set is there; the next backup "
        "succeeds",
        play,
    )


def _killed_on_the_host(moment: Moment, word: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        before = kept.ready(drill)
        run = drill.back_up()
        moment.reach(drill, run)
        if not kept.kill(word):
            raise MissedStateError("it was over before it could be killed")
        drill.ends(run, "success")
        drill.expect(run.tasks()[moment.task_id].try_number > 1, f"{moment.task_id} was not tried again")
        kept.judge(drill, before, new=1)

    return play


def _host_dies(drill: Drill) -> None:
    """The replica on which the backup is read, with all that runs there; it comes back before the next try."""
    before, host = kept.ready(drill), kept.replica()
    run = drill.back_up()
    BACKING_UP.reach(drill, run)
    drill.breaks(faults.kill(host))
    drill.expect(not supervision.is_up(host), f"{host} is still up")
    run.until(lambda: run.tasks()["back_up"].state == "up_for_retry", "the step has failed")
    faults.mend(wait_for_health=False)
    drill.ends(run, "success")
    estate.check_health()
    kept.judge(drill, before, new=1)


def _two_at_once(drill: Drill) -> None:
    before = kept.ready(drill)
    runs = [drill.back_up(), drill.back_up()]
    states = sorted(run.until_ended() for run in runs)
    drill.note(f"the runs ended as {' and '.join(states)}")
    drill.expect(states == ["failed", "success"], f"not one of two: {[run.errors() for run in runs]}")
    refused = " ".join(run.errors() for run in runs)
    drill.expect("another backup of production works" in refused, f"it is not said who is at work: {refused}")
    kept.judge(drill, before, new=1)


SCENARIOS: Final = (
    *(_killed(who, moment) for who in WHO for moment in BACKUP_ALL),
    *(_marked_failed(moment) for moment in BACKUP_ALL),
    scenario(
        "backup-killed-on-the-host",
        "pgBackRest and all that it has started are killed on the replica in the middle of a backup",
        "the step is tried again, pgBackRest resumes, and the run succeeds",
        _killed_on_the_host(BACKING_UP, "backup"),
    ),
    scenario(
        "backup-dump-killed-on-the-host",
        "pg_dump is killed on the replica in the middle of the dump",
        "a dump that died in its session is seen, the step is tried again, and the run succeeds",
        _killed_on_the_host(DUMPING, "--snapshot"),
    ),
    scenario(
        "backup-host-dies",
        "the replica's whole host is killed in the middle of a backup; it comes back after the step has failed",
        "the step is tried again, and the run succeeds",
        _host_dies,
    ),
    scenario(
        "backup-two-at-once",
        "two backups are started in the same moment",
        "one is refused at once and told who is at work, the other one succeeds: one set more",
        _two_at_once,
    ),
)
