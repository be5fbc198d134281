"""What a report says, worked out from the facts: pure rules, no HTML and no terminal.

Both renderings (`report.render_report`, `report.render_text`) read from here, so that they can't disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from sebenza_ops.evidence.facts import (
    CounterSnapshot,
    FiguresFact,
    JudgementFact,
    LatencySample,
    OutcomeFact,
    RunEvidence,
    TimelineEntry,
    TrafficSample,
)
from sebenza_ops.evidence.wording import clock, count, duration

Tone = Literal["success", "warning", "error", "info", "running"]

OUTCOME_WORDS: dict[str, tuple[str, Tone]] = {
    "succeeded": ("Succeeded", "success"),
    "failed": ("Failed", "error"),
    "refused": ("Refused", "warning"),
    "rejected": ("Rejected", "warning"),
    "rolled_back": ("Rolled back", "warning"),
    "split": ("Split", "error"),
    "planned": ("Planned, nothing changed", "info"),
}
MAXIMUM_LISTED_GAPS = 5
SERIES_GAP_SECONDS = 3.0
"""Samples are taken about once a second (`judge_interval_seconds`); a hole longer than this is stated in the report."""


class RunHeader(BaseModel):
    """What is known about a run beside its facts.

    Args:
        dag_id: the procedure and its environment.
        run_id: Airflow's id of the run.
        environment: the environment's name.
        procedure: the procedure in words, "Blue-green deployment".
        requested_by: who started the run, None when Airflow doesn't say.
        approved_by: who approved it, when somebody had to.
        started_at: when the run started; None when it has not.
        finished_at: when the run ended; None while it runs.
        run_state: Airflow's state of the run ("running", "success", "failed"), None when unknown.
        run_url: address of the run in Airflow's UI.
        rendered_at: when the report was rendered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dag_id: str
    run_id: str
    environment: str
    procedure: str
    rendered_at: AwareDatetime
    requested_by: str | None = None
    approved_by: str | None = None
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    run_state: str | None = None
    run_url: str | None = None

    @property
    def in_progress(self) -> bool:
        """Whether Airflow is still at it. A run that Airflow knows nothing of is over."""
        return self.finished_at is None and self.run_state in ("queued", "running")


PROCEDURE_NAMES = {
    "backup_application": "Application backup",
    "build_release": "Release build",
    "check_environment": "Environment check",
    "deploy_blue_green": "Blue-green deployment",
    "deploy_standard": "Standard deployment",
    "restore_application": "Restore of an application host",
    "switch_database_primary": "Switch of the database's primary",
    "restore_point_in_time": "Restore to a point in time",
    "restore_database": "Restore of a database",
}


def procedure_name(dag_id: str) -> str:
    """The procedure of a DAG in words: `deploy_blue_green.production` is a "Blue-green deployment"."""
    procedure = dag_id.partition(".")[0]
    return PROCEDURE_NAMES.get(procedure, procedure.replace("_", " ").capitalize())


def environment_name(dag_id: str) -> str:
    """The environment of a DAG: what follows the procedure in its id; empty when the DAG is for none."""
    return dag_id.partition(".")[2]


class Verdict(BaseModel):
    """The headline: a word, a sentence, and how it should look."""

    word: str
    sentence: str
    tone: Tone


class CounterRow(BaseModel):
    """One load balancer's backend, first against last snapshot. A negative difference means the counter was reset."""

    load_balancer: str
    backend: str
    color: str
    first: CounterSnapshot
    last: CounterSnapshot

    @property
    def compared(self) -> bool:
        """Whether there are two moments to compare."""
        return self.first is not self.last

    @property
    def was_reset(self) -> bool:
        """Whether the load balancer started again in between, so that the difference says nothing."""
        return (
            self.last.requests_total < self.first.requests_total or self.last.responses_5xx < self.first.responses_5xx
        )


class JudgementSpan(BaseModel):
    """Judgements of the same kind in a row."""

    first: JudgementFact
    last: JudgementFact
    times: int


def run_start(evidence: RunEvidence, header: RunHeader) -> datetime | None:
    """The moment that relative times count from: the run's start, else the first fact's."""
    if header.started_at is not None:
        return header.started_at
    return min((entry.at for entry in evidence.timeline), default=None)


def verdict(evidence: RunEvidence, header: RunHeader) -> Verdict:
    """The one sentence that answers "what happened?"."""
    outcome = evidence.outcome
    if outcome is not None:
        word, tone = OUTCOME_WORDS[outcome.outcome]
        return Verdict(word=word, sentence=outcome.summary, tone=tone)
    latest = max(evidence.timeline, key=lambda entry: entry.at, default=None)
    if header.in_progress:
        doing = latest.text if latest else "Nothing is recorded yet"
        return Verdict(word="In progress", sentence=doing, tone="running")
    last_words = (
        f"The last thing it recorded, at {clock(latest.at)} UTC: {latest.text}" if latest else "It recorded nothing."
    )
    said = f"Airflow says the run is {header.run_state!r}" if header.run_state else "The run is over"
    return Verdict(
        word="Outcome not recorded",
        sentence=f"{said}, but it ended before it could record its outcome. {last_words}",
        tone="error",
    )


def _release_before(evidence: RunEvidence, outcome: OutcomeFact) -> str | None:
    """What was live when the run looked, of a run that ended before it changed anything."""
    plan = evidence.plan
    is_as_before = outcome.outcome in ("refused", "rejected", "planned")
    if plan is None or not is_as_before or plan.from_color != outcome.live_color:
        return None
    return plan.from_release


def state_now(evidence: RunEvidence, header: RunHeader) -> str:
    """What is live, as the run left it, and how to check when it doesn't say."""
    outcome = evidence.outcome
    if outcome is not None and outcome.state:
        return outcome.state
    if outcome is not None and outcome.live_color:
        known = outcome.live_release or _release_before(evidence, outcome)
        release = f", release {known}" if known else ", release not recorded"
        return f"{outcome.live_color} is live{release}"
    if outcome is None and header.in_progress:
        return _state_so_far(evidence)
    return f"not recorded: run check_environment.{header.environment} to see what the load balancers serve"


def _state_so_far(evidence: RunEvidence) -> str:
    plan, moved = evidence.plan, [entry for entry in marks(evidence) if entry.mark in ("switch", "switch_back")]
    if plan is None:
        return "not known yet, the run has not planned"
    if moved:
        to = plan.to_color if moved[-1].mark == "switch" else plan.from_color
        return f"traffic was moved to {to} at {clock(moved[-1].at)} UTC, and the run is not done"
    before = f"{plan.from_color} is live" if plan.from_color else "no color is live"
    return f"{before}, this run has not moved traffic yet"


def marks(evidence: RunEvidence) -> list[TimelineEntry]:
    """The timeline's entries that the chart marks, in order of time."""
    return sorted((entry for entry in evidence.timeline if entry.mark), key=lambda entry: entry.at)


def counter_rows(counters: Sequence[CounterSnapshot]) -> list[CounterRow]:
    """The first and the last snapshot of each load balancer's backend."""
    groups: dict[tuple[str, str], list[CounterSnapshot]] = {}
    for snapshot in counters:
        groups.setdefault((snapshot.load_balancer, snapshot.backend), []).append(snapshot)
    rows = []
    for (load_balancer, backend), snapshots in sorted(groups.items()):
        ordered = sorted(snapshots, key=lambda snapshot: snapshot.at)
        rows.append(
            CounterRow(
                load_balancer=load_balancer,
                backend=backend,
                color=ordered[-1].color,
                first=ordered[0],
                last=ordered[-1],
            )
        )
    return rows


def judgement_spans(judgements: Iterable[JudgementFact]) -> list[JudgementSpan]:
    """Judgements, those alike in a row folded into one: a bake has hundreds, and the changes are what matters."""
    ordered = sorted(judgements, key=lambda judgement: judgement.at)
    spans = []
    for _, group in groupby(ordered, key=lambda judgement: (judgement.verdict, judgement.trigger)):
        members = list(group)
        spans.append(JudgementSpan(first=members[0], last=members[-1], times=len(members)))
    return spans


def traffic_totals(traffic: Iterable[TrafficSample]) -> tuple[float, float]:
    """Requests and errors (5xx) that the load balancers counted in the whole series."""
    requests = errors = 0.0
    for sample in traffic:
        requests += sample.requests
        errors += sample.errors
    return requests, errors


def before_and_after(evidence: RunEvidence) -> tuple[FiguresFact | None, FiguresFact | None]:
    """The figures from before the change and from after it, the last of each: a cleared run measures again."""
    last = {figures.moment: figures for figures in evidence.figures}
    return last.get("before"), last.get("after")


def worst_p95(latency: Iterable[LatencySample]) -> LatencySample | None:
    """The slowest 95th percentile of the series, None when nothing was measured."""
    measured = [sample for sample in latency if sample.p95_seconds is not None]
    return max(measured, key=lambda sample: (sample.p95_seconds or 0.0, sample.is_lower_bound), default=None)


def missing(evidence: RunEvidence, header: RunHeader) -> list[str]:
    """Everything that the report should know and does not, in sentences."""
    found = [
        f"An entry of kind {entry.kind!r} from {clock(entry.at)} UTC can't be read: {entry.problem}."
        for entry in evidence.unreadable
    ]
    found += _series_gaps(evidence.traffic)
    unmeasured = [sample for sample in evidence.latency if sample.p95_seconds is None]
    if unmeasured:
        found.append(
            f"Response time was not measured in {len(unmeasured)} of {len(evidence.latency)} samples (no data)."
        )
    blind = [judgement for judgement in evidence.judgements if judgement.verdict == "no_data"]
    if blind:
        found.append(f"{len(blind)} of {len(evidence.judgements)} judgements had no data to judge by.")
    found += _one_sided_proofs(evidence)
    lonely = [row for row in counter_rows(evidence.counters) if not row.compared]
    found += [
        f"{row.load_balancer} has counters of {row.backend} from one moment only ({row.first.label})." for row in lonely
    ]
    if header.requested_by is None:
        found.append("Airflow does not say who requested the run.")
    return found


def _series_gaps(traffic: Sequence[TrafficSample]) -> list[str]:
    gaps = []
    by_load_balancer: dict[str, set[float]] = {}
    for sample in traffic:
        by_load_balancer.setdefault(sample.load_balancer, set()).add(sample.at)
    for load_balancer, moments in sorted(by_load_balancer.items()):
        for earlier, later in pairwise(sorted(moments)):
            if later - earlier > SERIES_GAP_SECONDS:
                at = datetime.fromtimestamp(earlier, tz=UTC)
                gaps.append(f"No samples of {load_balancer} for {duration(later - earlier)} after {clock(at)} UTC.")
    if len(gaps) > MAXIMUM_LISTED_GAPS:
        rest = len(gaps) - MAXIMUM_LISTED_GAPS
        gaps = [*gaps[:MAXIMUM_LISTED_GAPS], f"{count(rest)} more holes like these in the traffic series."]
    return gaps


def _one_sided_proofs(evidence: RunEvidence) -> list[str]:
    sources: dict[tuple[str, str], set[str]] = {}
    for proof in evidence.proofs:
        sources.setdefault((proof.step, proof.load_balancer), set()).add(proof.source)
    words = {"requests": "sent requests", "load_balancer_counters": "the load balancer's counters"}
    return [
        f"The {step} of {load_balancer} is proven by one source only ({words[next(iter(seen))]})."
        for (step, load_balancer), seen in sorted(sources.items())
        if len(seen) == 1
    ]
