"""Whether a scenario ended safely: by the checker, the users' requests, and the messages that people got."""

from __future__ import annotations

import time
from typing import Final

from lab import checker
from lab.chaos.drill import Drill
from lab.chaos.run import REFUSALS, Run
from lab.chaos.scenario import NO_EXCUSE, Live
from lab.chaos.stage import ENVIRONMENT
from lab.checker import Verdict
from lab.load.report import LoadReport
from lab.mailbox.store import Channel
from lab.waiting import Patience

SPLIT: Final = "SPLIT TRAFFIC"
# Airflow runs a run's callbacks about five seconds after its end, in a child of the DAG processor.
MESSAGES_TIMEOUT_SECONDS: Final = 40.0
SHOWN: Final = 3
CHANNELS: Final[tuple[Channel, ...]] = ("slack", "pagerduty")


def judge(drill: Drill, report: LoadReport | None) -> None:
    """Add to the drill's problems whatever does not hold."""
    verdict = checker.check(ENVIRONMENT)
    declared = drill.scenario.may_split and any(SPLIT in run.errors() for run in drill.runs)
    _judge_traffic(drill, verdict, declared)
    if report is not None:
        _judge_requests(drill, report)
    for run in drill.runs:
        _judge_messages(drill, run)
    if declared:
        _judge_declaration(drill)


def _judge_traffic(drill: Drill, verdict: Verdict, declared: bool) -> None:
    scenario = drill.scenario
    if declared:
        drill.note(f"split declared; load balancers send to {verdict.live_color_by_lb}")
        return
    findings = [text for text in verdict.problems if not any(part in text for part, _ in scenario.tolerates)]
    drill.problems += [f"checker: {text}" for text in findings]
    drill.expect(
        verdict.exactly_one_live or scenario.tolerates,
        f"not exactly one color is live: {verdict.live_color_by_lb}, answers {verdict.answers}",
    )
    awaited = {Live.OLD: {drill.old_color}, Live.NEW: {drill.new_color}}.get(scenario.live, {"blue", "green"})
    colors = {color for color in verdict.live_color_by_lb.values() if color is not None}
    drill.expect(colors <= awaited and colors, f"{scenario.live.value}: expected {awaited}, found {colors}")
    drill.note(f"{verdict.release} live on {verdict.live_color}")
    if verdict.live_color == drill.new_color and drill.run.state == "success" and not drill.has_passed:
        phase = drill.run.phase()
        drill.expect(phase == "baked", f"the run succeeded, but its bake did not pass: phase {phase!r}")


def _judge_requests(drill: Drill, report: LoadReport) -> None:
    excuse = drill.scenario.excuse
    unexplained = [request for request in report.failed_requests if not excuse.explains(request, drill)]
    shown = "; ".join(
        f"{request.outcome} on {request.load_balancer} from {request.color or 'nobody'} ({request.error})"
        for request in unexplained[:SHOWN]
    )
    drill.expect(not unexplained, f"{len(unexplained)} failed requests that the fault does not explain: {shown}")
    explained = report.failed - len(unexplained)
    drill.note(
        f"{report.requests} requests, {report.failed} failed" + (f" ({explained} by the fault)" if explained else "")
    )
    switched_at = drill.run.progress().get("switched_at")
    if excuse is NO_EXCUSE and drill.scenario.live is Live.NEW and switched_at and len(drill.runs) == 1:
        astray = report.requests_to(drill.old_color, since=float(switched_at))
        drill.expect(not astray, f"{astray} requests went to {drill.old_color} after the switch")


def _judge_messages(drill: Drill, run: Run) -> None:
    """Exactly one message on each channel for every failure of a run, and none for a success."""
    # Nobody is woken up by a run that was refused before it touched anything.
    lease = run.tasks().get("acquire_lease")
    refused = run.outcome()[0] in ("", *REFUSALS) or (lease is not None and lease.state == "failed")
    # One that was cleared afterwards may have ended otherwise.
    paged = 0 if refused else run.failures - run.refusals
    awaited: dict[Channel, int] = {"slack": run.failures, "pagerduty": paged}
    patience = Patience(f"people are told of {run}", MESSAGES_TIMEOUT_SECONDS)
    while any(len(failure_messages(drill, run, channel)) < count for channel, count in awaited.items()):
        if patience.is_over():
            break
        time.sleep(0.3)
    for channel, count in awaited.items():
        got = failure_messages(drill, run, channel)
        drill.expect(
            len(got) == count or (channel == "pagerduty" and paged < run.failures and len(got) <= run.failures),
            f"{channel}: {len(got)} messages about {count} failures of the run ({got[:SHOWN]})",
        )


def failure_messages(drill: Drill, run: Run, channel: Channel) -> list[str]:
    """What arrived on a channel about failures of a run; another run's message may name it as the lease's holder."""
    found = []
    for message in drill.stage.mailbox.messages(channel):
        text = str(message.get("text", ""))
        if channel == "pagerduty":
            about = message["dedup_key"] == run.dedup_key and message["payload"].get("event_action") == "trigger"
        else:
            about = f"Run: {run.dag_id} {run.run_id}" in text
        if about and not any(
            word in text.partition("\n")[0]
            for word in ("is coming", "holds traffic", "waits for an answer", "succeeded", " warns: ")
        ):
            found.append(text[:160])
    return found


def _judge_declaration(drill: Drill) -> None:
    """A split must reach people, not only a log."""
    for channel in CHANNELS:
        told = [
            m for m in drill.stage.mailbox.messages(channel) if SPLIT in f"{m.get('text', '')} {m.get('payload', '')}"
        ]
        drill.expect(told, f"{channel}: nobody was told of the split in so many words")
