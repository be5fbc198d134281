"""``make demo``: a blue-green deployment of the sample application under load, through Airflow's API, with its proof.

Everything printed as proof is measured from outside: by the load generator, which is a client of both load balancers,
and by the checker, which shares no code with the procedure.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import addresses, estate, paths
from lab.airflow.client import AirflowClient
from lab.airflow.follow import QUIET_STATES, conclusion
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.checker import check
from lab.load.capacity import LOAD_BALANCERS, P95_SECONDS, Capacity, capacity_for
from lab.load.generator import LoadGenerator
from lab.load.report import LoadReport
from lab.waiting import LabError, until
from sebenza_ops.ledger import Deployment, Ledger

ENVIRONMENT = "production"
DAG_ID = f"deploy_blue_green.{ENVIRONMENT}"
RESULT = paths.CHECKOUT / "build" / "demo.json"
# Where the machine serves twice as much.
MAXIMUM_PER_SECOND = 400
MINIMUM_REQUESTS = 20_000
BAKE_SECONDS = 20
# Traffic before the deployment. All of it must be answered, and soon: else what fails later is the machine's fault.
LEAD_SECONDS = 5.0
RUN_SECONDS = 1800.0
# The load client reports each second; this is no slow machine but one that stands still.
STANDSTILL_SECONDS = 60.0
VERSIONS = ("v1.1.0", "v1.2.0")


@dataclass(frozen=True)
class DemoResult:
    """What `build/demo.json` holds."""

    outcome: str
    requests: int
    failed: int
    requests_to_old_color_after_switch: int
    switch_seconds: float
    total_seconds: float
    evidence: str
    rate_per_second: float
    capacity_per_second: float


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> int:
    """Run the demo; 0 when no request failed and none went astray."""
    began = time.monotonic()
    try:
        estate.up(lambda line: say(f"lab: {line}"))
        airflow = LocalAirflow(lab_settings(), say=lambda line: say(f"airflow: {line}"))
        airflow.up()
        with airflow.client("operator") as client:
            result, report, record = run_demo(client)
    except LabError as error:
        say(f"demo: {error}")
        return 1
    RESULT.parent.mkdir(exist_ok=True)
    result = DemoResult(**{**asdict(result), "total_seconds": round(time.monotonic() - began, 1)})
    RESULT.write_text(json.dumps(asdict(result), indent=2) + "\n")
    passed = print_proof(result, report, record)
    print_next_steps(airflow)
    return 0 if passed else 1


def run_demo(client: AirflowClient) -> tuple[DemoResult, LoadReport, Deployment]:
    """Deploy under load; returns the figures, the load's report, and the ledger's record of the deployment.

    Raises LabError, with nothing deployed, when production is not in order or the machine is too slow for a load.
    """
    live = check(ENVIRONMENT)
    if not live.exactly_one_live:
        raise LabError(f"{ENVIRONMENT} is not in order: {'; '.join(live.problems)}; `python -m lab mend` mends it")
    running = live.release or ""
    version = next(version for version in VERSIONS if not running.startswith(f"{version}-"))
    capacity = capacity_for(MAXIMUM_PER_SECOND, lambda line: say(f"demo: {line}"))
    rate = capacity.rate(MAXIMUM_PER_SECOND)
    say(f"demo: {capacity.summary()}; {running} is live, deploying {version} under {rate:g} of them")
    balancers = {name: (addresses.address(name), addresses.HTTPS_PORT) for name in LOAD_BALANCERS}
    load = LoadGenerator(load_balancers=balancers, ca_file=paths.CA_FILE, rate=rate)
    with load:
        lead_in(load, rate, capacity)
        conf = {"version": version, "bake_seconds": BAKE_SECONDS, "force_reason": "demo"}
        run_id = client.trigger(DAG_ID, conf)
        say(f"demo: {client.run_url(DAG_ID, run_id)}")
        state = client.await_state(DAG_ID, run_id, timeout_seconds=RUN_SECONDS, on_change=_show_progress(load))
        told = conclusion(client, DAG_ID, run_id)
        if state == "success":
            await_requests(load)
        report = load.stop()
    for line in told:
        say(line)
    record = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}").deployments.get(DAG_ID, run_id)
    switched_at = float(record.progress.get("switched_at") or 0)
    old = str(record.from_color)
    result = DemoResult(
        outcome=str(record.outcome),
        requests=report.requests,
        # What was due and could not be sent has not been served either.
        failed=report.failed + report.shed,
        requests_to_old_color_after_switch=report.requests_to(old, since=switched_at)
        if switched_at
        else report.requests,
        switch_seconds=round(float(record.progress.get("switch_seconds") or 0), 3),
        total_seconds=0.0,
        evidence=str(record.evidence_url),
        rate_per_second=rate,
        capacity_per_second=capacity.per_second,
    )
    return result, report, record


def lead_in(load: LoadGenerator, rate: float, capacity: Capacity) -> None:
    """Send for a moment before anything is deployed. Raises LabError unless every request is answered, and soon."""
    # The time itself is awaited, and then the count of a full second after it.
    ends_at = time.time() + LEAD_SECONDS
    reports = "the load client reports what it has sent; nothing was deployed"
    until(lambda: load.progress().get("at", 0.0) >= ends_at, reports, STANDSTILL_SECONDS)
    so_far = load.progress()
    bad = so_far["failed"] + so_far["shed"]
    if bad or so_far["in_flight"] > max(1.0, rate * P95_SECONDS):
        # What was measured is not true any more.
        paths.CAPACITY_FILE.unlink(missing_ok=True)
        raise LabError(
            f"this machine is too slow, or busy with something else: under {rate:g} requests a second {bad} of "
            f"{so_far['requests']} failed and {so_far['in_flight']} waited before the deployment, though "
            f"{capacity.summary()}. Nothing was deployed; end what else runs here, and try again"
        )


def _show_progress(load: LoadGenerator) -> Callable[[list], None]:  # type: ignore[type-arg]
    def show(changed: list) -> None:  # type: ignore[type-arg]
        so_far = load.progress()
        for task in changed:
            if task.state not in QUIET_STATES:
                say(f"  {task.state:<16} {task.label:<26} {so_far['requests']:>7} requests, {so_far['failed']} failed")

    return show


def await_requests(load: LoadGenerator) -> None:
    """Go on until enough requests were sent, with a line now and then. Raises LabError when they stop."""

    def sent() -> int:
        return int(load.progress()["requests"])

    what = f"{MINIMUM_REQUESTS:,} requests are sent"
    until(lambda: sent() >= MINIMUM_REQUESTS, what, STANDSTILL_SECONDS, progress=sent)


def print_proof(result: DemoResult, report: LoadReport, record: Deployment) -> bool:
    """Print what was measured; returns whether it is what the demo promises."""
    verdict = check(ENVIRONMENT)
    agreed = ", ".join(f"{name} {color}" for name, color in sorted(verdict.live_color_by_lb.items()))
    latency = report.latency()
    failed_by = "; ".join(f"{failure.outcome} on {failure.load_balancer}" for failure in report.failures[:5])
    if report.shed:
        failed_by += f"; {report.shed} could not be sent, since too many were open"
    checks = {
        f"the run succeeded ({record.detail})": result.outcome == "succeeded",
        f"{result.requests} requests across the switch": result.requests >= MINIMUM_REQUESTS,
        f"{result.failed} failed {failed_by}".rstrip(): result.failed == 0,
        f"{result.requests_to_old_color_after_switch} sent to {record.from_color} after the switch": (
            result.requests_to_old_color_after_switch == 0
        ),
        f"one live color, by a checker of its own: {agreed} {'; '.join(verdict.problems)}".rstrip(): (
            verdict.exactly_one_live and set(verdict.live_color_by_lb.values()) == {record.to_color}
        ),
    }
    say("")
    say(f"Proof ({record.from_color} -> {record.to_color}, switched in {result.switch_seconds * 1000:.0f} ms):")
    for text, passed in checks.items():
        say(f"  {'ok  ' if passed else 'FAIL'}  {text}")
    say(f"        response times p50 {latency['p50'] * 1000:.0f} ms, p95 {latency['p95'] * 1000:.0f} ms")
    return all(checks.values())


def print_next_steps(airflow: LocalAirflow) -> None:
    """Say where to look now."""
    url = airflow.settings.url
    say("")
    say(f"Airflow:  {url}  (stays up; `make down` stops everything)")
    for user in airflow.users().values():
        say(f"          {user.username:<10} {user.password:<18} {user.role}")
    say(f"Figures:  {RESULT.relative_to(Path.cwd()) if RESULT.is_relative_to(Path.cwd()) else RESULT}")


if __name__ == "__main__":
    sys.exit(main())
