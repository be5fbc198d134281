#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests==2.34.2", "boto3==1.44.5"]
# ///
"""Deploys a commit from a CI pipeline through Airflow, and follows the run in the CI log to its end.

It uploads what the pipeline attests of the commit, starts deploy_<strategy>.<environment>, shows the tasks as they
change, waits through the approval, and ends with the run's outcome. The run's id is made of the pipeline's id and the
commit: the same pipeline tried again follows its first run and does not deploy twice. A job that is cancelled or killed
leaves the run going.

Runs with `uv run deploy.py`, or with Python 3.11 or later where requests (and, for --attestation, boto3) are installed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import requests

SUCCESS, FAILURE, REJECTED, NOT_STARTED, UNKNOWN = range(5)
EPILOG = """
secrets, from the environment only (a command line can be read by every user of the machine):
  SEBENZA_AIRFLOW_PASSWORD                   of the Airflow user
  SEBENZA_ATTESTATION_KEY                    with --attestation: the password of the connection sebenza_attestation
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   with --attestation: may write releases/*/attestation.json; or any other
                                             way in which boto3 finds credentials
private certificate authorities: REQUESTS_CA_BUNDLE for Airflow, AWS_CA_BUNDLE for the storage.

exit codes:
  0  the deployment has succeeded, or the version was live already
  1  the deployment has failed
  2  somebody who may decide has rejected it
  3  nothing was started: a flag, a variable, the password or a right is wrong
  4  not known: Airflow did not answer, or the time was over; a run that was started goes on
  130, 143  interrupted; the run goes on, and the same command follows it

the JSON file of --attestation: "gates", and where the defaults are wrong "author", "committer", "requested_by" (login
names or email addresses) and "reviewers" (a list):
  {"gates": {"tests_passed": {"verdict": "pass", "detail": "812 tests", "url": "https://..."}}, "reviewers": ["sipho"]}
"""
GATES = ("review_approved", "tests_passed", "security_scan", "performance_benchmark")
VERDICTS = ("pass", "fail", "no_data")
# States that only say that Airflow is on its way.
QUIET_STATES = (None, "scheduled", "queued", "removed", "restarting")
# CI systems end a job that is silent for long.
SILENCE_SECONDS = 60.0
LOG_LINES = 8
# A failed task's error is in the ledger a moment after Airflow has the run's end.
TOLD_SECONDS = 10.0
UNPRINTABLE = re.compile(r"[^ -~\u00a0-\uffff]")


class Stop(Exception):
    """The script ends here, with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Console:
    """The CI log. Secrets are masked, and nothing that a server says is taken for a command of the CI system."""

    def __init__(self) -> None:
        self._secrets: list[str] = []
        self._last = time.monotonic()

    def hide(self, *secrets: str | None) -> None:
        """Never show these."""
        self._secrets += [secret for secret in secrets if secret]

    def say(self, text: str) -> None:
        """Print lines with the time of day (UTC) before them."""
        self._last = time.monotonic()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for line in text.splitlines():
            print(f"{datetime.now(UTC):%H:%M:%S} {UNPRINTABLE.sub(' ', line)}", flush=True)

    @property
    def silent_seconds(self) -> float:
        """How long nothing was said."""
        return time.monotonic() - self._last


class Bearer(requests.auth.AuthBase):
    """The token as a header. Without an auth object, requests would prefer a .netrc to the header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Airflow:
    """Airflow's REST API for one user. Every request may be sent again, as the run's id is chosen here."""

    def __init__(self, url: str, user: str, password: str, patience_seconds: float, console: Console) -> None:
        self.url = url.rstrip("/")
        self._user, self._password, self._patience_seconds = user, password, patience_seconds
        self._console = console
        self._session = requests.Session()
        self.token: str | None = None

    def log_in(self) -> None:
        """Get a token."""
        self.token = None
        status, answer = self._send("POST", "/auth/token", {"username": self._user, "password": self._password})
        if status not in (200, 201):
            raise Stop(NOT_STARTED, f"Airflow does not let {self._user} in (HTTP {status}): check user and password")
        self.token = str(answer["access_token"])
        self._console.hide(self.token)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request below /api/v2, or to the console, with a new token when the old one has expired.

        Returns the HTTP status and the decoded JSON.
        """
        full = path if path.startswith("/sebenza/") else f"/api/v2{path}"
        if self.token is None:
            self.log_in()
        status, answer = self._send(method, full, body)
        if status == requests.codes.unauthorized:
            self.log_in()
            status, answer = self._send(method, full, body)
        return status, answer

    def _send(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        until, is_away = time.monotonic() + self._patience_seconds, False
        while True:
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, auth=Bearer(self.token), timeout=30, allow_redirects=False
                )
                # Elsewhere, a POST would arrive as a GET.
                if answer.is_redirect:
                    raise Stop(NOT_STARTED, f"{self.url} redirects to {answer.headers['location']}: give that address")
                if answer.status_code < 500 and answer.status_code != requests.codes.too_many_requests:
                    if is_away:
                        self._console.say("Airflow answers again")
                    return answer.status_code, answer.json() if answer.content else None
                problem = f"HTTP {answer.status_code}"
            except requests.exceptions.JSONDecodeError:
                problem = "an answer that is no JSON"
            except requests.exceptions.SSLError as error:
                raise Stop(UNKNOWN, f"{self.url}: {error}; REQUESTS_CA_BUNDLE names a private authority") from error
            except requests.exceptions.RequestException as error:
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() > until:
                raise Stop(UNKNOWN, f"{self.url} does not answer since {self._patience_seconds:.0f} s ({problem})")
            if not is_away:
                self._console.say(f"Airflow does not answer ({problem}); trying for {self._patience_seconds:.0f} s")
                is_away = True
            time.sleep(min(2.0, self._patience_seconds / 5))


def detail(answer: Any) -> str:
    """The server's reason."""
    return str(answer.get("detail", answer) if isinstance(answer, dict) else answer)[:2000]


# --- the attestation


def attestation(arguments: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """What the pipeline attests of the commit: the file's gates and people, completed by the CI system's variables."""
    try:
        given = json.loads(Path(arguments.attestation).read_text())
    except (OSError, ValueError) as error:
        raise Stop(NOT_STARTED, f"--attestation {arguments.attestation}: {error}") from error
    known = {"gates", "author", "committer", "requested_by", "reviewers"}
    if not isinstance(given, dict) or not isinstance(given.get("gates"), dict) or set(given) - known:
        raise Stop(NOT_STARTED, f"{arguments.attestation}: expected an object of {', '.join(sorted(known))}")
    for name, gate in given["gates"].items():
        if name not in GATES or not is_result(gate):
            raise Stop(
                NOT_STARTED,
                f"{arguments.attestation}: gate {name} is {gate}: gates are {', '.join(GATES)}; expected a verdict "
                f"({', '.join(VERDICTS)}), and a detail and an http(s) url of at most 1,000 characters",
            )
    author, committer = people_of(arguments.sha)
    people = {
        "author": given.get("author") or author,
        "committer": given.get("committer") or committer,
        "requested_by": given.get("requested_by") or arguments.requested_by,
        "reviewers": given.get("reviewers") or [],
    }
    if not people["author"]:
        raise Stop(NOT_STARTED, f'git knows no commit {arguments.sha} here: check it out, or give "author" in the file')
    reviewers = people["reviewers"]
    names = [name for name in (people["author"], people["committer"], people["requested_by"]) if name]
    if not isinstance(reviewers, list) or not all(isinstance(name, str) and name for name in [*names, *reviewers]):
        raise Stop(NOT_STARTED, f"{arguments.attestation}: people are text, reviewers a list of it: {people}")
    return people | {
        "format": 1,
        "sha": arguments.sha,
        "version": arguments.version or "",
        "issued_at": now.isoformat(),
        "expires_at": (now + timedelta(seconds=arguments.expires_in)).isoformat(),
        "pipeline": {"id": arguments.pipeline_id, "url": arguments.pipeline_url},
        "gates": {name: {**gate, "url": gate.get("url") or None} for name, gate in given["gates"].items()},
    }


def is_result(gate: Any) -> bool:
    """Whether Airflow's side will take this as the result of a gate."""
    if not isinstance(gate, dict) or gate.get("verdict") not in VERDICTS or set(gate) - {"verdict", "detail", "url"}:
        return False
    detail, url = gate.get("detail", ""), gate.get("url") or "https://none"
    is_text = isinstance(detail, str) and isinstance(url, str) and max(len(detail), len(url)) <= 1000
    return is_text and re.fullmatch(r"https?://\S+", url) is not None


def people_of(sha: str) -> tuple[str | None, str | None]:
    """Author and committer of a commit, as git in this directory tells it."""
    try:
        done = subprocess.run(
            ["git", "show", "--no-patch", "--format=%ae%n%ce", f"{sha}^{{commit}}"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None, None
    # GitHub's private addresses: 12345+login@users.noreply.github.com
    names = [re.sub(r"^\d+\+(.+)@users\.noreply\.github\.com$", r"\1", line) for line in done.stdout.splitlines()]
    return (names[0], names[1]) if done.returncode == 0 and len(names) == 2 else (None, None)


def sign(attested: dict[str, Any], key: str) -> bytes:
    """The document as Airflow's side verifies it (docs/gates.md): HMAC-SHA-256 over the payload's bytes."""
    if len(key.encode()) < 32:
        raise Stop(NOT_STARTED, "SEBENZA_ATTESTATION_KEY is missing or has fewer than 32 bytes")
    payload = json.dumps(attested, sort_keys=True, separators=(",", ":")).encode()
    signature = hmac.new(key.encode(), payload, hashlib.sha256).hexdigest()
    envelope = {"algorithm": "hmac-sha256", "payload": base64.b64encode(payload).decode(), "signature": signature}
    return json.dumps(envelope, indent=1).encode()


def upload(arguments: argparse.Namespace, document: bytes) -> str:
    """Store the signed attestation beside the artifact; returns its key."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    key = f"{arguments.prefix.strip('/')}/releases/{arguments.sha}/attestation.json".lstrip("/")
    config = Config(
        # Several S3-compatible servers do not take newer boto's checksums (boto3 issue 4398).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if arguments.storage_endpoint else "auto"},
    )
    try:
        client = boto3.client(
            "s3", endpoint_url=arguments.storage_endpoint or None, region_name=arguments.region, config=config
        )
        client.put_object(Bucket=arguments.bucket, Key=key, Body=document, ContentType="application/json")
    except (BotoCoreError, ClientError, ValueError) as error:
        raise Stop(NOT_STARTED, f"the attestation could not be stored as {arguments.bucket}/{key}: {error}") from error
    return key


# --- the run


class Run:
    """The run of this pipeline and commit."""

    def __init__(self, airflow: Airflow, console: Console, dag_id: str, run_id: str) -> None:
        self._airflow, self._console = airflow, console
        self.dag_id, self.run_id = dag_id, run_id
        self._path = f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
        self.url = f"{airflow.url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
        self._seen: dict[str, tuple[str | None, int]] = {}

    def begin(self, conf: dict[str, Any], note: str, prepare: Any) -> None:
        """Start the run, or find it; `prepare` is called before a start."""
        dag = f"/dags/{quote(self.dag_id, safe='')}"
        status, procedure = self._airflow.ask("GET", f"{dag}/details")
        if status != 200:
            raise Stop(NOT_STARTED, f"there is no {self.dag_id}, or this user may not start it: {detail(procedure)}")
        # Airflow takes an unknown key in silence, and queues the run of a paused procedure for ever.
        if unknown := set(conf) - set(procedure.get("params") or {}):
            raise Stop(NOT_STARTED, f"{self.dag_id} has no parameter {sorted(unknown)}: {sorted(procedure['params'])}")
        status, found = self._airflow.ask("GET", self._path)
        if status == 404:
            if procedure["is_paused"]:
                raise Stop(NOT_STARTED, f"{self.dag_id} is paused: switch it on in Airflow first")
            prepare()
            body = {"dag_run_id": self.run_id, "logical_date": None, "conf": conf, "note": note}
            status, found = self._airflow.ask("POST", f"{dag}/dagRuns", body)
            if status in (200, 201):
                self._console.say(f"{self.dag_id}: started as {self.run_id}")
                self._console.say(f"  {self.url}")
                return
            if status == 409:
                # The answer to an earlier try of this request was lost.
                status, found = self._airflow.ask("GET", self._path)
        if status != 200:
            raise Stop(NOT_STARTED, f"{self.dag_id} was not started (HTTP {status}): {detail(found)}")
        if found["conf"] != conf:
            raise Stop(NOT_STARTED, f"this pipeline has started {self.run_id} with {found['conf']}, not with {conf}")
        self._console.say(f"{self.dag_id}: this pipeline has started {self.run_id} before, it is followed")
        self._console.say(f"  {self.url}")

    def follow(self, poll_seconds: float, timeout_seconds: float) -> str:
        """Show tasks as they change until the run has ended; returns its state."""
        until = time.monotonic() + timeout_seconds
        while True:
            status, run = self._airflow.ask("GET", self._path)
            if status != 200:
                raise Stop(UNKNOWN, f"{self.run_id} can't be read any more (HTTP {status}): {detail(run)}")
            waiting = self._show(self._tasks())
            if run["state"] in ("success", "failed"):
                return str(run["state"])
            if time.monotonic() > until:
                raise Stop(UNKNOWN, f"the run is {run['state']} after {timeout_seconds:.0f} s; it goes on: {self.url}")
            if self._console.silent_seconds > SILENCE_SECONDS:
                self._console.say(f"  still {waiting or run['state']}")
            time.sleep(poll_seconds)

    def conclude(self, state: str) -> int:
        """Show the outcome and where the evidence is; returns the exit code."""
        told = self._outcome()
        _, answer = self._airflow.ask("GET", f"{self._path}/hitlDetails")
        questions = answer.get("hitl_details", []) if isinstance(answer, dict) else []
        code = outcome(state, questions)
        for task in self._tasks():
            if task["state"] == "failed" and not told.get("why"):
                self._console.say(f"  {label(task)} has failed:")
                self._console.say("\n".join(f"    | {line}" for line in self._reason(task)) or "    (no log)")
        if told:
            self._console.say(f"  {told['title']}: {told['sentence']}")
            for word, lines in (("plan", told["plan"]), ("why", told["why"]), ("to do", told["to_do"])):
                for line in lines:
                    self._console.say(f"  {word}: {line}")
            if told["state_now"]:
                self._console.say(f"  now: {told['state_now']}")
        for question in questions:
            if question.get("chosen_options"):
                by = (question.get("responded_by_user") or {}).get("name", "somebody")
                self._console.say(f"  {by} has answered {question['chosen_options'][0]!r}: {question['subject']}")
        words = {SUCCESS: "has succeeded", FAILURE: "HAS FAILED", REJECTED: "was REJECTED, nothing was deployed"}
        self._console.say(f"{self.dag_id} {words[code]}")
        path = told.get("evidence")
        self._console.say(f"  evidence: {f'{self._airflow.url}{path}' if path else f'{self.url}/plugin/evidence'}")
        return code

    def _outcome(self) -> dict[str, Any]:
        """What the run says of itself; empty when it can't be asked."""
        run = f"{quote(self.dag_id, safe='')}/{quote(self.run_id, safe='')}"
        give_up_at = time.monotonic() + TOLD_SECONDS
        while True:
            try:
                status, answer = self._airflow.ask("GET", f"/sebenza/outcome/{run}")
            except Stop as stop:
                # The run has ended: its state says how, whatever becomes of the words.
                self._console.say(f"  its words can't be read: {stop}")
                return {}
            if status != 200 or not isinstance(answer, dict):
                return {}
            if answer["is_told"] or answer["state"] == "success" or time.monotonic() > give_up_at:
                return dict(answer)
            time.sleep(0.5)

    def _tasks(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while True:
            status, page = self._airflow.ask("GET", f"{self._path}/taskInstances?limit=100&offset={len(rows)}")
            if status != 200:
                raise Stop(UNKNOWN, f"the tasks of {self.run_id} can't be read (HTTP {status}): {detail(page)}")
            rows += page["task_instances"]
            if not page["task_instances"] or len(rows) >= page["total_entries"]:
                return sorted(rows, key=lambda row: row.get("start_date") or "~")

    def _show(self, tasks: list[dict[str, Any]]) -> str:
        """Print what has changed; returns what the run is at."""
        for task in tasks:
            state, tries = task["state"], task["try_number"]
            if self._seen.get(label(task)) == (state, tries):
                continue
            self._seen[label(task)] = (state, tries)
            if state == "awaiting_input":
                page = f"{self.url}/tasks/{quote(task['task_id'], safe='')}/required_actions"
                self._console.say(f"  {label(task)}: WAITS FOR A DECISION, answer here: {page}")
            elif state not in QUIET_STATES:
                again = f" (try {tries})" if tries > 1 else ""
                self._console.say(f"  {label(task)}: {state}{again}")
        active = [task for task in tasks if task["state"] in ("running", "deferred", "awaiting_input")]
        return ", ".join(f"{label(task)} ({task['state']})" for task in active)

    def _reason(self, task: dict[str, Any]) -> list[str]:
        path = f"{self._path}/taskInstances/{quote(task['task_id'], safe='')}/logs/{max(task['try_number'], 1)}"
        status, answer = self._airflow.ask("GET", f"{path}?full_content=true&map_index={task['map_index']}")
        if status != 200:
            return []
        events = [line for line in answer["content"] if isinstance(line, dict) and line.get("event")]
        errors = [line for line in events if str(line.get("level", "")).lower() in ("error", "critical")] or events
        texts = []
        for line in errors[-LOG_LINES:]:
            texts += str(line["event"]).splitlines()
            texts += [str(one.get("exc_value")) for one in line.get("error_detail") or []]
        return texts[-2 * LOG_LINES :]


def label(task: dict[str, Any]) -> str:
    """The task's id, and which one of a mapped task."""
    return str(task["task_id"]) if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]"


def outcome(state: str, questions: list[dict[str, Any]]) -> int:
    """The exit code of a run that has ended, from its state and from what people have answered."""
    if state == "success":
        return SUCCESS
    return REJECTED if any(question.get("chosen_options") == ["Reject"] for question in questions) else FAILURE


# --- the command line


class Parser(argparse.ArgumentParser):
    """Bad usage has an exit code of its own; argparse's would be that of a rejection. Empty variables are unset."""

    def setting(self, flag: str, *variables: str, default: str | None = None, help: str, **options: Any) -> None:
        """A flag that environment variables set too; the first one that is not empty counts."""
        value = next((os.environ[name] for name in variables if os.environ.get(name)), default)
        shown = f"{help} [{', '.join(variables)}]" + (f" (default: {default})" if default else "")
        self.add_argument(flag, default=value, help=shown, **options)

    def error(self, message: str) -> NoReturn:
        """End with the code for bad usage."""
        self.exit(NOT_STARTED, f"deploy.py: {message}; see deploy.py --help\n")


def github(path: str) -> str | None:
    """A page of this GitHub repository; None elsewhere."""
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server}/{repository}/{path}" if server and repository else None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read flags and variables, and check them before anything is sent."""
    parser = Parser(
        prog="deploy.py",
        description=(__doc__ or "").strip(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.setting
    add("--environment", "SEBENZA_ENVIRONMENT", help="where to: production, staging, ...")
    add("--strategy", "SEBENZA_STRATEGY", default="blue_green", help="blue_green or standard")
    add("--sha", "SEBENZA_SHA", "CI_COMMIT_SHA", "GITHUB_SHA", help="the commit: 40 digits; exactly this is deployed")
    add("--version", "SEBENZA_VERSION", "CI_COMMIT_TAG", help="its tag, shown to people")
    add("--conf", "SEBENZA_CONF", default="{}", help="further parameters of the procedure: a JSON object")
    add("--airflow-url", "SEBENZA_AIRFLOW_URL", help="base address of Airflow")
    add("--airflow-user", "SEBENZA_AIRFLOW_USER", default="ci", help="Airflow user of the pipeline")
    add("--pipeline-id", "SEBENZA_PIPELINE_ID", "CI_PIPELINE_ID", "GITHUB_RUN_ID", help="the same for a retry")
    add("--pipeline-url", "SEBENZA_PIPELINE_URL", "CI_PIPELINE_URL", help="its page; GitHub's is known")
    requester = ("SEBENZA_REQUESTED_BY", "GITLAB_USER_LOGIN", "GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR")
    add("--requested-by", *requester, help="the person who has started the pipeline")
    add("--attestation", "SEBENZA_ATTESTATION", metavar="FILE.json", help="results of the gates, to sign and upload")
    add("--expires-in", "SEBENZA_EXPIRES_IN", default="86400", type=float, help="seconds that the attestation counts")
    add("--storage-endpoint", "SEBENZA_STORAGE_ENDPOINT", help="object storage that is not Amazon's: its address")
    add("--bucket", "SEBENZA_STORAGE_BUCKET", default="sebenza", help="as in Airflow's build.yaml")
    add("--prefix", "SEBENZA_STORAGE_PREFIX", default="", help="as in Airflow's build.yaml")
    add("--region", "AWS_REGION", "AWS_DEFAULT_REGION", default="us-east-1", help="of the bucket")
    add("--poll", "SEBENZA_POLL", default="5", type=float, help="seconds between two looks at the run")
    add("--patience", "SEBENZA_PATIENCE", default="300", type=float, help="seconds that Airflow may be away")
    add("--timeout", "SEBENZA_TIMEOUT", default="28800", type=float, help="seconds after which to stop following")
    arguments = parser.parse_args(argv)
    if not arguments.pipeline_url and os.environ.get("GITHUB_RUN_ID"):
        arguments.pipeline_url = github(f"actions/runs/{os.environ['GITHUB_RUN_ID']}")
    if not arguments.version and os.environ.get("GITHUB_REF_TYPE") == "tag":
        arguments.version = os.environ.get("GITHUB_REF_NAME")
    patterns = {
        "environment": r"[a-z][a-z0-9_-]*",
        "strategy": r"blue_green|standard",
        "sha": r"[0-9a-f]{40}",
        "airflow_url": r"https?://[^\s@?#]+",
        "pipeline_id": r"[A-Za-z0-9._-]{1,100}",
    }
    for name, pattern in patterns.items():
        if not re.fullmatch(pattern, getattr(arguments, name) or ""):
            parser.error(f"--{name.replace('_', '-')} is {getattr(arguments, name)!r}, expected {pattern}")
    if not os.environ.get("SEBENZA_AIRFLOW_PASSWORD"):
        parser.error("the variable SEBENZA_AIRFLOW_PASSWORD is not set")
    try:
        arguments.conf = dict(json.loads(arguments.conf))
    except (ValueError, TypeError):
        parser.error(f"--conf is {arguments.conf!r}, expected a JSON object")
    # By its commit: a tag may have moved since the pipeline has tested it.
    if arguments.conf.setdefault("version", arguments.sha) != arguments.sha:
        parser.error('--conf has a "version": the commit is given by --sha')
    return arguments


def deploy(arguments: argparse.Namespace, console: Console) -> int:
    """Attest, start or find the run, follow it; returns the exit code."""
    key, password = os.environ.get("SEBENZA_ATTESTATION_KEY", "").strip(), os.environ["SEBENZA_AIRFLOW_PASSWORD"]
    console.hide(password, key, os.environ.get("AWS_SECRET_ACCESS_KEY"), os.environ.get("AWS_SESSION_TOKEN"))
    address = urlsplit(arguments.airflow_url)
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        console.say(f"WARNING: {arguments.airflow_url} is not https: the password can be read on its way")

    def attest() -> None:
        if not arguments.attestation:
            console.say("no --attestation: gates that only the pipeline knows will have no data")
            return
        where = upload(arguments, sign(attestation(arguments, datetime.now(UTC)), key))
        console.say(f"attested {arguments.sha[:12]}: {where}")

    airflow = Airflow(arguments.airflow_url, arguments.airflow_user, password, arguments.patience, console)
    dag_id = f"deploy_{arguments.strategy}.{arguments.environment}"
    run = Run(airflow, console, dag_id, f"ci__{arguments.pipeline_id}__{arguments.sha[:12]}")
    note = f"{arguments.version or arguments.sha[:12]} by pipeline {arguments.pipeline_url or arguments.pipeline_id}"
    followed = f"; the same command follows {run.url}"

    def interrupted(number: int, _: Any) -> NoReturn:
        raise Stop(128 + number, f"interrupted; a run that was started goes on{followed}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    run.begin(arguments.conf, note, attest)
    return run.conclude(run.follow(arguments.poll, arguments.timeout))


def main(argv: list[str] | None = None) -> int:
    """The script; returns its exit code."""
    console = Console()
    try:
        return deploy(parse(argv), console)
    except Stop as stop:
        console.say(f"deploy.py: {stop}")
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
