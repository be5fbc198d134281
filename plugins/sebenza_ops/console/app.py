"""The console's pages: the overview, and the evidence of a run. Mounted by the plugin at /sebenza."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from markupsafe import Markup

from sebenza_ops.console.access import CanReadResults, CanReadRun, ReadableDagIds
from sebenza_ops.console.outcome import RESULT_KEYS, conclude
from sebenza_ops.console.overview import build_overview, shown_deployments, visible_environments
from sebenza_ops.console.reports import ReportReader, open_storage, report_page
from sebenza_ops.console.runs import AirflowRun, TaskResult, find_results, find_run, find_runs
from sebenza_ops.environments.inventory import Inventory, load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.facts import utc_now
from sebenza_ops.evidence.report import TEMPLATES_DIRECTORY, stylesheet
from sebenza_ops.ledger import Ledger, LedgerError

ASSETS = Path(__file__).parent / "assets"
ASSET_TYPES = {
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
# Reports come from object storage and are shown on Airflow's own origin: whatever got into one, no script of its
# own runs here, nothing is loaded or sent elsewhere, and only Airflow may frame it.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}


@dataclass(frozen=True)
class Sources:
    """Where the console reads from."""

    ledger: Callable[[], Ledger] = Ledger.from_connection
    inventory: Callable[[], Inventory] = load_inventory
    storage: Callable[[Environment], ReportReader] = open_storage
    find_run: Callable[[str, str], AirflowRun | None] = find_run
    find_runs: Callable[[Any], dict[tuple[str, str], AirflowRun]] = field(default=find_runs)
    find_results: Callable[[str, str, Any], list[TaskResult]] = field(default=find_results)


def create_app(sources: Sources | None = None) -> FastAPI:
    """Build the console."""
    read_from = sources or Sources()
    app = FastAPI(title="Sebenza Ops", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_class=HTMLResponse)
    def overview(readable: ReadableDagIds) -> HTMLResponse:
        """Show the environments that the user may see."""
        return _overview(read_from, readable)

    @app.get("/evidence/{dag_id}/{run_id}", response_class=HTMLResponse, dependencies=[CanReadRun])
    def evidence(dag_id: str, run_id: str) -> HTMLResponse:
        """Show the evidence of a run."""
        return _evidence(read_from, dag_id, run_id)

    @app.get("/outcome/{dag_id}/{run_id}", dependencies=[CanReadRun, CanReadResults])
    def outcome(dag_id: str, run_id: str) -> JSONResponse:
        """Tell how a run has ended, for the programs that follow it."""
        return _outcome(read_from, dag_id, run_id)

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        """Serve the console's own script and icons; they hold nothing that needs a login."""
        if name not in ASSET_TYPES:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"The console has no asset {name!r}.")
        return FileResponse(ASSETS / name, media_type=ASSET_TYPES[name], headers={"Cache-Control": "max-age=3600"})

    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(LedgerError, _ledger_failed)
    return app


def _overview(sources: Sources, readable: set[str]) -> HTMLResponse:
    inventory, ledger = sources.inventory(), sources.ledger()
    shown = {
        (deployment.holder.dag_id, deployment.holder.run_id)
        for environment in visible_environments(inventory, readable)
        for deployment in shown_deployments(ledger, environment.name, readable)
    }
    now = utc_now()
    page = build_overview(inventory, ledger, readable, sources.find_runs(shown), now)
    return _page("overview.html.j2", page=page, now=now, root="")


def _evidence(sources: Sources, dag_id: str, run_id: str) -> HTMLResponse:
    run = sources.find_run(dag_id, run_id)
    page = report_page(
        dag_id,
        run_id,
        run,
        sources.inventory(),
        sources.ledger,
        sources.storage,
        utc_now(),
        lambda ended: conclude(ended, sources.find_results(dag_id, run_id, RESULT_KEYS), sources.ledger),
    )
    if page is None:
        raise HTTPException(
            HTTPStatus.NOT_FOUND,
            f"Nothing is known about run {run_id} of {dag_id}: no stored report, no facts in the ledger, and Airflow "
            "has no such run.",
        )
    return HTMLResponse(_furnished(page.html, dag_id, run_id), headers=SECURITY_HEADERS)


def _outcome(sources: Sources, dag_id: str, run_id: str) -> JSONResponse:
    run = sources.find_run(dag_id, run_id)
    if run is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"Airflow has no run {run_id} of {dag_id}.")
    answer = conclude(run, sources.find_results(dag_id, run_id, RESULT_KEYS), sources.ledger)
    return JSONResponse(asdict(answer), headers={"Cache-Control": "no-store"})


def _furnished(html: str, dag_id: str, run_id: str) -> str:
    """A report with the console's script and ways out; the stored one has neither, as it must stand alone."""
    in_airflow = f"../../../dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
    script = '<script src="../../assets/console.js"></script>'
    ways = (
        '<nav class="ways small screen-only"><a href="../../">All environments</a>'
        f'<a href="{in_airflow}" data-airflow target="_top">This run in Airflow</a></nav>'
    )
    return html.replace("</head>", f"{script}</head>", 1).replace("<body>", f"<body>{ways}", 1)


def _page(template: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    html = _templates().get_template(template).render(style=Markup(stylesheet()), **values)
    return HTMLResponse(html, status_code=status, headers=SECURITY_HEADERS)


def _refused(request: Request, error: Exception) -> Response:
    """Answer a refused request: a page for a browser, JSON for everything else."""
    if not isinstance(error, HTTPException):
        raise error
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    words = {
        HTTPStatus.UNAUTHORIZED: ("Not logged in", "Log in to Airflow, then open this page again."),
        HTTPStatus.FORBIDDEN: ("Not allowed", "Your Airflow user may not read this DAG. Ask an administrator."),
        HTTPStatus.NOT_FOUND: ("Not found", str(error.detail)),
    }
    title, text = words.get(HTTPStatus(error.status_code), ("This did not work", str(error.detail)))
    login = f"{_airflow_root(request)}api/v2/auth/login" if error.status_code == HTTPStatus.UNAUTHORIZED else None
    return _page("message.html.j2", error.status_code, title=title, text=text, login=login, tone="warning")


def _ledger_failed(request: Request, error: Exception) -> Response:
    text = (
        f"The ledger can't be read: {error} Procedures that need it refuse to start; emergency procedures still run. "
        "Check the Airflow connection ops_ledger and its database."
    )
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": text}, HTTPStatus.SERVICE_UNAVAILABLE)
    return _page(
        "message.html.j2", HTTPStatus.SERVICE_UNAVAILABLE, title="No ledger", text=text, login=None, tone="error"
    )


def _airflow_root(request: Request) -> str:
    """The path of Airflow itself, one above the place where the console is mounted."""
    mounted: str = request.scope.get("root_path", "")
    return mounted.rpartition("/")[0] + "/"


@cache
def _templates() -> jinja2.Environment:
    from sebenza_ops.evidence.wording import moment

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIRECTORY.parent / "console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return environment
