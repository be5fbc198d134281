"""The report of a run: one self-contained HTML page for object storage, and a summary for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sebenza_ops.evidence import summary
from sebenza_ops.evidence.facts import RunEvidence
from sebenza_ops.evidence.page import Page, build_page
from sebenza_ops.evidence.summary import RunHeader
from sebenza_ops.evidence.wording import moment

if TYPE_CHECKING:
    import jinja2

__all__ = ["TEMPLATES_DIRECTORY", "RunHeader", "render_report", "render_text", "stylesheet"]

TEMPLATES_DIRECTORY = Path(__file__).resolve().parents[3] / "include" / "templates" / "evidence"
TERMINAL_COLUMNS = 100


def render_report(evidence: RunEvidence, header: RunHeader, notices: Sequence[str] = ()) -> str:
    """Render a run's evidence as one HTML page without any external asset.

    Args:
        evidence: the facts, as `facts.load` read them.
        header: what is known about the run beside its facts.
        notices: sentences about this rendering itself, shown under the headline.

    Raises:
        jinja2.TemplateError: the template in `include/templates/evidence` is missing or broken.
    """
    from markupsafe import Markup

    page = build_page(evidence, header)
    if evidence.traffic:
        page = replace(page, charts={width: Markup(svg) for width, svg in _charts(evidence, header, page).items()})
    template = _templates().get_template("report.html.j2")
    # The style sheet is ours and the charts' texts are escaped by matplotlib; everything else is escaped here.
    return template.render(page=page, header=header, notices=notices, style=Markup(stylesheet()))


def render_text(evidence: RunEvidence, header: RunHeader) -> str:
    """Render what matters most for a terminal: verdict, state, numbers, proof, and what is missing."""
    page = build_page(evidence, header)
    lines = [
        f"{header.procedure}, {header.environment}",
        f"{page.verdict.word.upper()}: {page.verdict.sentence}",
        f"State now: {page.state_now}",
    ]
    if page.outcome is not None and page.outcome.failed_task:
        lines.append(f"What failed: {page.outcome.failed_task}")
    if page.outcome is not None and page.outcome.error:
        lines += textwrap.indent(page.outcome.error, "  ").splitlines()
    lines += [
        "",
        *_columns(
            [
                (figure.name, " ".join((figure.value, f"({figure.note})" if figure.note else "")))
                for figure in page.figures
            ]
        ),
    ]
    lines += ["", *_columns(page.about)]
    lines += ["", "Proof, from two independent sources:", *_proof_lines(page)]
    lines += ["", "Before and after:", *_comparison_lines(page)]
    lines += ["", "Judgements of the bake:", *_judgement_lines(page)]
    lines += ["", "Timeline:", *_timeline_lines(page)]
    if page.missing:
        lines += ["", "What is missing:", *(f"  - {sentence}" for sentence in page.missing)]
    lines += ["", f"Run {header.run_id} of {header.dag_id}, {moment(header.rendered_at)}"]
    return "\n".join(_wrap(line.rstrip()) for line in lines) + "\n"


@cache
def stylesheet() -> str:
    """The report's style sheet, which the console's pages share."""
    return (TEMPLATES_DIRECTORY / "style.css").read_text(encoding="utf-8")


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIRECTORY),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return environment


def _charts(evidence: RunEvidence, header: RunHeader, page: Page) -> dict[str, str]:
    from sebenza_ops.evidence.chart import render_chart

    start = summary.run_start(evidence, header)
    origin = start.timestamp() if start else min(sample.at for sample in evidence.traffic)
    return {
        "wide": render_chart(evidence.traffic, evidence.latency, page.marks, origin, "wide"),
        "narrow": render_chart(evidence.traffic, evidence.latency, page.marks, origin, "narrow"),
    }


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    widest = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{widest}}  {value}" for name, value in rows]


def _proof_lines(page: Page) -> list[str]:
    if not page.proofs:
        return [f"  none: {page.why_nothing_changed}"]
    return [
        f"  {row['load_balancer']}, {row['step']} to {row['expected_color']}, {source['label'].lower()}: "
        f"{source['word'].upper() if source['tone'] != 'success' else source['word']}. {source['numbers']}"
        for row in page.proofs
        for source in row["sources"]
    ]


def _comparison_lines(page: Page) -> list[str]:
    compared = page.comparison
    if compared is None:
        return [f"  none: {page.why_nothing_changed}"]
    rows = [*compared.rows, ("Verdict", [": ".join(filter(None, (word, why))) for word, _, why in compared.verdicts])]
    return [
        f"  {name}, {column.lower()}: {value}"
        for name, values in rows
        for column, value in zip(compared.columns, values, strict=True)
        if value
    ]


def _judgement_lines(page: Page) -> list[str]:
    if not page.judgements:
        return [f"  none: {page.why_nothing_changed}"]
    lines = []
    for row in page.judgements:
        why = ": ".join(part for part in (row["trigger"], row["reason"]) if part)
        lines.append(f"  {row['when']}: {row['word']}, {row['times']} x" + (f" ({why})" if why else ""))
    return lines


def _timeline_lines(page: Page) -> list[str]:
    if not page.timeline:
        return ["  the run recorded nothing"]
    signs = {"info": " ", "success": "+", "warning": "!", "error": "x"}
    return [
        f"  {entry['offset']:>8} {signs[entry['level']]} {entry['text']}"
        + (f" ({entry['host']})" if entry["host"] else "")
        for entry in page.timeline
    ]


def _wrap(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return (
        "\n".join(textwrap.wrap(line, TERMINAL_COLUMNS, subsequent_indent=indent, break_on_hyphens=False))
        if line
        else ""
    )
