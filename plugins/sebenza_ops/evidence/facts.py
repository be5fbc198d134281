"""The facts a run gathers as proof of what it did, and how they are kept in the ledger.

A fact is a small frozen value with a `kind`. A run records facts while it works (`record`, `record_all`), so
that a run that dies leaves what it knew; the report reads them back (`load`). A fact never holds a secret:
it names hosts, colors, releases and numbers, and nothing that a connection keeps.

Moments that people read (`at` of a timeline entry) are timezone-aware UTC datetimes; the points of a series
(`at` of a sample) are seconds since the epoch, because they are plotted, not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sebenza_ops.notify.runs import TASK_FAILED

__all__ = [
    "CounterSnapshot",
    "EvidenceEntryLike",
    "EvidenceLedger",
    "Fact",
    "FiguresFact",
    "GateFact",
    "JudgementFact",
    "LatencySample",
    "OutcomeFact",
    "PlanFact",
    "PlannedStep",
    "ProofFact",
    "RunEvidence",
    "TimelineEntry",
    "TrafficSample",
    "Unreadable",
    "load",
    "record",
    "record_all",
    "utc_now",
]

UtcMoment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
"""A timezone-aware datetime, kept as UTC. A naive one is refused: nobody can tell what it means."""

Level = Literal["info", "warning", "error", "success"]
Mark = Literal["switch", "switch_back", "bake", "drain", "host"]
JudgementVerdict = Literal["pass", "fail", "no_data"]
GateVerdict = Literal["pass", "fail", "no_data", "waived", "skipped"]
OutcomeVerdict = Literal["succeeded", "failed", "refused", "rejected", "rolled_back", "planned", "split"]
ProofSource = Literal["requests", "load_balancer_counters"]


def utc_now() -> datetime:
    """The current moment, timezone-aware."""
    return datetime.now(UTC)


class Fact(BaseModel):
    """The base of all facts: frozen, with no unknown fields. `kind` is the name under which the ledger keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str] = ""

    def to_payload(self) -> dict[str, Any]:
        """The JSON-safe form that the ledger keeps."""
        return self.model_dump(mode="json")


class TimelineEntry(Fact):
    """Something that happened, in words for the person on call. `mark` also draws it as a line into the chart."""

    kind: ClassVar[str] = "timeline"

    at: UtcMoment
    text: str
    level: Level = "info"
    host: str | None = None
    mark: Mark | None = None


class PlannedStep(BaseModel):
    """One change that the run intends to make on one host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    action: str


class PlanFact(Fact):
    """What the run intends to change, known before it changes anything.

    `from_color` and `from_release` are None when nothing was live before.
    """

    kind: ClassVar[str] = "plan"

    environment: str
    release_id: str
    version: str
    sha: str
    from_color: str | None
    to_color: str
    from_release: str | None
    steps: tuple[PlannedStep, ...] = ()
    warnings: tuple[str, ...] = ()


class CounterSnapshot(Fact):
    """One load balancer's own counters for one backend at one moment (HAProxy: `stot`/`req_tot`, `hrsp_5xx`, `scur`).

    `label` says when in the run it was taken: "before", "after", or a word of the caller's.
    Counters are since the load balancer's start; only differences between labels mean anything.
    """

    kind: ClassVar[str] = "counters"

    at: UtcMoment
    label: str
    load_balancer: str
    backend: str
    color: str
    requests_total: int
    responses_5xx: int
    sessions_current: int


class ProofFact(Fact):
    """One source's answer to "does this load balancer send all traffic to the expected color?".

    `detail` holds the numbers behind the verdict, for source "requests" fresh, keep_alive and matched (requests
    sent on new and on kept connections, and answers from the expected color); for source
    "load_balancer_counters" old_delta and new_delta (requests each color got meanwhile).
    `step` says which change was proven: "switch" or "switch back".
    """

    kind: ClassVar[str] = "proof"

    source: ProofSource
    load_balancer: str
    passed: bool
    expected_color: str
    detail: Mapping[str, Any] = Field(default_factory=dict)
    step: str = "switch"
    at: UtcMoment | None = None


class TrafficSample(Fact):
    """What one load balancer sent to one color since its sample before, about a second ago.

    `at` is in seconds since the epoch. `requests`, `answers` (None where they were not counted) and `errors` (5xx
    answers) are differences of the load balancer's own counters, not totals. The first sample of a series, and the
    first after a pause of more than three seconds, counts one second.
    """

    kind: ClassVar[str] = "traffic"

    at: float
    load_balancer: str
    color: str
    requests: float
    errors: float
    answers: float | None = None


class LatencySample(Fact):
    """The 95th percentile of a color's response time at `at` (seconds since the epoch); None when there was no data.

    With `is_lower_bound` it was more than that: it lay above the highest bucket that is measured.
    """

    kind: ClassVar[str] = "latency"

    at: float
    color: str
    p95_seconds: float | None
    is_lower_bound: bool = False


class JudgementFact(Fact):
    """One verdict of the bake. `trigger` names the rollback trigger when the verdict is "fail"."""

    kind: ClassVar[str] = "judgement"

    at: UtcMoment
    verdict: JudgementVerdict
    trigger: str | None = None
    reason: str = ""


class FiguresFact(Fact):
    """How the live release did before a change, or the changed one after it: the two columns of a comparison.

    `watched_seconds` and `judgements` say for how long and how often it was judged; `answers`, of which `errors` were
    5xx, are all load balancers'. `p95_seconds` is None without data; with `p95_is_lower_bound` it was more than that.
    `exceeded` are the rollback triggers that it was beyond.
    """

    kind: ClassVar[str] = "figures"

    at: UtcMoment
    moment: Literal["before", "after"]
    color: str
    release_id: str | None
    watched_seconds: float
    judgements: int
    answers: int
    errors: int
    p95_seconds: float | None
    p95_is_lower_bound: bool = False
    verdict: JudgementVerdict
    reason: str = ""
    exceeded: tuple[str, ...] = ()

    @property
    def error_ratio(self) -> float | None:
        """The share of answers that failed; None without answers."""
        return self.errors / self.answers if self.answers else None


class GateFact(Fact):
    """A check that had to pass before the change, with the evidence behind it."""

    kind: ClassVar[str] = "gate"

    name: str
    verdict: GateVerdict
    detail: str = ""
    link: str | None = None
    at: UtcMoment | None = None


class OutcomeFact(Fact):
    """How the run ended and what is live now. The last one recorded is the run's outcome.

    "split" means that the load balancers may disagree and a person must act; then no color is named as live.
    `state` says in words what is so now, where the procedure moves something else than requests.
    """

    kind: ClassVar[str] = "outcome"

    outcome: OutcomeVerdict
    summary: str
    live_color: str | None = None
    live_release: str | None = None
    state: str | None = None
    failed_task: str | None = None
    error: str | None = None
    at: UtcMoment | None = None


FACTS: tuple[type[Fact], ...] = (
    TimelineEntry,
    PlanFact,
    CounterSnapshot,
    ProofFact,
    TrafficSample,
    LatencySample,
    JudgementFact,
    FiguresFact,
    GateFact,
    OutcomeFact,
)
_BY_KIND: dict[str, type[Fact]] = {fact.kind: fact for fact in FACTS}


class EvidenceEntryLike(Protocol):
    """An evidence row of the ledger, as far as this module reads it."""

    @property
    def kind(self) -> str:
        """Which fact the payload is."""

    @property
    def at(self) -> datetime:
        """When it was recorded."""

    @property
    def payload(self) -> Mapping[str, Any]:
        """The fact's JSON form, or a batch of them."""


class EvidenceStoreLike(Protocol):
    """The evidence part of the ledger, as far as this module uses it."""

    def add(self, dag_id: str, run_id: str, kind: str, payload: dict[str, Any], at: datetime | None = None) -> Any:
        """Append an entry."""

    def entries(self, dag_id: str, run_id: str) -> Sequence[EvidenceEntryLike]:
        """All entries of a run in the order in which they were recorded."""


class EvidenceLedger(Protocol):
    """Whatever keeps evidence: the ledger."""

    @property
    def evidence(self) -> EvidenceStoreLike:
        """The evidence of all runs."""


class Unreadable(BaseModel):
    """An entry that this version cannot read. The report states it instead of hiding it."""

    model_config = ConfigDict(frozen=True)

    kind: str
    at: datetime
    problem: str


class RunEvidence(BaseModel):
    """All facts of one run by kind, each list in the order in which it was recorded."""

    model_config = ConfigDict(frozen=True)

    dag_id: str
    run_id: str
    timeline: tuple[TimelineEntry, ...] = ()
    plans: tuple[PlanFact, ...] = ()
    counters: tuple[CounterSnapshot, ...] = ()
    proofs: tuple[ProofFact, ...] = ()
    traffic: tuple[TrafficSample, ...] = ()
    latency: tuple[LatencySample, ...] = ()
    judgements: tuple[JudgementFact, ...] = ()
    figures: tuple[FiguresFact, ...] = ()
    gates: tuple[GateFact, ...] = ()
    outcomes: tuple[OutcomeFact, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def plan(self) -> PlanFact | None:
        """The plan in force: the last one, as a cleared run plans again."""
        return self.plans[-1] if self.plans else None

    @property
    def outcome(self) -> OutcomeFact | None:
        """The run's outcome, or None while it is not recorded (still running, or it died)."""
        return self.outcomes[-1] if self.outcomes else None

    @property
    def is_empty(self) -> bool:
        """Whether the ledger holds nothing at all about the run."""
        return not any(
            (
                self.timeline,
                self.plans,
                self.counters,
                self.proofs,
                self.traffic,
                self.latency,
                self.judgements,
                self.figures,
                self.gates,
                self.outcomes,
                self.unreadable,
            )
        )


_FIELD_OF: dict[type[Fact], str] = {
    TimelineEntry: "timeline",
    PlanFact: "plans",
    CounterSnapshot: "counters",
    ProofFact: "proofs",
    TrafficSample: "traffic",
    LatencySample: "latency",
    JudgementFact: "judgements",
    FiguresFact: "figures",
    GateFact: "gates",
    OutcomeFact: "outcomes",
}


def record(ledger: EvidenceLedger, dag_id: str, run_id: str, fact: Fact) -> None:
    """Keep one fact of a run in the ledger. Raises what the ledger raises when it can't be written."""
    observed_at = getattr(fact, "at", None)
    at = observed_at if isinstance(observed_at, datetime) else None
    ledger.evidence.add(dag_id, run_id, fact.kind, fact.to_payload(), at)


def record_all(ledger: EvidenceLedger, dag_id: str, run_id: str, facts: Iterable[Fact]) -> None:
    """Keep many facts, one ledger entry for each kind.

    A bake yields a sample a second for every load balancer and color; one row each would be thousands of
    transactions, so samples are kept in batches.
    """
    batches: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        batches.setdefault(fact.kind, []).append(fact.to_payload())
    for kind, items in batches.items():
        ledger.evidence.add(dag_id, run_id, kind, {"items": items})


def load(ledger: EvidenceLedger, dag_id: str, run_id: str) -> RunEvidence:
    """Read back everything that the ledger holds about a run. An entry that can't be read is kept as `unreadable`.

    What failed tasks have left for messages are lines of the timeline, where the run has not told it itself.
    """
    found: dict[str, list[Fact]] = {name: [] for name in _FIELD_OF.values()}
    unreadable: list[Unreadable] = []
    failures: list[EvidenceEntryLike] = []
    for entry in ledger.evidence.entries(dag_id, run_id):
        if entry.kind == TASK_FAILED:
            failures.append(entry)
            continue
        fact_type = _BY_KIND.get(entry.kind)
        if fact_type is None:
            problem = "this version of Sebenza Ops does not know this kind of fact"
            unreadable.append(Unreadable(kind=entry.kind, at=entry.at, problem=problem))
            continue
        for payload in _payloads(entry.payload):
            try:
                found[_FIELD_OF[fact_type]].append(fact_type.model_validate(payload))
            except ValidationError as error:
                problem = _first_problem(error)
                unreadable.append(Unreadable(kind=entry.kind, at=entry.at, problem=problem))
    told = {entry.text for entry in found["timeline"] if isinstance(entry, TimelineEntry)}
    found["timeline"] += [_failure(entry) for entry in failures if entry.payload.get("error") not in told]
    return RunEvidence.model_validate({"dag_id": dag_id, "run_id": run_id, "unreadable": unreadable, **found})


def _failure(entry: EvidenceEntryLike) -> TimelineEntry:
    text = f"{entry.payload.get('task')} failed: {entry.payload.get('error')}"
    return TimelineEntry(at=entry.at, text=text, level="error")


def _payloads(payload: Mapping[str, Any]) -> Sequence[Any]:
    items = payload.get("items")
    return items if len(payload) == 1 and isinstance(items, list) else [payload]


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole entry"
    return f"{where}: {first['msg']}"
