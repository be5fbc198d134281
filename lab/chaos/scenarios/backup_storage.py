"""Object storage that is down, slow or full, and full disks: during a backup, and while WAL is archived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab import addresses, faults, postgres
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.moments import BACKING_UP
from lab.chaos.run import Run
from lab.chaos.scenario import Scenario
from lab.chaos.scenarios.backup_kills import scenario
from lab.fault_register import Fault
from lab.storage import BUCKET

_WORK_DIR: Final = "/var/lib/sebenza-backup"
_SPOOL: Final = "/var/spool/pgbackrest"
# Each way; pgBackRest asks the storage some hundred times in a backup of the lab.
_DELAY_SECONDS: Final = 0.2
# Of the lab's production, for the time of a scenario: an archive that stalls is told of after so long.
_OBJECTIVE_SECONDS: Final = 20

STORAGE: Final[dict[str, tuple[str, Callable[[], Fault]]]] = {
    "down": ("is killed", lambda: faults.kill("storage", "rclone")),
    "slow": (
        f"answers {_DELAY_SECONDS * 1000:g} ms late",
        lambda: faults.slow("storage", addresses.STORAGE_PORT, _DELAY_SECONDS),
    ),
    "full": ("has not a byte free", lambda: faults.fill_disk("storage", f"/srv/s3/{BUCKET}")),
}


def _first_try_fails(run: Run, task_id: str) -> None:
    run.until(lambda: run.tasks()[task_id].state == "up_for_retry", f"the first try of {task_id} fails", 400)


def _mend(fault: Fault) -> None:
    faults.mend(fault, wait_for_health=False)


def _during_the_backup(how: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        before = kept.ready(drill)
        # A storage that is slow is so from the beginning.
        if how == "slow":
            fault = drill.breaks(STORAGE[how][1]())
            run = drill.back_up()
            drill.ends(run, "success")
            _mend(fault)
        else:
            run = drill.back_up()
            BACKING_UP.reach(drill, run)
            fault = drill.breaks(STORAGE[how][1]())
            failed = kept.archiver()["failed"]
            kept.write_wal()
            # As long as PostgreSQL notices, and then some: pgBackRest itself gives up after minutes.
            drill.until(lambda: kept.archiver()["failed"] > failed, "a WAL segment could not be archived", 120)
            _mend(fault)
            drill.ends(run, "success")
        kept.catches_up(drill)
        kept.judge(drill, before, new=1)

    return play


def _during_the_archive(how: str) -> Callable[[Drill], None]:
    """WAL can't be archived, or hardly; a backup that comes just then tells people, and waits."""

    def play(drill: Drill) -> None:
        before = kept.ready(drill)
        drill.stack.enter_context(changed_policy("production", "objectives", rpo_seconds=_OBJECTIVE_SECONDS))
        failed = kept.archiver()["failed"]
        fault = drill.breaks(STORAGE[how][1]())
        kept.write_wal(3)
        if how == "slow":
            run = drill.back_up()
            drill.ends(run, "success")
            _mend(fault)
        else:
            drill.until(lambda: kept.archiver()["failed"] > failed, "a WAL segment could not be archived", 120)
            drill.until(lambda: kept.archiver()["age_seconds"] > _OBJECTIVE_SECONDS, "the objective is missed", 60)
            run = drill.back_up()
            _first_try_fails(run, "plan_backup")
            kept.until_told(drill, run.run_id, "the recovery point", 30)
            drill.expect(kept.archiver()["waiting"] > 0, "no WAL waits, although the storage takes none")
            _mend(fault)
            drill.ends(run, "success")
            told = kept.told(drill, run.run_id, "the recovery point")
            drill.expect(len(told) == 1, f"people were told {len(told)} times of the recovery point: {told}")
        kept.catches_up(drill)
        kept.judge(drill, before, new=1)

    return play


def _host_full_before(drill: Drill) -> None:
    before = kept.ready(drill)
    fault = drill.breaks(faults.fill_disk(kept.replica(), _WORK_DIR))
    run = drill.back_up()
    drill.ends(run, "failed")
    drill.expect("MiB free in" in run.errors(), f"the disk is not named: {run.errors()}")
    kept.judge(drill, before, new=0)
    _mend(fault)
    run.clear()
    drill.ends(run, "success")
    kept.judge(drill, before, new=1)


def _host_full_in_the_dump(drill: Drill) -> None:
    before = kept.ready(drill)
    run = drill.back_up()
    run.until_done("back_up", "success")
    fault = drill.breaks(faults.fill_disk(kept.replica(), _WORK_DIR))
    _first_try_fails(run, "dump_database")
    _mend(fault)
    drill.ends(run, "success")
    kept.judge(drill, before, new=1)


def _spool_full(drill: Drill) -> None:
    """Where pgBackRest notes which WAL it has sent: its notes are empty files, for which there is room."""
    before = kept.ready(drill)
    failed = kept.archiver()["failed"]
    fault = drill.breaks(faults.fill_disk(postgres.primary_of_production(), _SPOOL))
    kept.write_wal(2)
    kept.catches_up(drill)
    drill.expect(kept.archiver()["failed"] == failed, "WAL could not be archived")
    run = drill.back_up()
    drill.ends(run, "success")
    _mend(fault)
    kept.catches_up(drill)
    kept.judge(drill, before, new=1)


def _backup(how: str) -> Scenario:
    when = "during a whole backup" if how == "slow" else "while pgBackRest backs up, and is right again"
    return scenario(
        f"backup-storage-{how}",
        f"the object storage {STORAGE[how][0]} {when}",
        "the backup takes longer, the run succeeds, the set is whole, and all WAL is archived afterwards",
        _during_the_backup(how),
    )


def _archive(how: str) -> Scenario:
    is_slow = how == "slow"
    when = "" if is_slow else "; a backup is started before it is right again"
    told = "" if is_slow else "; people are told of the recovery point, once; the backup succeeds then"
    return scenario(
        f"archive-storage-{how}",
        f"the object storage {STORAGE[how][0]} while WAL is archived{when}",
        f"WAL is kept, and archived without a gap once it can be{told}",
        _during_the_archive(how),
    )


SCENARIOS: Final = (
    *(_backup(how) for how in STORAGE),
    *(_archive(how) for how in STORAGE),
    scenario(
        "backup-disk-full-before",
        f"{_WORK_DIR} on the replica's host is full when a backup begins",
        "it is refused before anything is begun, and says how much room it needs; cleared with room, it succeeds",
        _host_full_before,
    ),
    scenario(
        "backup-disk-full-in-the-dump",
        f"{_WORK_DIR} on the replica's host is full when the dump begins; there is room again after that has failed",
        "a dump that does not fit is none: the step is tried again, and the run succeeds",
        _host_full_in_the_dump,
    ),
    scenario(
        "archive-spool-full",
        f"{_SPOOL} on the primary is full while WAL is archived, and a backup is made",
        "WAL is archived all the same, as what is noted there takes no space, and the set is whole",
        _spool_full,
    ),
)
