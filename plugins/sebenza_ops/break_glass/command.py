"""What the person at the terminal runs: checks what can be checked at once, starts the run, shows its progress."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Any

from sebenza_ops.break_glass.credentials import check_credentials, credentials_file
from sebenza_ops.break_glass.errors import RefusedError
from sebenza_ops.break_glass.home import Home, dags_directory, home_directory
from sebenza_ops.break_glass.messages import Event, Request, read_events
from sebenza_ops.environments.inventory import inventory_directory, load_inventory
from sebenza_ops.terminal import person_at_terminal

MINIMUM_REASON_LENGTH = 10
CONF_VARIABLE, REASON_VARIABLE = "SEBENZA_RUN_CONF", "SEBENZA_RUN_REASON"
_PROCEDURE = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9-]*)")


class ExitCode(IntEnum):
    """As `make run`: 2 means that there was no run."""

    SUCCESS = 0
    FAILURE = 1
    REFUSED = 2
    INTERRUPTED = 130


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except RefusedError as error:
        print(f"break-glass: refused, nothing was touched: {error}", file=sys.stderr, flush=True)
        return ExitCode.REFUSED


def _run(options: argparse.Namespace) -> int:
    credentials = credentials_file()
    if options.prepare:
        check_credentials(credentials, ())
        say(f"break-glass: prepared {Home(home_directory(), credentials).prepare(_told)}")
        return ExitCode.SUCCESS
    request = read_request(options.dag_id, options.conf, options.reason)
    environment = request.dag_id.partition(".")[2]
    check_credentials(credentials, [ssh_connection(environment)])
    home = Home(home_directory(), credentials)
    home.prepare(_told)
    place = home.new_run(Path(request.file))
    _told(f"{request.dag_id}, by {request.person}: {request.reason}")
    _told(f"inventory {inventory_directory()}, credentials {credentials}, log {place / 'run.log'}")
    return follow(request, place, home.environment(place))


def read_request(dag_id: str, conf_text: str, reason: str) -> Request:
    """What is asked for, as far as it can be checked without Airflow. Raises RefusedError."""
    matched = _PROCEDURE.fullmatch(dag_id or "")
    if matched is None:
        raise RefusedError(f"{dag_id!r} is no procedure of an environment, such as rollback.production")
    reason = " ".join((reason or "").split())
    if len(reason) < MINIMUM_REASON_LENGTH:
        raise RefusedError(f"a reason of at least {MINIMUM_REASON_LENGTH} characters is needed: REASON='…'")
    try:
        conf: Any = json.loads(conf_text or "{}")
    except json.JSONDecodeError as error:
        raise RefusedError(f"CONF is no JSON ({error}): {conf_text}") from error
    if not isinstance(conf, dict):
        raise RefusedError(f"CONF must be a JSON object, for example {{}}: {conf_text}")
    # What the procedure itself asks for is the same reason.
    conf = {"reason": reason, **conf}
    files = sorted(dags_directory().glob(f"*/{matched[1]}.py")) + sorted(dags_directory().glob(f"{matched[1]}.py"))
    if not files:
        raise RefusedError(f"there is no procedure {matched[1]!r} in {dags_directory()}")
    return Request(dag_id, str(files[0]), conf, reason, person_at_terminal())


def ssh_connection(environment: str) -> str:
    """The connection without which nothing can be done there. Raises RefusedError for an unknown environment."""
    inventory = load_inventory()
    found = inventory.environments.get(environment)
    if found is None:
        known = ", ".join(sorted(inventory.environments)) or "none"
        problems = "; ".join(str(error) for error in inventory.errors.values())
        text = f"no environment {environment!r} in {inventory_directory()} (there: {known}). {problems}"
        raise RefusedError(text.strip())
    return found.ssh_conn_id


def follow(request: Request, place: Path, environment: dict[str, str], tell: Callable[[str], None] = say) -> int:
    """Start the run in its own process and show its progress until it has ended."""
    reading, writing = os.pipe()
    with (place / "run.log").open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "sebenza_ops.break_glass.in_process", str(writing)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            text=True,
        )
    os.close(writing)
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(request)))
    child.stdin.close()
    began = time.monotonic()
    last: Event | None = None
    try:
        for event in read_events(reading):
            last = event
            for line in shown(event, time.monotonic() - began):
                tell(line)
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()
        print(
            "break-glass: interrupted. What was done stays done; run it again, or look where traffic is: "
            f"check_environment, or the load balancers. Log: {place / 'run.log'}",
            file=sys.stderr,
        )
        return ExitCode.INTERRUPTED
    if last is None or last.what not in ("ended", "refused"):
        print(f"break-glass: the run died (exit code {code}); its log: {place / 'run.log'}", file=sys.stderr)
        return ExitCode.FAILURE
    return code


def shown(event: Event, at_seconds: float) -> list[str]:
    """An event as lines for the terminal."""
    if event.what == "refused":
        return [f"break-glass: refused, nothing was touched: {event.text}"]
    if event.what == "task":
        took = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
        return [
            f"  {at_seconds:6.1f} s  {event.task:<28} {event.state}{took}",
            *(f"             {line}" for line in event.text.splitlines()),
        ]
    if event.what == "ended":
        took = f" after {event.seconds:.1f} s" if event.seconds is not None else ""
        return [*(f"  {line}" for line in event.lines), f"break-glass: {event.state}{took}. {event.text}".rstrip()]
    return [f"break-glass: {event.text}"]


def _told(text: str) -> None:
    say(f"break-glass: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sebenza_ops.break_glass",
        description="Run an emergency procedure without Airflow's services. Exit code 0 success, 1 failure, 2 refused.",
    )
    parser.add_argument("dag_id", nargs="?", default="", metavar="DAG_ID", help="for example rollback.production")
    parser.add_argument(
        "--conf",
        default=os.environ.get(CONF_VARIABLE, "{}"),
        metavar="JSON",
        help=f"its parameters; default: {CONF_VARIABLE}",
    )
    parser.add_argument(
        "--reason",
        default=os.environ.get(REASON_VARIABLE, ""),
        metavar="TEXT",
        help=f"why, for the audit; default: {REASON_VARIABLE}",
    )
    parser.add_argument("--prepare", action="store_true", help="only prepare the private Airflow home, to start faster")
    return parser
