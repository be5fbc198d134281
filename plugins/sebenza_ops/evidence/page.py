"""The parts of a report as plain words, ready for a template: no markup here, and no decisions in the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sebenza_ops.evidence import summary
from sebenza_ops.evidence.facts import FiguresFact, OutcomeFact, PlanFact, ProofFact, RunEvidence, TimelineEntry
from sebenza_ops.evidence.summary import RunHeader, Tone, Verdict
from sebenza_ops.evidence.wording import clock, count, duration, moment, offset, seconds, times

VERDICT_TAGS: dict[str, tuple[str, Tone]] = {
    "pass": ("passed", "success"),
    "fail": ("failed", "error"),
    "no_data": ("no data", "warning"),
    "waived": ("waived", "warning"),
    "skipped": ("skipped", "info"),
}
NOT_MEASURED = "not measured"
VERDICT_MISSING: tuple[str, Tone, str] = (NOT_MEASURED, "warning", "")
SOURCE_WORDS = {"requests": "Requests sent through it", "load_balancer_counters": "Its own counters"}
DETAIL_WORDS = {
    "fresh": "on new connections",
    "keep_alive": "on kept connections",
    "matched": "answered by the expected color",
    "old_delta": "to the other color",
    "new_delta": "to the expected color",
}


@dataclass(frozen=True)
class Figure:
    """A number worth reading first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The live release before the change beside the one that is live after it.

    Args:
        columns: "Before" and "After".
        rows: A name, and the value in each column.
        verdicts: The verdict in each column, as word, tone and reason.
    """

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    verdicts: list[tuple[str, Tone, str]]


@dataclass(frozen=True)
class Page:
    """Everything that a rendering shows, in words."""

    verdict: Verdict
    state_now: str
    outcome: OutcomeFact | None
    figures: list[Figure]
    about: list[tuple[str, str]]
    proofs: list[dict[str, Any]]
    counters: list[dict[str, Any]]
    comparison: Comparison | None
    judgements: list[dict[str, Any]]
    gates: list[dict[str, Any]]
    plan: dict[str, Any] | None
    timeline: list[dict[str, Any]]
    marks: list[TimelineEntry]
    missing: list[str]
    why_nothing_changed: str
    why_no_chart: str
    chart_description: str
    chart_colors: list[str]
    charts: dict[str, Any] = field(default_factory=dict)


def build_page(evidence: RunEvidence, header: RunHeader) -> Page:
    """Work out what the report says about a run."""
    why = _why_nothing_changed(evidence, header)
    return Page(
        verdict=summary.verdict(evidence, header),
        state_now=summary.state_now(evidence, header),
        outcome=evidence.outcome,
        figures=_figures(evidence, header),
        about=_about(evidence, header),
        proofs=_proof_rows(evidence.proofs),
        counters=[_counters(row) for row in summary.counter_rows(evidence.counters)],
        comparison=_comparison(*summary.before_and_after(evidence)),
        judgements=[_judgement(span) for span in summary.judgement_spans(evidence.judgements)],
        gates=_gates(evidence),
        plan=_plan(evidence.plan) if evidence.plan else None,
        timeline=_timeline(evidence, header),
        marks=summary.marks(evidence),
        missing=summary.missing(evidence, header),
        why_nothing_changed=why,
        why_no_chart=f"No traffic was measured: {why}",
        chart_description=_chart_description(evidence),
        chart_colors=sorted({sample.color for sample in evidence.traffic}),
    )


def _why_nothing_changed(evidence: RunEvidence, header: RunHeader) -> str:
    outcome = evidence.outcome
    if outcome is None:
        return "the run has not come that far yet." if header.in_progress else "the run ended before it came that far."
    if outcome.state:
        return "this procedure moves no requests from one color to another; what it has proven is under Gates."
    reasons = {
        "planned": "this run only planned, it moved no traffic.",
        "refused": "the run was refused before it changed anything.",
        "rejected": "somebody who may decide has rejected it before it changed anything.",
    }
    return reasons.get(
        outcome.outcome, "the run recorded none, so it can't be shown that traffic was moved and watched."
    )


def _figures(evidence: RunEvidence, header: RunHeader) -> list[Figure]:
    figures = []
    if header.started_at is not None:
        end = header.finished_at or header.rendered_at
        note = "so far" if header.in_progress else "" if header.finished_at else "until this report"
        figures.append(Figure("Duration", duration((end - header.started_at).total_seconds()), note))
    if evidence.traffic:
        requests, errors = summary.traffic_totals(evidence.traffic)
        # Requests are counted as they begin and errors as they end, of which there may be more at the end.
        figures.append(Figure("Requests watched", count(requests), "by the load balancers' counters"))
        share = f"{errors / max(requests, errors):.3%} of requests" if errors else "on both colors"
        figures.append(Figure("Errors (5xx)", count(errors), share))
    else:
        figures.append(Figure("Requests watched", "none", "no traffic was measured"))
    slowest = summary.worst_p95(evidence.latency)
    if slowest is not None and slowest.p95_seconds is not None:
        figures.append(Figure("Slowest p95", _p95(slowest.p95_seconds, slowest.is_lower_bound), slowest.color))
    if evidence.proofs:
        passed = sum(proof.passed for proof in evidence.proofs)
        figures.append(Figure("Proofs passed", f"{passed} of {len(evidence.proofs)}"))
    return figures


def _about(evidence: RunEvidence, header: RunHeader) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    plan = evidence.plan
    if plan is not None:
        rows.append(("Release", f"{plan.version} ({plan.release_id})"))
        rows.append(("Commit", plan.sha))
        rows.append(("Replaces", _before(plan)))
    rows.append(("Requested by", header.requested_by or "not known"))
    if header.approved_by:
        rows.append(("Approved by", header.approved_by))
    rows.append(("Started", moment(header.started_at) if header.started_at else "not yet"))
    rows.append(("Finished", _finished(header)))
    rows += _phases(evidence, header)
    return rows


def _finished(header: RunHeader) -> str:
    if header.finished_at:
        return moment(header.finished_at)
    return "still running" if header.in_progress else "moment not known"


def _phases(evidence: RunEvidence, header: RunHeader) -> list[tuple[str, str]]:
    """How long the run took to each mark: to the first switch, watching, to the drain."""
    start = summary.run_start(evidence, header)
    firsts: dict[str, TimelineEntry] = {}
    for entry in summary.marks(evidence):
        firsts.setdefault(str(entry.mark), entry)
    phases = []
    _, after = summary.before_and_after(evidence)
    if after is not None:
        phases.append(("Watched", _watched(after)))
    if start is not None and "switch" in firsts:
        phases.append(("Start to switch", duration((firsts["switch"].at - start).total_seconds())))
    watched_until = firsts.get("switch_back") or firsts.get("drain")
    if "bake" in firsts and watched_until is not None:
        phases.append(("Bake", duration((watched_until.at - firsts["bake"].at).total_seconds())))
    if "switch" in firsts and "switch_back" in firsts:
        exposed = (firsts["switch_back"].at - firsts["switch"].at).total_seconds()
        phases.append(("Switch to switch back", duration(exposed)))
    return phases


def _before(plan: PlanFact) -> str:
    if plan.from_color is None:
        return "nothing: no color was live before"
    return f"{plan.from_release or 'a release that is not known'} on {plan.from_color}"


def _plan(plan: PlanFact) -> dict[str, Any]:
    hosts: dict[str, list[str]] = {}
    for step in plan.steps:
        hosts.setdefault(step.host, []).append(step.action)
    changes = f"{times(len(plan.steps), 'change')} on {times(len(hosts), 'host')}" if hosts else "no change on any host"
    sentence = f"From {_before(plan)} to {plan.release_id} on {plan.to_color}: {changes}."
    return {"sentence": sentence, "warnings": plan.warnings, "hosts": list(hosts.items())}


def _proof_rows(proofs: Sequence[ProofFact]) -> list[dict[str, Any]]:
    """One row for each change of each load balancer, with both sources side by side."""
    groups: dict[tuple[str, str], dict[str, ProofFact]] = {}
    for proof in proofs:
        groups.setdefault((proof.step, proof.load_balancer), {})[proof.source] = proof
    return [
        {
            "load_balancer": load_balancer,
            "step": step,
            "expected_color": next(iter(by_source.values())).expected_color,
            "sources": [_source(label, by_source.get(source)) for source, label in SOURCE_WORDS.items()],
        }
        for (step, load_balancer), by_source in groups.items()
    ]


def _source(label: str, proof: ProofFact | None) -> dict[str, Any]:
    if proof is None:
        return {"label": label, "word": "not recorded", "tone": "warning", "numbers": ""}
    known = [
        f"{count(proof.detail[key])} {words}"
        for key, words in DETAIL_WORDS.items()
        if _is_number(proof.detail.get(key))
    ]
    others = [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in proof.detail.items()
        if key not in DETAIL_WORDS or not _is_number(value)
    ]
    return {
        "label": label,
        "word": "passed" if proof.passed else "failed",
        "tone": "success" if proof.passed else "error",
        "numbers": ", ".join(known + others) or "no numbers recorded",
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _counters(row: summary.CounterRow) -> dict[str, Any]:
    first, last = row.first, row.last
    if not row.compared:
        requests_difference = errors_difference = "one moment only"
    elif row.was_reset:
        requests_difference = errors_difference = "reset meanwhile"
    else:
        requests_difference = f"+{count(last.requests_total - first.requests_total)}"
        errors_difference = f"+{count(last.responses_5xx - first.responses_5xx)}"
    return {
        "load_balancer": row.load_balancer,
        "backend": row.backend,
        "color": row.color,
        "moments": f"{first.label} → {last.label}" if row.compared else first.label,
        "requests": _from_to(first.requests_total, last.requests_total, row.compared),
        "requests_difference": requests_difference,
        "errors": _from_to(first.responses_5xx, last.responses_5xx, row.compared),
        "errors_difference": errors_difference,
        "sessions": count(last.sessions_current),
    }


def _from_to(first: int, last: int, compared: bool) -> str:
    return f"{count(first)} → {count(last)}" if compared else count(first)


def _comparison(before: FiguresFact | None, after: FiguresFact | None) -> Comparison | None:
    if before is None and after is None:
        return None
    both = (before, after)
    return Comparison(
        columns=["Before", "After"],
        rows=[
            ("Release", [f"{one.release_id or 'not known'} on {one.color}" if one else NOT_MEASURED for one in both]),
            ("Watched", [_watched(one) if one else "" for one in both]),
            ("Requests answered", [count(one.answers) if one else "" for one in both]),
            ("Errors (5xx)", [_failed(one) if one else "" for one in both]),
            ("Response time (p95)", [_p95(one.p95_seconds, one.p95_is_lower_bound) if one else "" for one in both]),
        ],
        verdicts=[(*VERDICT_TAGS[one.verdict], one.reason) if one else VERDICT_MISSING for one in both],
    )


def _watched(figures: FiguresFact) -> str:
    return f"for {duration(figures.watched_seconds)}, judged {times(figures.judgements, 'time')}"


def _failed(figures: FiguresFact) -> str:
    if figures.error_ratio is None:
        return "no answers"
    return f"{count(figures.errors)} ({figures.error_ratio:.2%})"


def _p95(p95_seconds: float | None, is_lower_bound: bool) -> str:
    if p95_seconds is None:
        return "not measured"
    return f"more than {seconds(p95_seconds)}" if is_lower_bound else seconds(p95_seconds)


def _judgement(span: summary.JudgementSpan) -> dict[str, Any]:
    word, tone = VERDICT_TAGS[span.first.verdict]
    return {
        "when": clock(span.first.at) if span.times == 1 else f"{clock(span.first.at)} to {clock(span.last.at)}",
        "times": count(span.times),
        "word": word,
        "tone": tone,
        "trigger": span.last.trigger or "",
        "reason": span.last.reason,
    }


def _gates(evidence: RunEvidence) -> list[dict[str, Any]]:
    rows = []
    for gate in evidence.gates:
        word, tone = VERDICT_TAGS[gate.verdict]
        rows.append({"name": gate.name, "word": word, "tone": tone, "detail": gate.detail, "link": _address(gate.link)})
    return rows


def _address(link: str | None) -> str | None:
    """A link that leads to a page; anything else (a script, another scheme, another host in disguise) is none."""
    if link and (link.startswith(("https://", "http://")) or (link.startswith("/") and not link.startswith("//"))):
        return link
    return None


def _timeline(evidence: RunEvidence, header: RunHeader) -> list[dict[str, Any]]:
    start = summary.run_start(evidence, header)
    return [
        {
            "iso": entry.at.isoformat(),
            "moment": moment(entry.at),
            "offset": offset(entry.at, start) if start else "",
            "clock": clock(entry.at),
            "text": entry.text,
            "level": entry.level,
            "host": entry.host,
        }
        for entry in sorted(evidence.timeline, key=lambda entry: entry.at)
    ]


def _chart_description(evidence: RunEvidence) -> str:
    """The chart in a sentence, for who can't see it."""
    requests, errors = summary.traffic_totals(evidence.traffic)
    balancers = times(len({sample.load_balancer for sample in evidence.traffic}), "load balancer")
    bad = times(errors, "error") if errors else "no errors"
    failing = sorted({sample.color for sample in evidence.traffic if sample.errors})
    where = f", on {' and '.join(failing)}" if failing else ""
    return f"Requests per second by color, {balancers} together: {times(requests, 'request')} and {bad} in all{where}."
