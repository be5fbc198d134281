"""The way back: while a deployment runs, to releases that are gone, and killed itself; CI's script that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

from lab import application_hosts, attest, paths
from lab.chaos.drill import Drill
from lab.chaos.moments import BAKING, BETWEEN
from lab.chaos.run import MissedStateError, Run
from lab.chaos.scenario import DEPLOY, ROLLBACK, Live, Scenario
from lab.chaos.stage import APPLICATION_HOSTS, ENVIRONMENT, STOP
from lab.inventory import storage_client
from lab.pipeline import ci_variables
from lab.releases import resolve
from lab.waiting import scaled
from sebenza_ops.deployment.release import artifact_key

_PLAN: Final = "plan_rollback"
_SCRIPT: Final = paths.CHECKOUT / "include/ci/deploy.py"
_SCRIPT_SECONDS: Final = 240


def _between(drill: Drill) -> None:
    deployment = drill.deploy()
    BETWEEN.reach(drill, deployment)
    rollback = drill.roll_back()
    rollback.until_started(_PLAN)
    drill.until(lambda: _holder(drill) == rollback.run_id, "the rollback has the lease", 60)
    # lb2 does what it was told, in whichever order: the later token counts.
    drill.stack.close()
    drill.ends(rollback, "success")
    drill.ends(deployment, "failed")


def _holder(drill: Drill) -> str | None:
    lease = drill.stage.records.open_lease(ENVIRONMENT)
    return lease.run_id if lease is not None else None


def _two_rollbacks(drill: Drill) -> None:
    _deployed(drill)
    runs = [drill.roll_back(), drill.roll_back()]
    states = [run.until_ended() for run in runs]
    drill.note(f"the rollbacks ended as {' and '.join(states)}")
    drill.expect("success" in states, f"no rollback went through: {[run.errors() for run in runs]}")


def _killed_after_the_move(drill: Drill) -> None:
    """All traffic is back, and the task that has moved it dies before it has said so."""
    left = str(_deployed(drill))
    rollback = drill.roll_back()
    processes = rollback.until_started(_PLAN)
    drill.until(lambda: set(drill.stage.colors().values()) == {drill.old_color}, "all traffic is back", 60)
    try:
        processes.kill_task()
    except ProcessLookupError:
        raise MissedStateError(f"{_PLAN} was over before it could be killed") from None
    drill.ends(rollback, "success")
    if rollback.tasks()[_PLAN].try_number < 2:
        raise MissedStateError(f"{_PLAN} was over before it could be killed")
    again = drill.deploy(left, force_reason="")
    drill.ends(again, "failed")
    drill.expect("marked bad" in again.errors(), f"the release that was left is not marked bad: {again.errors()}")


def _deployed(drill: Drill) -> str:
    """A deployment that has gone well; the version that must go."""
    version = drill.stage.next_version(drill.before)
    drill.ends(drill.deploy(version, bake_seconds=5), "success")
    drill.has_passed = True
    return version


def _pruned(drill: Drill) -> None:
    _deployed(drill)
    _stop_old_color(drill)
    _prune(drill)
    drill.ends(drill.roll_back(), "success")
    installed = [application_hosts.release_dir(host, str(drill.before.release)).is_dir() for host in APPLICATION_HOSTS]
    drill.expect(all(installed), "the release was not installed again")


def _nowhere(drill: Drill) -> None:
    """Pruned on the hosts, and deleted from object storage: nobody has it any more."""
    _deployed(drill)
    _stop_old_color(drill)
    _prune(drill)
    client, key = storage_client(), artifact_key(resolve(str(drill.before.release).rpartition("-")[0]))
    body = client.get_object(Bucket=attest.BUCKET, Key=key)["Body"].read()
    drill.stack.callback(client.put_object, Bucket=attest.BUCKET, Key=key, Body=body)
    client.delete_object(Bucket=attest.BUCKET, Key=key)
    rollback = drill.roll_back()
    drill.ends(rollback, "failed")
    drill.expect("artifact" in rollback.errors(), f"it is not said what is missing: {rollback.errors()}")


def _stop_old_color(drill: Drill) -> None:
    run_id = drill.stage.client.trigger(STOP, {"color": drill.old_color})
    state = Run(drill.stage.client, drill.stage.airflow.supervision, drill.stage.records, STOP, run_id).until_ended()
    drill.expect(state == "success", f"{drill.old_color} was not stopped: {state}")


def _prune(drill: Drill) -> None:
    for host in APPLICATION_HOSTS:
        drill.stage.remove_release(host, str(drill.before.release).rpartition("-")[0])


def _mistyped(drill: Drill) -> None:
    deployment = drill.deploy(bake_seconds=15)
    BAKING.reach(drill, deployment)
    rollback = drill.roll_back(to="v7.7.7")
    drill.ends(rollback, "failed")
    drill.expect("v7.7.7" in rollback.errors(), f"the release is not named: {rollback.errors()}")
    drill.ends(deployment, "success")


def _ci_killed(drill: Drill) -> None:
    """The CI system kills its job in the bake, and the job is run again."""
    version = drill.stage.next_version(drill.before)
    pipeline = f"chaos-{time.time_ns()}"
    first = _start_script(version, pipeline)
    drill.stack.callback(_end, first)
    run_id = f"ci__{pipeline}__{resolve(version)[:12]}"
    drill.until(lambda: _is_known(drill, run_id), "CI's script has started its run", 60)
    run = drill.follows(DEPLOY, run_id)
    BAKING.reach(drill, run)
    first.kill()
    first.wait(scaled(10))
    drill.note("CI's script killed in the bake")
    second = _start_script(version, pipeline)
    drill.stack.callback(_end, second)
    output, _ = second.communicate(timeout=scaled(_SCRIPT_SECONDS))
    drill.expect(second.returncode == 0, f"the script that was run again ended with {second.returncode}: {output}")
    drill.expect("it is followed" in output, f"the script does not say that it found its run: {output}")
    runs = [row["dag_run_id"] for row in drill.stage.client.dag_runs(DEPLOY) if pipeline in row["dag_run_id"]]
    drill.expect(runs == [run_id], f"one pipeline has made the runs {runs}")
    drill.ends(run, "success")


def _is_known(drill: Drill, run_id: str) -> bool:
    return any(row["dag_run_id"] == run_id for row in drill.stage.client.dag_runs(DEPLOY))


def _start_script(version: str, pipeline: str) -> subprocess.Popen[str]:
    variables = {
        **ci_variables(),
        "PATH": os.environ["PATH"],
        "SEBENZA_ENVIRONMENT": ENVIRONMENT,
        "SEBENZA_SHA": resolve(version),
        "SEBENZA_VERSION": version,
        "SEBENZA_POLL": "1",
    }
    command = [sys.executable, str(_SCRIPT), "--pipeline-id", pipeline, "--conf", '{"bake_seconds": 20}']
    return subprocess.Popen(
        command, env=variables, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


SCENARIOS: Final = (
    Scenario(
        name="rollback-between-the-load-balancers",
        fault="a rollback is started after a deployment has switched lb1 and before it switches lb2",
        expects="the deployment is fenced off and fails, all load balancers send to the old release",
        play=_between,
        live=Live.OLD,
    ),
    Scenario(
        name="two-rollbacks-at-once",
        fault="two rollbacks are started in the same moment",
        expects="the later one fences the earlier off, or finds nothing to do: none goes further back than the other",
        play=_two_rollbacks,
        live=Live.OLD,
        procedure=ROLLBACK,
    ),
    Scenario(
        name="rollback-killed-after-the-move",
        fault="the rollback's first task is killed when it has moved all traffic, before it ends",
        expects="the next attempt stays with what was chosen, proves it, and marks the release bad that was left",
        play=_killed_after_the_move,
        live=Live.OLD,
        procedure=ROLLBACK,
    ),
    Scenario(
        name="rollback-to-a-pruned-release",
        fault="the release to go back to is stopped, and pruned on every host",
        expects="it is fetched from object storage, installed and started before traffic moves; nothing is stopped",
        play=_pruned,
        live=Live.OLD,
        procedure=ROLLBACK,
    ),
    Scenario(
        name="rollback-to-a-release-that-is-nowhere",
        fault="the release to go back to is pruned on every host, and gone from object storage",
        expects="the rollback fails before traffic moves, and says what is missing",
        play=_nowhere,
        live=Live.NEW,
        procedure=ROLLBACK,
    ),
    Scenario(
        name="rollback-mistyped-in-a-bake",
        fault="a rollback to a release that nobody knows is started in the bake of a deployment",
        expects="it is refused before the deployment is fenced off, which goes on and succeeds",
        play=_mistyped,
        live=Live.NEW,
        procedure=ROLLBACK,
    ),
    Scenario(
        name="ci-script-killed-and-rerun",
        fault="the script for CI is killed in the bake of its deployment, and run again",
        expects="the run goes on, the second script finds it and follows it to its end: one pipeline, one run",
        play=_ci_killed,
        live=Live.NEW,
    ),
)
