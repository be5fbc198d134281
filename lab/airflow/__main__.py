"""``python -m lab.airflow up | down | status | run | logs``: the local Airflow from the command line."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any

from lab import paths
from lab.airflow.client import AirflowApiError
from lab.airflow.follow import Outcome, run_and_follow
from lab.airflow.settings import AirflowSettingsError, lab_settings
from lab.airflow.stack import AirflowUnavailableError, LocalAirflow, Report, last_line
from lab.airflow.supervision import COMPONENTS


def say(line: str) -> None:
    """Print a line at once, so that progress shows in pipes too."""
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        airflow = LocalAirflow(lab_settings(), say=lambda line: say(f"airflow: {line}"))
        return int(options.command(airflow, options))
    except (AirflowUnavailableError, AirflowSettingsError, AirflowApiError) as error:
        print(f"airflow: {error}", file=sys.stderr)
        return Outcome.FAILURE
    except KeyboardInterrupt:
        print("airflow: interrupted; what was started goes on", file=sys.stderr)
        return 130


def _up(airflow: LocalAirflow, _: argparse.Namespace) -> int:
    report = airflow.up()
    _print_report(airflow, report)
    return Outcome.SUCCESS


def _print_report(airflow: LocalAirflow, report: Report) -> None:
    how = "runs already" if report.already_running else f"ready in {report.seconds:.0f} s"
    say(f"airflow: {how}: {airflow.settings.url}, {len(report.dag_ids)} procedures")
    for error in report.import_errors:
        say(f"airflow: can't import {_import_error(error)}")
    _print_users(airflow)
    if not airflow.settings.connections_file.exists():
        say("airflow: the lab is not up, so procedures find no connections: `make up` brings it up")


def _import_error(row: dict[str, Any]) -> str:
    trace = (row["stack_trace"] or "").strip().splitlines() or ["no reason given"]
    return f"{row['filename']}: {trace[-1]}"


def _print_users(airflow: LocalAirflow) -> None:
    for user in airflow.users().values():
        say(f"  {user.username:<10} {user.password:<18} {user.role}")


def _down(airflow: LocalAirflow, options: argparse.Namespace) -> int:
    killed = airflow.down()
    if options.forget:
        shutil.rmtree(airflow.settings.home, ignore_errors=True)
    say("airflow: stopped" + (f" ({killed} processes had to be killed)" if killed else ""))
    return Outcome.SUCCESS


def _status(airflow: LocalAirflow, _: argparse.Namespace) -> int:
    states = airflow.supervision.states()
    if not states:
        say("airflow: not running; `make up` starts it")
        return Outcome.FAILURE
    with airflow.client("admin", patience_seconds=0) as client:
        try:
            health: dict[str, Any] = client.healthy()
            dags, errors = client.dags(), client.import_errors()
        except AirflowApiError as error:
            health, dags, errors = {}, [], []
            say(f"airflow: {error}")
    for name in COMPONENTS:
        state = states[name]
        seen = health.get(name.replace("-", "_"), {}).get("status")
        opinion = f", says it is {seen}" if seen else ""
        say(f"  {name:<14} {state['statename'].lower():<9} {state['description']}{opinion}")
        if state["statename"] != "RUNNING":
            say(f"    {last_line(airflow.component_log(name))}")
    say(f"airflow: {airflow.settings.url}, {len(dags)} procedures, {len(errors)} files that can't be imported")
    for row in errors:
        say(f"  {_import_error(row)}")
    _print_users(airflow)
    running = all(state["statename"] == "RUNNING" for state in states.values())
    return Outcome.SUCCESS if running and health else Outcome.FAILURE


def _run(airflow: LocalAirflow, options: argparse.Namespace) -> int:
    try:
        conf = json.loads(options.conf or "{}")
    except json.JSONDecodeError as error:
        print(f"refused: --conf is not JSON ({error}): {options.conf}", file=sys.stderr)
        return Outcome.REFUSED
    if not isinstance(conf, dict):
        print(f"refused: --conf must be a JSON object, for example {{}}: {options.conf}", file=sys.stderr)
        return Outcome.REFUSED
    with airflow.client(options.user, patience_seconds=20) as client:
        return run_and_follow(client, options.dag_id, conf, say, follow=options.follow)


def _logs(airflow: LocalAirflow, options: argparse.Namespace) -> int:
    for name in [options.component] if options.component else COMPONENTS:
        path = airflow.component_log(name)
        say(f"==> {path}")
        if path.exists():
            for line in path.read_text(errors="replace").splitlines()[-options.lines :]:
                say(line)
    return Outcome.SUCCESS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.airflow", description="The lab's Airflow on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it and wait until every procedure is there")
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="stop it")
    down.add_argument("--forget", action="store_true", help=f"and delete {paths.LAB_DIR}/airflow with its history")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="components, procedures, users and passwords")
    status.set_defaults(command=_status)
    run = commands.add_parser("run", help="start a procedure and follow it; exit code 0 success, 1 failure, 2 refused")
    run.add_argument("dag_id", metavar="DAG_ID", help="for example deploy_blue_green.production")
    run.add_argument("--conf", default="{}", metavar="JSON", help="its parameters")
    run.add_argument("--as", dest="user", default="operator", metavar="USER", help="operator (default), ci, admin")
    run.add_argument("--follow", action=argparse.BooleanOptionalAction, default=True, help="wait for its end (default)")
    run.set_defaults(command=_run)
    logs = commands.add_parser("logs", help="the end of the components' logs")
    logs.add_argument("component", nargs="?", choices=COMPONENTS)
    logs.add_argument("--lines", type=int, default=40)
    logs.set_defaults(command=_logs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
