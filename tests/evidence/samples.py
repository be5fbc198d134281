"""Evidence as runs leave it: a deployment that succeeded, one that rolled back, one in progress."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

from sebenza_ops.evidence.facts import (
    CounterSnapshot,
    Fact,
    FiguresFact,
    GateFact,
    JudgementFact,
    LatencySample,
    Mark,
    OutcomeFact,
    PlanFact,
    PlannedStep,
    ProofFact,
    RunEvidence,
    TimelineEntry,
    TrafficSample,
)
from sebenza_ops.evidence.summary import RunHeader

DAG_ID = "deploy_blue_green.production"
RUN_ID = "manual__2026-11-23T08:57:30.412345+00:00"
START = datetime(2026, 11, 23, 8, 57, 31, tzinfo=UTC)
SWITCH_SECONDS = 62
LOAD_BALANCERS = ("lb1", "lb2")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def header(finished_after_seconds: float | None, rendered_after_seconds: float = 0, **fields: object) -> RunHeader:
    finished = None if finished_after_seconds is None else at(finished_after_seconds)
    values: dict[str, object] = {
        "dag_id": DAG_ID,
        "run_id": RUN_ID,
        "environment": "production",
        "procedure": "Blue-green deployment",
        "requested_by": "thandi",
        "approved_by": "sipho",
        "started_at": START,
        "finished_at": finished,
        "run_state": "running" if finished is None else "success",
        "rendered_at": finished or at(rendered_after_seconds),
    }
    return RunHeader.model_validate(values | fields)


def _plan() -> PlanFact:
    steps = []
    for host in ("app1", "app2"):
        steps += [
            PlannedStep(host=host, action="fetch and verify v1.1.0-9f31c02ab7de into the idle color green"),
            PlannedStep(host=host, action="start sebenza-green with 2 processes on port 3002"),
        ]
    steps += [PlannedStep(host=host, action="map active: bk_blue → bk_green") for host in LOAD_BALANCERS]
    return PlanFact(
        environment="production",
        release_id="v1.1.0-9f31c02ab7de",
        version="v1.1.0",
        sha="9f31c02ab7de4b1d0e3f5a6b7c8d9e0f1a2b3c4d",
        from_color="blue",
        to_color="green",
        from_release="v1.0.0-0a1b2c3d4e5f",
        steps=tuple(steps),
        warnings=("app2 has 11% of its disk free (policy: 10%)",),
    )


def _entry(
    seconds: float, text: str, level: str = "info", host: str | None = None, mark: Mark | None = None
) -> TimelineEntry:
    return TimelineEntry.model_validate({"at": at(seconds), "text": text, "level": level, "host": host, "mark": mark})


def _until_switch() -> list[TimelineEntry]:
    return [
        _entry(0.4, "Lease on production acquired, fencing token 41"),
        _entry(2.1, "Both load balancers, both markers and the running processes agree: blue is live with v1.0.0"),
        _entry(3.0, "Planned: v1.1.0 to the idle color green on 2 hosts"),
        _entry(21.7, "Release fetched, SHA-256 verified", host="app1"),
        _entry(22.9, "Release fetched, SHA-256 verified", host="app2"),
        _entry(41.0, "First health check failed: connection refused. Trying again", "warning", "app2"),
        _entry(44.8, "Healthy from both load balancers, release v1.1.0 asserted", "success"),
        _entry(SWITCH_SECONDS, "Traffic switched to green on lb1 and lb2 in 0.04 s", mark="switch"),
        _entry(SWITCH_SECONDS + 3.2, "Proof passed on both load balancers", "success"),
        _entry(SWITCH_SECONDS + 3.4, "Bake of 300 s begins", mark="bake"),
    ]


def _traffic(
    until: int, back_at: int | None = None, error_ratio: float = 0.0, start: int = 40
) -> list[TrafficSample | LatencySample]:
    chance = random.Random(7)
    samples: list[TrafficSample | LatencySample] = []
    for second in range(start, until):
        live = "blue" if second <= SWITCH_SECONDS or (back_at is not None and second > back_at) else "green"
        for number, load_balancer in enumerate(LOAD_BALANCERS):
            moment = START.timestamp() + second + 0.31 * number + chance.uniform(0, 0.05)
            requests = round(48 + 9 * math.sin(second / 17) + chance.uniform(-4, 4))
            for color in ("blue", "green"):
                busy = color == live
                bad = round(requests * error_ratio) if busy and color == "green" and second > SWITCH_SECONDS + 5 else 0
                samples.append(
                    TrafficSample(
                        at=moment,
                        load_balancer=load_balancer,
                        color=color,
                        requests=requests if busy else 0,
                        errors=bad,
                    )
                )
        p95 = None if second == SWITCH_SECONDS + 1 else 0.036 + 0.006 * math.sin(second / 9) + chance.uniform(0, 0.004)
        samples.append(LatencySample(at=START.timestamp() + second, color=live, p95_seconds=p95))
    return samples


def _counters(label: str, seconds: float, blue: int, green: int, errors: int = 0) -> list[CounterSnapshot]:
    return [
        CounterSnapshot(
            at=at(seconds),
            label=label,
            load_balancer=load_balancer,
            backend=f"bk_{color}",
            color=color,
            requests_total=total + 37 * number,
            responses_5xx=errors if color == "green" else 0,
            sessions_current=3 if total > 100 else 0,
        )
        for number, load_balancer in enumerate(LOAD_BALANCERS)
        for color, total in (("blue", blue), ("green", green))
    ]


def _proofs(color: str, step: str, seconds: float) -> list[ProofFact]:
    proofs = []
    for load_balancer in LOAD_BALANCERS:
        requests = {"fresh": 20, "keep_alive": 20, "matched": 40}
        deltas = {"old_delta": 0, "new_delta": 184}
        common = {"load_balancer": load_balancer, "passed": True, "expected_color": color, "step": step}
        proofs.append(ProofFact(source="requests", detail=requests, at=at(seconds), **common))
        proofs.append(ProofFact(source="load_balancer_counters", detail=deltas, at=at(seconds), **common))
    return proofs


def collect(facts: list[Fact]) -> RunEvidence:
    def of(kind: str) -> list[Fact]:
        return [fact for fact in facts if fact.kind == kind]

    return RunEvidence.model_validate(
        {
            "dag_id": DAG_ID,
            "run_id": RUN_ID,
            "timeline": of("timeline"),
            "plans": of("plan"),
            "counters": of("counters"),
            "proofs": of("proof"),
            "traffic": of("traffic"),
            "latency": of("latency"),
            "judgements": of("judgement"),
            "figures": of("figures"),
            "gates": of("gate"),
            "outcomes": of("outcome"),
        }
    )


def gate(link: str) -> GateFact:
    return GateFact(name="Approval", verdict="pass", detail="approved", link=link)


def _gates() -> list[GateFact]:
    return [
        GateFact(name="Release attested", verdict="pass", detail="built from 9f31c02ab7de, SHA-256 agrees"),
        GateFact(name="Approval", verdict="pass", detail="sipho approved 9f31c02ab7de", link="https://ci.example/4711"),
        GateFact(name="Staging first", verdict="waived", detail="hotfix, ticket OPS-212"),
    ]


def figures(moment: str, color: str, answers: int, errors: int, **fields: object) -> FiguresFact:
    values: dict[str, object] = {
        "at": at(SWITCH_SECONDS),
        "moment": moment,
        "color": color,
        "release_id": "v1.0.0-0a1b2c3d4e5f" if color == "blue" else "v1.1.0-9f31c02ab7de",
        "watched_seconds": 10.4 if moment == "before" else 300,
        "judgements": 1 if moment == "before" else 300,
        "answers": answers,
        "errors": errors,
        "p95_seconds": 0.038,
        "verdict": "pass",
        "reason": "0.00% errors, p95 38 ms, healthy, no critical alert",
    }
    return FiguresFact.model_validate(values | fields)


def succeeded_facts() -> list[Fact]:
    judgements = [
        JudgementFact(at=at(SWITCH_SECONDS + 4 + second), verdict="no_data" if second == 0 else "pass", reason=reason)
        for second in range(300)
        for reason in ["no request yet" if second == 0 else "0.00% errors, p95 38 ms, healthy, no critical alert"]
    ]
    end = SWITCH_SECONDS + 304
    return [
        _plan(),
        *_gates(),
        *_until_switch(),
        *_counters("before", 45, 1_204_811, 12),
        *_traffic(end),
        *_proofs("green", "switch", SWITCH_SECONDS + 3),
        *judgements,
        figures("before", "blue", 980, 0),
        figures("after", "green", 29_400, 3),
        _entry(end, "Bake passed: 300 s without a rollback trigger", "success"),
        _entry(end + 0.2, "Draining blue", mark="drain"),
        _entry(end + 1.9, "No session left on blue", "success"),
        *_counters("after", end + 2, 1_206_016, 14_903),
        OutcomeFact(
            outcome="succeeded",
            summary="v1.1.0 is live on green on both load balancers, with no failed request; blue stays warm",
            live_color="green",
            live_release="v1.1.0-9f31c02ab7de",
            at=at(end + 3),
        ),
    ]


def rolled_back_facts() -> list[Fact]:
    back = SWITCH_SECONDS + 10
    judging = range(4, 9)
    return [
        _plan(),
        *_gates(),
        *_until_switch(),
        *_counters("before", 45, 1_204_811, 12),
        *_traffic(back + 40, back_at=back, error_ratio=0.08),
        *_proofs("green", "switch", SWITCH_SECONDS + 3),
        *[JudgementFact(at=at(SWITCH_SECONDS + second), verdict="pass", reason="0.00% errors") for second in judging],
        JudgementFact(
            at=at(back),
            verdict="fail",
            trigger="error_ratio",
            reason="8.1% of 372 requests failed on green, limit 5.0%",
        ),
        figures("before", "blue", 980, 0),
        figures(
            "after",
            "green",
            372,
            30,
            watched_seconds=6.7,
            judgements=6,
            verdict="fail",
            reason="8.1% of 372 requests failed",
            exceeded=("error_ratio",),
        ),
        _entry(back, "Rollback trigger: 8.1% of 372 requests failed on green, limit 5.0%", "error"),
        _entry(back + 0.1, "Traffic switched back to blue on lb1 and lb2 in 0.05 s", "warning", mark="switch_back"),
        *_proofs("blue", "switch back", back + 2),
        *_counters("after", back + 30, 1_207_500, 1_031, errors=31),
        OutcomeFact(
            outcome="rolled_back",
            summary="v1.1.0 failed its bake with 8.1% errors and was taken out of traffic after 10 s",
            live_color="blue",
            live_release="v1.0.0-0a1b2c3d4e5f",
            failed_task="switch_prove_and_bake",
            error="RollbackTriggered: error_ratio 8.1% over 5.0% on green (lb1 8.0%, lb2 8.2%).\n"
            "v1.1.0-9f31c02ab7de is marked bad; deploy it again only with force and a reason.",
            at=at(back + 31),
        ),
    ]


def in_progress_facts() -> list[Fact]:
    return [
        _plan(),
        *_gates(),
        *_until_switch(),
        *_counters("before", 45, 1_204_811, 12),
        *_traffic(SWITCH_SECONDS + 30),
    ]
