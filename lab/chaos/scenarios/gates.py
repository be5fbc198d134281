"""The way in: approvals that do not come, attestations that do not count, staging and migrations that fail."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lab import attest, postgres
from lab.airflow.client import AirflowClient, AirflowRefusedError
from lab.chaos.inventory_file import changed_policy
from lab.chaos.scenario import DEPLOY, Live, Scenario
from lab.chaos.stage import ENVIRONMENT
from lab.hosts import ENVIRONMENTS
from lab.releases import resolve
from lab.secrets import lab_secrets
from sebenza_ops.deployment.attestation import sign

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.chaos.drill import Drill
    from lab.chaos.run import Run

APPROVE, WAIVE = "approve", "waive_gates"
_TIMEOUT_SECONDS: Final = 30
# What it adds to the application's schema is not there yet, unless it was deployed before: then it is taken away.
_MIGRATING: Final = "v1.4.1"
_HALF: Final = 99


def _asked(drill: Drill, run: Run, task_id: str = APPROVE) -> str:
    """Wait until the run asks; what it shows."""
    run.until_done(task_id, "awaiting_input")
    return str(drill.stage.client.hitl_details(DEPLOY, run.run_id, task_id)["body"])


def _deploy_attested(drill: Drill) -> Run:
    version = drill.stage.next_version(drill.before)
    attest.attest(version)
    return drill.deploy(version)


def _nothing_touched(drill: Drill, run: Run) -> None:
    states = {name: task.state for name, task in run.tasks().items()}
    for task_id in ("acquire_lease", "deploy_to_idle_color"):
        drill.expect(states.get(task_id) in (None, "upstream_failed", "skipped"), f"{task_id} is {states.get(task_id)}")
    drill.expect(not run.phase(), f"traffic was touched: phase {run.phase()!r}")
    drill.expect(drill.stage.records.open_lease(ENVIRONMENT) is None, "the lease is still held")


def _times_out(drill: Drill) -> None:
    drill.stack.enter_context(_short_approval(drill))
    run = _deploy_attested(drill)
    _asked(drill, run)
    drill.ends(run, "failed")
    drill.expect("nobody has answered" in run.errors(), f"it is not said why: {run.errors()}")
    _nothing_touched(drill, run)


@contextmanager
def _short_approval(drill: Drill) -> Iterator[None]:
    """People have half a minute. It is in the DAG itself, which Airflow must read anew, before and after."""

    def timeout() -> object:
        return drill.stage.client.dag_details(DEPLOY)["dag_run_timeout"]

    before = timeout()
    with changed_policy(ENVIRONMENT, "approvals", timeout_seconds=_TIMEOUT_SECONDS):
        drill.stage.parse_until(lambda: timeout() != before, "the approval's time-out is short")
        yield
    drill.stage.parse_until(lambda: timeout() == before, "the approval's time-out is as before")


def _answered_twice(drill: Drill) -> None:
    """Two people answer in the same moment, one yes and the other no; and one of them once more, later."""
    run = _deploy_attested(drill)
    _asked(drill, run)
    stage = drill.stage
    with ThreadPoolExecutor(2) as pool:
        answers = {
            answer: pool.submit(_answer, client, run, answer)
            for client, answer in ((stage.approver, "Approve"), (stage.admin, "Reject"))
        }
    taken = [answer for answer, sent in answers.items() if sent.result()]
    drill.note(f"taken: {' and '.join(taken) or 'none'}")
    drill.expect(len(taken) == 1, f"not exactly one of two answers was taken: {taken}")
    drill.ends(run, "success" if taken == ["Approve"] else "failed")
    drill.expect(not _answer(stage.approver, run, "Approve"), "an answer to a decided question was taken")
    if taken != ["Approve"]:
        _nothing_touched(drill, run)


def _answer(client: AirflowClient, run: Run, answer: str) -> bool:
    try:
        client.answer(DEPLOY, run.run_id, APPROVE, [answer])
    except AirflowRefusedError:
        return False
    return True


def _attested(document: Callable[[str], bytes], words: str) -> Callable[[Drill], None]:
    """A deployment of a commit whose attestation is this; a person sees why it does not count, and says no."""

    def play(drill: Drill) -> None:
        version = drill.stage.next_version(drill.before)
        sha = resolve(version)
        attest.put(sha, document(sha))
        drill.stack.callback(attest.attest, version)
        run = drill.deploy(version)
        shown = _asked(drill, run, WAIVE)
        drill.expect(words in shown, f"the question does not say {words!r}: {shown}")
        drill.expect(run.tasks()["deploy_first"].state is None, "staging came before the gates")
        drill.stage.approver.answer(DEPLOY, run.run_id, WAIVE, ["Reject"])
        drill.ends(run, "failed")
        drill.expect(run.outcome()[0] == "rejected", f"it is not shown as rejected: {run.outcome()}")
        _nothing_touched(drill, run)

    return play


def _of_another_commit(sha: str) -> bytes:
    other = next(each for each in map(resolve, ("v1.0.0", "v1.1.0")) if each != sha)
    return sign(attest.attestation_of(other), lab_secrets().attestation_key)


def _tampered(sha: str) -> bytes:
    """What a pipeline has signed, with another verdict in it."""
    import base64
    import json

    envelope = json.loads(sign(attest.attestation_of(sha), lab_secrets().attestation_key))
    payload = base64.b64decode(envelope["payload"]).replace(b"naledi", b"sipho ")
    return json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}).encode()


def _expired(sha: str) -> bytes:
    over = datetime.now(UTC) - timedelta(minutes=5)
    attestation = attest.attestation_of(sha, issued_at=over - timedelta(hours=1), expires_at=over)
    return sign(attestation, lab_secrets().attestation_key)


def _staging_fails(drill: Drill) -> None:
    """Operators have added a journey that the release does not serve."""
    tests = [{"name": "shipments are listed", "path": "/api/v1/shipments"}]
    drill.stack.enter_context(changed_policy("staging", "deployment", smoke_tests=tests))
    run = _deploy_attested(drill)
    drill.ends(run, "failed")
    drill.expect("shipments are listed" in run.errors(), f"the smoke test is not named: {run.errors()}")
    drill.expect(APPROVE not in _begun(run), "people were asked about a release that had failed in staging")
    _nothing_touched(drill, run)


def _begun(run: Run) -> set[str]:
    return {name for name, task in run.tasks().items() if task.state not in (None, "upstream_failed", "skipped")}


def _no_lock(drill: Drill) -> None:
    """A session that goes on holds what the migration needs. It is in nobody's way but the migration's."""
    drill.stack.enter_context(
        changed_policy(
            ENVIRONMENT, "migrations", lock_timeout_milliseconds=500, lock_attempts=2, attempt_pause_seconds=1
        )
    )
    with _database() as cursor:
        cursor.execute("DROP INDEX IF EXISTS projects_status")
        cursor.execute("DELETE FROM schema_migrations WHERE number = 6")
    session = drill.stack.enter_context(_database())
    session.execute("BEGIN")
    session.execute("LOCK TABLE projects IN SHARE UPDATE EXCLUSIVE MODE")
    session.execute("SELECT pg_backend_pid()")
    [pid] = session.fetchone()
    run = drill.deploy(_MIGRATING)
    drill.ends(run, "failed")
    for words in ("no lock in 2 attempts", f"pid {pid}"):
        drill.expect(words in run.errors(), f"it does not say {words!r}: {run.errors()}")
    drill.expect(not run.phase(), "traffic was touched")


def _half_applied(drill: Drill) -> None:
    with _database() as cursor:
        columns = "(number, name, phase, checksum, started_at)"
        cursor.execute(f"INSERT INTO schema_migrations {columns} VALUES ({_HALF}, 'x', 'expand', 'c', now())")

    def settle() -> None:
        with _database() as cursor:
            cursor.execute(f"DELETE FROM schema_migrations WHERE number = {_HALF}")

    drill.stack.callback(settle)
    run = drill.deploy()
    drill.ends(run, "failed")
    drill.expect(f"migrate.js resolve {_HALF}" in run.errors(), f"it is not said what to do: {run.errors()}")
    drill.expect(not run.phase(), "traffic was touched")


def _contradicts_data(drill: Drill) -> None:
    run = drill.deploy("v1.3.5-bad-migration")
    drill.ends(run, "failed")
    drill.expect("invoices_minimum" in run.errors(), f"the migration's own error is missing: {run.errors()}")
    drill.expect(not run.phase(), "traffic was touched")


def _database() -> AbstractContextManager[Any]:
    return postgres.connect(postgres.primary_of_production(), ENVIRONMENTS[ENVIRONMENT].database_name)


_NOT_COUNTED: Final = "the gates have no data; people see why, staging and production are untouched"

SCENARIOS: Final = (
    Scenario(
        name="approval-times-out",
        fault="nobody answers the question whether to deploy",
        expects="the run ends as failed, with the reason; production was not touched",
        play=_times_out,
        live=Live.OLD,
        gated=True,
    ),
    Scenario(
        name="approval-answered-twice",
        fault="two people answer in the same moment, one approves and the other rejects; one answers again later",
        expects="exactly one answer is taken, and the run does as it says",
        play=_answered_twice,
        live=Live.EITHER,
        gated=True,
    ),
    *(
        Scenario(
            name=f"attestation-{name}",
            fault=fault,
            expects=_NOT_COUNTED,
            play=_attested(document, words),
            live=Live.OLD,
            gated=True,
        )
        for name, fault, document, words in (
            ("of-another-commit", "the attestation is of another commit", _of_another_commit, "about commit"),
            ("tampered", "the attestation was changed after it had been signed", _tampered, "not of our key"),
            ("expired", "the attestation has expired", _expired, "run the pipeline again"),
        )
    ),
    Scenario(
        name="staging-smoke-test-fails",
        fault="the release does not serve a user's journey in staging",
        expects="nobody is asked, the failed test is named, production was not touched",
        play=_staging_fails,
        live=Live.OLD,
        gated=True,
    ),
    Scenario(
        name="migration-gets-no-lock",
        fault="a session holds the lock that the release's expand migration needs",
        expects="it is tried a few times, the session is named, nothing is switched, the run fails",
        play=_no_lock,
        live=Live.OLD,
    ),
    Scenario(
        name="migration-half-applied",
        fault="the database has a migration that was begun and not finished",
        expects="it is reported with what to do, nothing is switched, the run fails",
        play=_half_applied,
        live=Live.OLD,
    ),
    Scenario(
        name="migration-contradicts-the-data",
        fault="the release's expand migration does not suit the running release's data",
        expects="it is rolled back by the database and told in its own words, nothing is switched, the run fails",
        play=_contradicts_data,
        live=Live.OLD,
    ),
)
