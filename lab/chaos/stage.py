"""The lab, Airflow and the ledger as scenarios find them, and bringing them back to order between two scenarios."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import cached_property
from typing import Final

import psutil

from lab import addresses, application_hosts, checker, estate, faults, inventory, paths, postgres
from lab.addresses import MAILBOX_HTTP_PORT
from lab.airflow.client import FINISHED_RUN, AirflowRefusedError
from lab.airflow.stack import LocalAirflow
from lab.chaos.drill import Drill
from lab.chaos.records import Records
from lab.chaos.run import MissedStateError, Run
from lab.chaos.scenario import BACKUP, DEPLOY, RESTORE_DATABASE, RESTORE_POINT, ROLLBACK, STANDARD, SWITCH, VERIFY
from lab.checker import Verdict
from lab.hosts import ENVIRONMENTS
from lab.load import calm
from lab.load.capacity import capacity_for
from lab.load.generator import LoadGenerator
from lab.mailbox.client import Mailbox
from lab.waiting import Patience, until

ENVIRONMENT: Final = "production"
LOAD_BALANCERS: Final = ("lb1", "lb2")
APPLICATION_HOSTS: Final = ("app1", "app2")
STOP: Final = f"stop_idle_color.{ENVIRONMENT}"
STAGING: Final = "deploy_blue_green.staging"
# Switched off but for the scenarios that need them: a backup sets its verification off, which holds the next one back.
SCHEDULED: Final = (BACKUP, VERIFY)
ENDED: Final = (DEPLOY, STANDARD, ROLLBACK, SWITCH, RESTORE_DATABASE, RESTORE_POINT, *SCHEDULED, STAGING, STOP)
BACKUP_LEASE: Final = f"{ENVIRONMENT}.backup"
# Of all loads of a scenario together, where the machine serves twice as much.
MAXIMUM_PER_SECOND: Final = 150
# A scenario has users of its own beside those of every scenario: a third of all requests are theirs.
OWN_SHARE: Final = 1 / 3
# The one that is not live is deployed; only the two whose artifacts are soon there.
GOOD_VERSIONS: Final = ("v1.1.0", "v1.0.0", "v1.2.0")
LEASE_WAIT_SECONDS: Final = 40.0
PARSE_WAIT_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.5


class StageError(Exception):
    """The lab could not be brought to order; the scenarios can't go on."""


class Stage:
    """What all scenarios share.

    Args:
        airflow: The lab's Airflow, up.
        say: Told about progress, a line at a time.
    """

    def __init__(self, airflow: LocalAirflow, say: Callable[[str], None]) -> None:
        self.airflow = airflow
        self.say = say
        self.client = airflow.client("operator")
        self.admin = airflow.client("admin")
        self.approver = airflow.client("approver")
        self.records = Records(paths.LEDGER_FILE)
        self.ended = list(ENDED)
        """The procedures whose runs are ended before something is prepared."""
        self.mailbox = Mailbox(f"http://{addresses.endpoint('mailbox', MAILBOX_HTTP_PORT)}")

    def close(self) -> None:
        """Close the connections."""
        for client in (self.client, self.admin, self.approver):
            client.close()

    def next_version(self, live: Verdict) -> str:
        """The good version to deploy next: not the one that is live."""
        return next(version for version in GOOD_VERSIONS if not str(live.release).startswith(f"{version}-"))

    @cached_property
    def rate(self) -> float:
        """Requests a second of all loads of a scenario together; measured once, with production in order.

        Raises MachineTooSlowError, a LabError, when the estate serves too little here.
        """
        capacity = capacity_for(MAXIMUM_PER_SECOND, self.say)
        self.say(capacity.summary())
        return capacity.rate(MAXIMUM_PER_SECOND)

    @property
    def own_rate(self) -> float:
        """Requests a second of the users that only one scenario has."""
        return self.rate * OWN_SHARE

    def load(self) -> LoadGenerator:
        """Light traffic over both load balancers, fresh and kept connections."""
        balancers = {name: (addresses.address(name), addresses.HTTPS_PORT) for name in LOAD_BALANCERS}
        return LoadGenerator(load_balancers=balancers, ca_file=paths.CA_FILE, rate=self.rate - self.own_rate)

    def prepare(self, *, gated: bool = False) -> Verdict:
        """Mend what is broken, end what runs, and put a good release live on one color. Returns what is live.

        Args:
            gated: Whether production demands its gates, staging first, and an approval.

        Raises StageError when that is not possible.
        """
        if faults.active():
            faults.mend()
        self._end_runs()
        for name in (ENVIRONMENT, BACKUP_LEASE):
            self._await_free_lease(name)
        self._forgive_good_releases()
        postgres.settle_pair()
        self.demand_gates(gated)
        verdict = checker.check(ENVIRONMENT)
        if verdict.problems or not self._is_good(verdict):
            self.say(f"resetting {ENVIRONMENT}: {'; '.join(verdict.problems) or f'{verdict.release} is live'}")
            estate.reset((ENVIRONMENT,), self.say)
            verdict = checker.check(ENVIRONMENT)
        if verdict.problems:
            raise StageError(f"{ENVIRONMENT} is not in order after a reset: {'; '.join(verdict.problems)}")
        # What failed in the scenario before is in the alerts' windows for a while.
        calm.await_no_alerts()
        return verdict

    def demand_gates(self, on: bool) -> None:
        """Let production demand its gates, or nothing; returns when Airflow has read the DAG that follows from it."""
        if paths.GATES_FILE.exists() is on:
            return
        self.say(f"production demands {'its gates' if on else 'nothing'} from now on")
        inventory.set_gates(on)
        self.parse_until(lambda: ("approve" in self.client.task_ids(DEPLOY)) is on, f"gates are {on}")

    def parse_until(self, is_read: Callable[[], bool], what: str) -> None:
        """Have Airflow read the deployment's DAG again, now. Raises StageError when it is not as awaited soon."""
        self.admin.parse_again(DEPLOY)
        until(
            is_read,
            f"Airflow has read {DEPLOY} anew: {what}",
            PARSE_WAIT_SECONDS,
            poll_seconds=POLL_SECONDS,
            error=StageError,
        )

    def _is_good(self, verdict: Verdict) -> bool:
        return any(str(verdict.release).startswith(f"{version}-") for version in GOOD_VERSIONS)

    def _end_runs(self) -> None:
        """End runs that a failed scenario has left, so that the next one is not refused because of them."""
        self._wake_paused_processes()
        for dag_id in self.ended:
            for row in self.client.dag_runs(dag_id, limit=50):
                if row["state"] in FINISHED_RUN:
                    continue
                if _starts_later(row):
                    # It would come due in the middle of a scenario.
                    self._take_off(row["dag_run_id"])
                    continue
                self.say(f"ending {dag_id} {row['dag_run_id']}, which is {row['state']}")
                # The last task of a run whose schedule is off never begins.
                self.admin.set_paused(dag_id, False)
                run = Run(self.client, self.airflow.supervision, self.records, dag_id, row["dag_run_id"])
                # A stop that is under way is soon over; one that waits for the lease comes back after minutes.
                if dag_id != STOP or run.tasks()["acquire_lease"].state == "up_for_retry":
                    run.mark_failed()
                try:
                    run.until_ended(120)
                except MissedStateError as error:
                    raise StageError(f"{run} does not end: {error}") from error
        for dag_id in SCHEDULED:
            self.admin.set_paused(dag_id, True)

    def switch_on(self, dag_id: str) -> None:
        """Switch a schedule on, until the next scenario; one that never ran begins at once, and is awaited."""
        never_ran = not self.client.dag_runs(dag_id)
        self.admin.set_paused(dag_id, False)
        if never_ran:
            self._await_runs(lambda: bool(self.client.dag_runs(dag_id)), f"the schedule of {dag_id} begins", 60)
        self._await_runs(
            lambda: all(row["state"] in FINISHED_RUN for row in self.client.dag_runs(dag_id)),
            f"what {dag_id} has begun by itself ends",
            300,
        )

    def _await_runs(self, condition: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        until(condition, what, timeout_seconds, poll_seconds=POLL_SECONDS, error=StageError)

    def _wake_paused_processes(self) -> None:
        for process in self.airflow.supervision.descendants():
            try:
                if process.status() == psutil.STATUS_STOPPED:
                    os.kill(process.pid, signal.SIGCONT)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue

    def _forgive_good_releases(self) -> None:
        """A rollback of the scenario before has marked what it left bad; it was good all the same."""
        from sebenza_ops.ledger import Holder, Ledger

        releases = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}").releases
        for version in GOOD_VERSIONS:
            release = releases.by_version(version)
            if release is not None:
                releases.forgive(
                    ENVIRONMENT, release.release_id, "the fault test is over", Holder("chaos", "1", "chaos")
                )

    def _await_free_lease(self, name: str) -> None:
        patience = Patience(f"the lease of {name} is free", LEASE_WAIT_SECONDS)
        while (lease := self.records.open_lease(name)) is not None:
            if patience.is_over():
                # As an admin would hand it back: by the ledger alone, without the procedures.
                from sebenza_ops.ledger import Ledger

                ledger = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")
                ledger.leases.release(name, lease.token, "left by a fault test", "chaos")
            time.sleep(0.2)

    def tidy(self, drill: Drill) -> None:
        """Undo what a scenario has broken, and take the stops of idle colors that it has scheduled off again."""
        drill.stack.close()
        for run in drill.runs:
            for number in range(4):
                if not self._take_off(f"after__{run.run_id}__{number}"):
                    break

    def _take_off(self, stop: str) -> bool:
        """Remove a stop that waits for its time; says whether there was one."""
        try:
            self.admin.request("DELETE", f"/dags/{STOP}/dagRuns/{stop}")
        except AirflowRefusedError:
            return False
        return True

    def remove_release(self, host: str, version: str) -> None:
        """Remove a release that is not live from a host, so that a deployment must install it."""
        import shutil

        for directory in (paths.host_files(host) / "srv/sebenza/releases").glob(f"{version}-*"):
            shutil.rmtree(directory)

    def colors(self) -> dict[str, str | None]:
        """The color that each load balancer sends to now, in its running map."""
        return {name: application_hosts.live_color(name) for name in ENVIRONMENTS[ENVIRONMENT].load_balancers}


def _starts_later(row: dict[str, object]) -> bool:
    """Whether a run only waits for its time, as the stop of a color that is kept warm."""
    from datetime import UTC, datetime

    run_after = row.get("run_after")
    return row["state"] == "queued" and bool(run_after) and datetime.fromisoformat(str(run_after)) > datetime.now(UTC)
