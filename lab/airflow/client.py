"""A client of Airflow's REST API, for the command line, the demo, tests, benchmarks and chaos.

It outlives restarts of the API server: a refused connection or a 5xx answer to something that may be
repeated is tried again until ``patience_seconds`` are over.
https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from lab.waiting import Patience, say_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Json = dict[str, Any]
FINISHED_RUN = frozenset({"success", "failed"})
FINISHED_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
POLL_SECONDS = 0.5
# Between two looks at a run's tasks while its end is awaited.
LOOK_SECONDS = 5.0


class AirflowApiError(RuntimeError):
    """Airflow refused a request or can't be reached.

    Args:
        message: what was asked, what came back, what to do.
        status: the HTTP status; None when no answer came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowRefusedError(AirflowApiError):
    """The request is bad: unknown DAG, invalid conf, missing right (HTTP 4xx)."""


class AwaitTimeoutError(TimeoutError):
    """A state did not come in time; the message says what the state was."""


@dataclass(frozen=True)
class TaskInstance:
    """State of one task of a run (of one of its mapped instances). `id` is new with every try."""

    id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    start_date: datetime | None
    end_date: datetime | None
    hostname: str | None
    pid: int | None

    @classmethod
    def parse(cls, row: Json) -> Self:
        """Build from an API answer."""
        return cls(
            id=row["id"],
            task_id=row["task_id"],
            map_index=row.get("map_index", -1),
            state=row.get("state"),
            try_number=row.get("try_number", 0),
            start_date=_time(row.get("start_date")),
            end_date=_time(row.get("end_date")),
            hostname=row.get("hostname"),
            pid=row.get("pid"),
        )

    @property
    def label(self) -> str:
        """``task_id`` or ``task_id[map_index]``."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowClient:
    """One user's view of one Airflow.

    Args:
        url: base URL, for example ``http://127.0.0.1:8080``.
        username: who asks.
        password: their password.
        patience_seconds: how long to keep trying while the API server is away.
    """

    def __init__(self, url: str, username: str, password: str, *, patience_seconds: float = 60) -> None:
        self.url = url.rstrip("/")
        self.username = username
        self._password = password
        self._patience_seconds = patience_seconds
        self._token: str | None = None
        # No proxy and no .netrc from the environment: this talks to one known server.
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- requests

    def token(self) -> str:
        """A token of this user, asked for once."""
        if self._token is None:
            response = self._send("POST", "/auth/token", json=self._credentials(), repeatable=True)
            self._token = str(response.json()["access_token"])
        return self._token

    def _credentials(self) -> Json:
        return {"username": self.username, "password": self._password}

    def request(self, method: str, path: str, *, repeatable: bool | None = None, **options: Any) -> Any:
        """Send a request to ``/api/v2`` (or any absolute path) and return the decoded JSON, or text.

        Args:
            method: HTTP method.
            path: below ``/api/v2``, or absolute when it starts with ``/api``, ``/auth`` or ``/sebenza``.
            repeatable: whether trying again is harmless; default: all but POST.
            options: ``json`` and ``params`` of httpx.

        Raises:
            AirflowRefusedError: answered with 4xx.
            AirflowApiError: no useful answer within the patience.
        """
        full = path if path.startswith(("/api", "/auth", "/sebenza")) else f"/api/v2{path}"
        can_repeat = method != "POST" if repeatable is None else repeatable
        for attempt in (1, 2):
            headers = {"Authorization": f"Bearer {self.token()}", "Accept": "application/json"}
            try:
                response = self._send(method, full, repeatable=can_repeat, headers=headers, **options)
            except AirflowRefusedError as error:
                if error.status == httpx.codes.UNAUTHORIZED and attempt == 1:
                    self._token = None  # Expired, or the server was set up anew.
                    continue
                raise
            break
        if not response.content:
            return None
        return response.json() if "json" in response.headers.get("content-type", "") else response.text

    def _send(self, method: str, path: str, *, repeatable: bool, **options: Any) -> httpx.Response:
        patience = Patience(f"{method} {path}", self._patience_seconds, say=_nothing)
        while True:
            problem, may_repeat = "", repeatable
            try:
                response = self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                problem, may_repeat = f"nothing answers ({error})", True  # Never reached the server.
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                problem = f"HTTP {response.status_code}: {_detail(response)}"
                if response.is_client_error:
                    raise AirflowRefusedError(f"{method} {path} as {self.username}: {problem}", response.status_code)
                # SQLite was busy for too long: the server has rolled back, nothing has happened.
                may_repeat = may_repeat or "'Database error'" in problem
            if not may_repeat or patience.is_over():
                raise AirflowApiError(
                    f"{method} {self.url}{path}: {problem}; `python -m lab.airflow status` tells whether Airflow runs"
                )
            time.sleep(POLL_SECONDS)

    # --- DAGs and runs

    def dags(self, tags: Iterable[str] = ()) -> list[Json]:
        """All active DAGs that this user may see, optionally those with any of the tags."""
        return self._pages("/dags", "dags", {"tags": list(tags)} if tags else {})

    def dag_details(self, dag_id: str) -> Json:
        """One DAG with its parameters (``params``: name → value, description, schema), ``is_paused`` …"""
        answer: Json = self.request("GET", f"/dags/{_q(dag_id)}/details")
        return answer

    def parse_again(self, dag_id: str) -> None:
        """Have the DAG's file read again now, rather than at its next turn."""
        self.request("PUT", f"/parseDagFile/{_q(self.dag_details(dag_id)['file_token'])}")

    def task_ids(self, dag_id: str) -> set[str]:
        """The tasks of a DAG as Airflow knows it now."""
        return {task["task_id"] for task in self.request("GET", f"/dags/{_q(dag_id)}/tasks")["tasks"]}

    def import_errors(self) -> list[Json]:
        """DAG files that can't be imported: ``filename`` and ``stack_trace``."""
        return self._pages("/importErrors", "import_errors", {})

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause or unpause a DAG."""
        self.request("PATCH", f"/dags/{_q(dag_id)}", json={"is_paused": paused})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None, note: str | None = None
    ) -> str:
        """Start a run and return its id.

        Raises:
            AirflowRefusedError: unknown DAG, conf against the schema, or no right to do so.
        """
        # A chosen id makes repeating harmless: a second request with it is answered with 409.
        chosen = run_id or f"{self.username}__{datetime.now(UTC):%Y-%m-%dT%H.%M.%S.%f}"
        body = {"dag_run_id": chosen, "logical_date": None, "conf": dict(conf or {}), "note": note}
        try:
            self.request("POST", f"/dags/{_q(dag_id)}/dagRuns", json=body, repeatable=run_id is None)
        except AirflowRefusedError as error:
            if error.status != httpx.codes.CONFLICT or run_id is not None:
                raise
        return chosen

    def dag_run(self, dag_id: str, run_id: str) -> Json:
        """The run as the API shows it: ``state``, ``start_date``, ``conf`` …"""
        answer: Json = self.request("GET", _run(dag_id, run_id))
        return answer

    def run_outcome(self, dag_id: str, run_id: str) -> Json:
        """How a run has ended, in words (``sebenza_ops.console.outcome.RunOutcome``)."""
        answer: Json = self.request("GET", f"/sebenza/outcome/{_q(dag_id)}/{_q(run_id)}")
        return answer

    def dag_runs(self, dag_id: str, *, limit: int = 20) -> list[Json]:
        """The newest runs of a DAG, newest first."""
        answer = self.request("GET", f"/dags/{_q(dag_id)}/dagRuns", params={"order_by": "-run_after", "limit": limit})
        return list(answer["dag_runs"])

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Where the UI shows the run."""
        return f"{self.url}/dags/{_q(dag_id)}/runs/{_q(run_id)}"

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a run's state by hand (``failed``, ``success`` or ``queued``), as the UI's buttons do."""
        self.request("PATCH", _run(dag_id, run_id), json={"state": state})

    def mark_failed(
        self, dag_id: str, run_id: str, task_id: str | None = None, *, map_index: int | None = None
    ) -> None:
        """Mark a run, or one of its tasks, failed by hand."""
        if task_id is None:
            self.mark_run(dag_id, run_id, "failed")
            return
        path = f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}"
        suffix = "" if map_index is None else f"/{map_index}"
        self.request("PATCH", path + suffix, json={"new_state": "failed"})

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Iterable[str] | None = None,
        *,
        only_failed: bool = False,
        include_downstream: bool = True,
    ) -> list[str]:
        """Clear tasks of a run (all when none is named) so that they run again; returns the cleared task ids."""
        body: Json = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": only_failed,
            "include_downstream": include_downstream,
            "reset_dag_runs": True,
        }
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        answer = self.request("POST", f"/dags/{_q(dag_id)}/clearTaskInstances", json=body)
        return [row["task_id"] for row in answer["task_instances"]]

    # --- tasks

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """All task instances of a run."""
        rows = self._pages(f"{_run(dag_id, run_id)}/taskInstances", "task_instances", {})
        return [TaskInstance.parse(row) for row in rows]

    def task_instance(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> TaskInstance:
        """One task instance."""
        suffix = "" if map_index < 0 else f"/{map_index}"
        row = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}{suffix}")
        return TaskInstance.parse(row)

    def logs(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int | None = None, map_index: int = -1
    ) -> list[Json]:
        """Log of one try (default: the last) as structured lines: ``timestamp``, ``level``, ``event`` …"""
        number = try_number or max(self.task_instance(dag_id, run_id, task_id, map_index=map_index).try_number, 1)
        path = f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/logs/{number}"
        answer = self.request("GET", path, params={"map_index": map_index, "full_content": True})
        content = answer["content"] if isinstance(answer, dict) else [{"event": answer}]
        return [line if isinstance(line, dict) else {"event": str(line)} for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        """An XCom value, decoded.

        Raises:
            AirflowRefusedError: there is none (status 404).
        """
        path = f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/xcomEntries/{_q(key)}"
        answer = self.request("GET", path, params={"map_index": map_index, "deserialize": False})
        return answer["value"]

    def hitl_details(self, dag_id: str, run_id: str, task_id: str) -> Json:
        """The question of a human-in-the-loop task and, when there is one, its answer."""
        answer: Json = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/-1/hitlDetails")
        return answer

    def answer(
        self, dag_id: str, run_id: str, task_id: str, options: Iterable[str], params: Mapping[str, Any] | None = None
    ) -> Json:
        """Answer a human-in-the-loop task as this user."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/-1/hitlDetails"
        body = {"chosen_options": list(options), "params_input": dict(params or {})}
        answer: Json = self.request("PATCH", path, json=body, repeatable=False)
        return answer

    # --- waiting

    def await_state(
        self,
        dag_id: str,
        run_id: str,
        states: Iterable[str] = FINISHED_RUN,
        *,
        task_id: str | None = None,
        timeout_seconds: float = 300,
        on_change: Callable[[list[TaskInstance]], None] | None = None,
    ) -> str:
        """Wait until a run (or one of its tasks) is in one of the states, and return it.

        Args:
            dag_id: the DAG.
            run_id: the run.
            states: the awaited states.
            task_id: wait for this task instead of the run.
            timeout_seconds: give up after that long without a change of any task, by this machine's measure.
            on_change: called with the task instances whose state changed since the last look.

        Raises:
            AwaitTimeoutError: with the last state seen; at once when the run ended and the awaited state can't come.
        """
        wanted = frozenset(states)
        what = f"task {task_id} of {dag_id} run {run_id}" if task_id else f"{dag_id} run {run_id}"
        patience = Patience(
            f"{what} is {' or '.join(sorted(wanted))}",
            timeout_seconds,
            progress=lambda: self.work_done(dag_id, run_id),
            look_seconds=LOOK_SECONDS,
            # Who is told of changes knows what is awaited.
            say=_nothing if on_change else say_waiting,
        )
        seen: dict[str, tuple[str | None, int]] = {}
        while True:
            is_over = patience.is_over()
            run_state = str(self.dag_run(dag_id, run_id)["state"])
            tasks = self.task_instances(dag_id, run_id) if task_id or on_change else []
            if on_change and (changed := _changed(tasks, seen)):
                on_change(changed)
            state = _state_of(tasks, task_id) if task_id else run_state
            if state in wanted:
                return str(state)
            has_ended = run_state in FINISHED_RUN
            if has_ended or is_over:
                why = f"the run has ended as {run_state}" if has_ended else patience.told()
                raise AwaitTimeoutError(f"{what}: state is {state}, awaited {sorted(wanted)}; {why}")
            time.sleep(POLL_SECONDS)

    def work_done(self, dag_id: str, run_id: str) -> str:
        """What of a run has been done and is being done; changes with each task that begins, ends, is tried again."""
        return _work_done(self.task_instances(dag_id, run_id))

    def healthy(self) -> Json:
        """State of each component as Airflow sees it (``/monitor/health``); raises when there is no answer."""
        answer: Json = self._send("GET", "/api/v2/monitor/health", repeatable=True).json()
        return answer

    def _pages(self, path: str, key: str, params: Json) -> list[Json]:
        rows: list[Json] = []
        while True:
            answer = self.request("GET", path, params={**params, "limit": 100, "offset": len(rows)})
            rows += answer[key]
            if len(rows) >= answer["total_entries"] or not answer[key]:
                return rows


def _q(part: str) -> str:
    return quote(part, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{_q(dag_id)}/dagRuns/{_q(run_id)}"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _state_of(tasks: list[TaskInstance], task_id: str) -> str | None:
    """The state of a task; of a mapped one the state that all its instances share, else None."""
    states = {task.state for task in tasks if task.task_id == task_id}
    return states.pop() if len(states) == 1 else None


def _changed(tasks: list[TaskInstance], seen: dict[str, tuple[str | None, int]]) -> list[TaskInstance]:
    changed = [task for task in tasks if seen.get(task.label) != (task.state, task.try_number)]
    seen.update({task.label: (task.state, task.try_number) for task in changed})
    return changed


def _work_done(tasks: list[TaskInstance]) -> str:
    ended = [task.label for task in tasks if task.state in FINISHED_TASK]
    rest = sorted(
        f"{task.label} {task.state} (try {task.try_number})"
        for task in tasks
        if task.state not in {None, *FINISHED_TASK}
    )
    return f"{len(ended)} of {len(tasks)} tasks have ended, {', '.join(rest) or 'none is at work'}"


def _nothing(_: str) -> None: ...


def _detail(response: httpx.Response) -> str:
    """The server's reason, short enough for a line."""
    try:
        detail = response.json().get("detail", response.text)
    except (ValueError, AttributeError):
        detail = response.text
    return str(detail)[:2000]
