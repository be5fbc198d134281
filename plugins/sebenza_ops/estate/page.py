"""The report of a check as one self-contained HTML page, with the look of all evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sebenza_ops.estate.findings import EstateReport, Finding, Verdict
from sebenza_ops.evidence.report import stylesheet
from sebenza_ops.evidence.wording import duration, moment
from sebenza_ops.systems.host_scripts import include_dir

if TYPE_CHECKING:
    import jinja2

TONES = {Verdict.OK: "success", Verdict.WARNING: "warning", Verdict.MISSING: "error", Verdict.NO_DATA: "error"}


@dataclass(frozen=True)
class HostSection:
    """One host's findings, most urgent first, and the worst of their verdicts."""

    name: str
    findings: list[Finding]

    @property
    def worst(self) -> Verdict:
        """The verdict of the most urgent finding."""
        return self.findings[0].verdict


def render_page(report: EstateReport, dag_id: str, run_id: str, requested_by: str) -> str:
    """Render the report without any external asset.

    Args:
        report: What was found.
        dag_id: The procedure and its environment.
        run_id: Airflow's id of the run.
        requested_by: Who started it.
    """
    from markupsafe import Markup

    page = _templates().get_template("report.html.j2")
    tone = "success" if report.is_ready else "error"
    if report.is_ready and report.counts[Verdict.WARNING]:
        tone = "warning"
    return page.render(
        report=report,
        tone=tone,
        tones=TONES,
        to_mend=report.to_mend(),
        sections=[HostSection(name, report.of_host(name)) for name in report.hosts],
        took=duration((report.finished_at - report.started_at).total_seconds()),
        dag_id=dag_id,
        run_id=run_id,
        requested_by=requested_by,
        # The style sheet is ours; everything else is escaped.
        style=Markup(stylesheet()),
    )


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(include_dir() / "templates" / "estate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return environment
